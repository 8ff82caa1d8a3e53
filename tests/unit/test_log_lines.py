"""Snakemake's handlers show what they would have shown, and it is put into words once."""

from __future__ import annotations

import io
import itertools
import logging
import threading
from collections import Counter
from typing import Any

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_executor_gpupool.frontends.snakemake.log_lines import word_once


class Logged:
    """A logger with handlers as Snakemake makes them."""

    def __init__(self, *quiet: set[Quietness], show_failed: tuple[bool, ...] = ()) -> None:
        self.logger = logging.Logger("of-a-test")
        self.streams = [io.StringIO() for _ in quiet]
        for stream, level, show in itertools.zip_longest(self.streams, quiet, show_failed):
            handler = logging.StreamHandler(stream)
            handler.setFormatter(DefaultFormatter(level, bool(show)))
            handler.addFilter(DefaultFilter(level, False, False, False, False))
            self.logger.addHandler(handler)

    def say(self) -> list[str]:
        """Log some of what Snakemake logs; return what each handler shows."""
        self.logger.info("a line")
        self.logger.info("cp a b", extra={"event": LogEvent.SHELLCMD})
        progress = {"event": LogEvent.PROGRESS, "done": 3, "total": 7}
        self.logger.info("3 of 7", extra=progress)
        self.logger.info("only some", extra={"quietness": Quietness.HOST})
        self.logger.error("bad")
        return [stream.getvalue() for stream in self.streams]


@pytest.fixture
def worded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often something is put into words, or filtered."""
    counts: Counter[str] = Counter()
    for kind, method in ((DefaultFormatter, "format"), (DefaultFilter, "filter")):
        usual: Any = getattr(kind, method)

        def counting(self: Any, record: Any, usual: Any = usual, method: str = method) -> Any:
            counts[method] += 1
            return usual(self, record)

        monkeypatch.setattr(kind, method, counting)
    return counts


def test_handlers_that_are_alike_share_it(worded: Counter[str]) -> None:
    plain = Logged(set(), set()).say()
    assert worded == {"format": 8, "filter": 10} and plain[0] == plain[1] and "3 of 7" in plain[0]
    worded.clear()
    logged = Logged(set(), set())
    word_once(logged.logger)
    word_once(logged.logger)
    assert logged.say() == plain and worded == {"format": 4, "filter": 5}


@pytest.mark.parametrize(
    "quiet",
    [
        ({Quietness.PROGRESS}, set()),
        (set(), {Quietness.ALL}, set()),
        ({Quietness.HOST}, {Quietness.HOST}, {Quietness.PROGRESS}, {Quietness.PROGRESS}),
        (set(),),
        (),
    ],
)
def test_each_handler_shows_what_its_own_settings_say(quiet: tuple[set[Quietness], ...]) -> None:
    logged = Logged(*quiet)
    word_once(logged.logger)
    assert logged.say() == Logged(*quiet).say()


def test_formatters_with_other_settings_are_left_alone(worded: Counter[str]) -> None:
    logged = Logged(set(), set(), show_failed=(True, False))
    word_once(logged.logger)
    logged.say()
    assert worded == {"format": 8, "filter": 5}


def test_formatters_of_others_are_left_alone() -> None:
    logged = Logged(set(), set())
    for handler in logged.logger.handlers:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    word_once(logged.logger)
    assert logged.say()[0].startswith("INFO a line\n")
    word_once(object())


def test_threads_that_log_at_once_get_each_its_own_lines() -> None:
    logged = Logged(set(), set())
    word_once(logged.logger)

    def log(name: int) -> None:
        for number in range(300):
            logged.logger.info(f"{name}-{number}")

    threads = [threading.Thread(target=log, args=[name]) for name in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    expected = sorted(f"{name}-{number}" for name in range(4) for number in range(300))
    for stream in logged.streams:
        assert sorted(stream.getvalue().split()) == expected


class Terminal(io.StringIO):
    """Counts how often it is written to."""

    def __init__(self, *, breaks: bool = False) -> None:
        super().__init__()
        self.writes, self.breaks = 0, breaks

    def write(self, text: str) -> int:
        self.writes += 1
        if self.breaks:
            raise BrokenPipeError
        return super().write(text)


def of_a_terminal(stream: Terminal) -> logging.Logger:
    """Return a logger with Snakemake's handler of the terminal."""
    logger = logging.Logger("of-a-test")
    handler = ColorizingTextHandler(nocolor=True, stream=stream)
    handler.setFormatter(DefaultFormatter())
    logger.addHandler(handler)
    return logger


def test_a_line_for_the_terminal_is_written_at_once() -> None:
    plain, whole = Terminal(), Terminal()
    loggers = of_a_terminal(plain), of_a_terminal(whole)
    word_once(loggers[1])
    word_once(loggers[1])
    for logger in loggers:
        logger.info("a line")
        logger.info("")
        logger.error("bad\nvery")
    assert plain.getvalue() == whole.getvalue() == "a line\nbad\nvery\n"
    assert (plain.writes, whole.writes) == (4, 2)


def test_a_terminal_that_is_gone_is_told_as_before() -> None:
    logger = of_a_terminal(Terminal(breaks=True))
    word_once(logger)
    with pytest.raises(BrokenPipeError):
        logger.info("a line")
