"""Ends a process and all that it has started once it has taken too long."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable

import psutil

#: How long processes may take to end by themselves once they are asked to.
GRACE_S = 10.0
#: Stands for the exit code of a process that was ended for its limit; no process has it.
LIMIT_CODE = -1_000
#: Stands for that of one that was ended since its machine was told to end.
LEFT_CODE = -1_001


class TimeLimit:
    """One process's limit, from now on; SIGTERM when it is reached, SIGKILL after a grace.

    The leader of the group is not asked: a shell would end before the commands that it waits for.

    Parameters
    ----------
    group
        The process, which leads a group of its own.
    limit_s
        None: it has no limit.
    grace_s
        Seconds between the two signals.
    others
        Returns further processes of its own, such as daemons that it has started.

    Attributes
    ----------
    is_reached
        Whether the process was ended for it.
    """

    def __init__(
        self,
        group: int,
        limit_s: float | None,
        grace_s: float = GRACE_S,
        others: Callable[[], Iterable[psutil.Process]] = list,
    ) -> None:
        self._group = group
        self._others = others
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self.is_reached = False
        if limit_s is not None:
            self._start(limit_s)

    def end_now(self) -> None:
        """Have the process end as if its limit were reached; returns at once."""
        self._start(0.0)

    def _start(self, limit_s: float) -> None:
        name = "gpupool-time-limit"
        threading.Thread(target=self._watch, args=(limit_s,), name=name, daemon=True).start()

    def over(self) -> None:
        """Note that the process has ended; called before its number may be another's."""
        with self._lock:
            self._is_over.set()

    def _watch(self, limit_s: float) -> None:
        if self._is_over.wait(min(limit_s, threading.TIMEOUT_MAX)):
            return
        self._signal(signal.SIGTERM)
        if not self._is_over.wait(self._grace_s):
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            if self._is_over.is_set():
                return
            self.is_reached = True
            others = (each for each in self._others() if each.pid != self._group)
            started = [*dict.fromkeys([*started_by(self._group), *others])]
            if number == signal.SIGKILL or not started:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._group, number)
            for process in started:
                with contextlib.suppress(psutil.Error, OSError):
                    process.send_signal(number)


def started_by(pid: int) -> list[psutil.Process]:
    """Return all processes that a process has started, directly or not, while it lives."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except (psutil.Error, OSError):
        return []
