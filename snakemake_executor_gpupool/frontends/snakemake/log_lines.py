"""What Snakemake logs is put into words once, and not once for the terminal and once for its file.

Both have a filter and a formatter of the same kind, with the same settings: of the processor time
that Snakemake takes for a small job that is a twelfth. A line for the terminal is written at once,
and not its end by itself: each call to the system hands Python's lock to whoever waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What something says of a log record, which several handlers ask for one after the other.

    Any thread may ask.
    """

    def __init__(self, usual: Callable[[logging.LogRecord], T]) -> None:
        self._usual = usual
        self._last: tuple[logging.LogRecord, T] | None = None

    def __call__(self, record: logging.LogRecord) -> T:
        """Return what it says, and forget what it said of the record before."""
        last = self._last
        if last is None or last[0] is not record:
            # Put in place at once: another thread may log meanwhile.
            self._last = last = record, self._usual(record)
        return last[1]


class Whole:
    """A text stream that is written to when it is flushed, which Snakemake does for each line.

    For one handler, which has a lock.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Keep a text until the next flush."""
        self._parts.append(text)
        return len(text)

    def flush(self) -> None:
        """Write all that was kept."""
        if self._parts:
            text = "".join(self._parts)
            self._parts.clear()
            self._stream.write(text)
        self._stream.flush()


def word_once(logger: Any) -> None:
    """Have the formatters and filters of Snakemake's handlers share what they say."""
    from snakemake import logging as of_snakemake

    handlers = list(getattr(logger, "handlers", ()))
    terminal = getattr(of_snakemake, "ColorizingTextHandler", None)
    for handler in handlers:
        if type(handler) is terminal and not isinstance(handler.stream, Whole):
            handler.stream = Whole(handler.stream)
    formatters = [handler.formatter for handler in handlers]
    filters = [each for handler in handlers for each in handler.filters]
    for kind, method, all_of_them in (
        ("DefaultFormatter", "format", formatters),
        ("DefaultFilter", "filter", filters),
    ):
        wanted = getattr(of_snakemake, kind, None)
        _share([each for each in all_of_them if type(each) is wanted], method)


def _share(alike: list[Any], method: str) -> None:
    """Have those of one kind that have the same settings share a method."""
    while len(alike) > 1:
        first, *others = alike
        same = [each for each in others if vars(each) == vars(first)]
        alike = [each for each in others if each not in same]
        if same and method not in vars(first):
            once = Once(getattr(first, method))
            for each in (first, *same):
                setattr(each, method, once)
