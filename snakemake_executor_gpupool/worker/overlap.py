"""What a process does beside the tool's own computing: the next batch comes in, the last one goes.

A device should not wait while items are unpacked, or results packed and sent. So a process that
holds a model receives on one thread and sends on another, while the tool runs on the main one::

    main       | run 1          | run 2          | run 3
    receiving  | unpack 2       | unpack 3       | ...
    sending                     | pack, send 1   | pack, send 2

Results are packed later only if nobody else can change them meanwhile: a tool may write each
batch's results into the same buffer. :func:`are_ours` decides that, by counting references.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Any, Callable

#: How long a thread may keep others from running Python code, in seconds: a tool that comes back
#: from its device need not wait for longer.
SWITCH_S = 0.001
#: So many objects of a batch's results are looked at; with more, they are packed at once.
MAX_OBJECTS = 10_000
#: Kinds that nobody can change.
_ATOMS = frozenset((str, bytes, int, float, bool, complex, type(None)))


class ReadAhead:
    """Receives on a thread of its own, and prepares what was received.

    Parameters
    ----------
    receive
        Returns the next message; None: there are no more.
    prepare
        What is done with each beforehand; it must not raise.
    """

    def __init__(self, receive: Callable[[], Any], prepare: Callable[[Any], Any]) -> None:
        self._receive, self._prepare = receive, prepare
        self._ready: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self.thread = threading.Thread(target=self._run, name="gpupool-receive", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        message: Any = True
        while message is not None:
            try:
                message = self._receive()
                self._ready.put((message, None if message is None else self._prepare(message)))
            except BaseException as error:  # raised where it would have been without a thread
                self._ready.put((error, None))
                return

    @property
    def is_empty(self) -> bool:
        """Whether no message has been received that :meth:`get` has not returned."""
        return self._ready.empty()

    def get(self) -> tuple[Any, Any]:
        """Return the next message, and what was prepared of it.

        Raises
        ------
        BaseException
            What receiving has raised.
        """
        message, prepared = self._ready.get()
        if isinstance(message, BaseException):
            raise message
        return message, prepared


class Later:
    """Does things on a thread of its own, one after the other; one that raises ends the process."""

    def __init__(self) -> None:
        self._acts: queue.Queue[Callable[[], None]] = queue.Queue()
        threading.Thread(target=self._run, name="gpupool-send", daemon=True).start()

    def _run(self) -> None:
        while True:
            act = self._acts.get()
            try:
                act()
            except BaseException:  # the coordinator is gone, or there is a bug
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            del act  # what it holds is no longer needed
            self._acts.task_done()

    def put(self, act: Callable[[], None]) -> None:
        """Have something done. Returns at once."""
        self._acts.put(act)

    @property
    def is_idle(self) -> bool:
        """Whether all of it is done."""
        return not self._acts.unfinished_tasks

    def settle(self) -> None:
        """Wait until all of it is done."""
        self._acts.join()


def are_ours(values: Iterable[Any]) -> bool:
    """Tell whether nobody but the caller can change any of these values, or what is in them.

    Every reference to each list, dict and array must come from the values themselves. The caller
    holds each value once, and nothing else of it.
    """
    return _Census(_OVERHEAD).is_closed(values)


class _Census:
    """Counts references to what can be changed."""

    def __init__(self, overhead: int) -> None:
        self._overhead = overhead
        #: By identity: an object, and how many references to it were found.
        self._found: dict[int, list[Any]] = {}

    def is_closed(self, values: Iterable[Any]) -> bool:
        if not self._count(values):
            return False
        for entry in self._found.values():
            if sys.getrefcount(entry[0]) - self._overhead != entry[1]:
                return False
        return True

    def _count(self, values: Iterable[Any]) -> bool:
        """Count; return whether all that was met is known, and not too much."""
        waiting, looked = [iter(values)], 0
        while waiting:
            for value in waiting[-1]:
                looked += 1
                if looked > MAX_OBJECTS:
                    return False
                if type(value) in _ATOMS or _is_fixed(value):
                    continue
                entry = self._found.get(id(value))
                if entry is not None:
                    entry[1] += 1
                    continue
                self._found[id(value)] = [value, 1]
                inner = _inside(value)
                if inner is None:
                    return False
                waiting.append(iter(inner))
                break
            else:
                waiting.pop()
        return True


def _is_fixed(value: Any) -> bool:
    """Tell whether an object cannot be changed, nor anything in it."""
    if type(value) is tuple:  # others may have it: constants of a function are one object
        return all(type(part) in _ATOMS for part in value)
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.number, numpy.bool_))


def _inside(value: Any) -> Iterable[Any] | None:
    """Return what an object refers to; None: that is not known."""
    kind = type(value)
    if kind in (list, tuple):
        return value  # type: ignore[no-any-return]
    if kind is dict:
        return [*value.keys(), *value.values()]
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray:
        if value.dtype.hasobject:
            return None
        # An array without a base owns its memory; others may have mapped or lent theirs.
        return () if value.flags.owndata else _base(value, numpy)
    return None


def _base(array: Any, numpy: Any) -> Iterable[Any] | None:
    return (array.base,) if type(array.base) is numpy.ndarray else None


def _measured_overhead() -> int:
    """Return how many references the count itself has to an object; differs with the Python."""
    census = _Census(0)
    census._count([[]])
    [entry] = census._found.values()
    return sys.getrefcount(entry[0])


_OVERHEAD = _measured_overhead()
