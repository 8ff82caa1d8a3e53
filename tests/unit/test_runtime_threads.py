"""The threads around the loop: what goes in, what goes out, what is asked (S10)."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

import pytest

from snakemake_executor_gpupool.errors import PoolEnded
from snakemake_executor_gpupool.runtime.inbox import Inbox
from snakemake_executor_gpupool.runtime.reporter import Reporter
from tests.waiting import PATIENCE_S

# -- in ------------------------------------------------------------------------------------------


def test_what_is_posted_is_taken_in_order_and_wakes_the_loop() -> None:
    wakes: list[int] = []
    inbox = Inbox(lambda: wakes.append(1))
    done: list[tuple[str, float]] = []
    inbox.post(lambda now_s: done.append(("a", now_s)))
    inbox.post(lambda now_s: done.append(("b", now_s)))
    for act in inbox.take():
        act(3.0)
    assert done == [("a", 3.0), ("b", 3.0)] and len(wakes) == 2
    assert list(inbox.take()) == []


def test_a_closed_inbox_refuses_with_the_first_reason() -> None:
    inbox = Inbox(lambda: None)
    inbox.close("the pool has failed: a cause")
    inbox.close("the pool is closed")
    with pytest.raises(PoolEnded, match="the pool has failed: a cause"):
        inbox.post(lambda now_s: None)
    inbox.post_if_open(lambda now_s: None)  # says nothing
    assert list(inbox.take()) == []


def test_a_question_is_answered_by_the_loop_and_by_the_asker_after_its_end() -> None:
    asked = threading.Event()
    inbox = Inbox(asked.set)
    loop_ended = threading.Event()
    answerers: list[str] = []

    def question() -> int:
        answerers.append(threading.current_thread().name)
        return 42

    def loop() -> None:
        assert asked.wait(PATIENCE_S)
        for act in inbox.take():
            act(0.0)
        loop_ended.wait(PATIENCE_S)
        inbox.over()

    thread = threading.Thread(target=loop, name="the loop")
    thread.start()
    assert inbox.ask(question) == 42
    loop_ended.set()
    thread.join(PATIENCE_S)
    assert inbox.ask(question) == 42
    assert answerers == ["the loop", threading.current_thread().name]


def test_a_question_that_the_loop_never_took_is_answered_at_its_end() -> None:
    asked = threading.Event()
    inbox = Inbox(asked.set)

    def loop() -> None:
        assert asked.wait(PATIENCE_S)
        inbox.over()  # just as it is asked

    thread = threading.Thread(target=loop)
    thread.start()
    assert inbox.ask(lambda: "answer") == "answer"
    thread.join(PATIENCE_S)


def test_an_error_of_a_question_is_the_asker_s() -> None:
    asked = threading.Event()
    inbox = Inbox(asked.set)

    def loop() -> None:
        assert asked.wait(PATIENCE_S)
        for act in inbox.take():
            act(0.0)

    thread = threading.Thread(target=loop)
    thread.start()
    with pytest.raises(ZeroDivisionError):
        inbox.ask(lambda: 1 // 0)
    thread.join(PATIENCE_S)


def test_another_process_s_inbox_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(lambda: None)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PoolEnded, match="from which this one was forked"):
        inbox.post(lambda now_s: None)


# -- out -----------------------------------------------------------------------------------------


def test_callbacks_are_called_in_order_on_one_thread_and_all_before_the_end() -> None:
    told: list[tuple[int, str]] = []
    reporter = Reporter(lambda error: None)
    for number in range(100):
        reporter.put(lambda n=number: told.append((n, threading.current_thread().name)))  # type: ignore[misc]
    reporter.start()
    reporter.close(PATIENCE_S)
    assert told == [(number, "gpupool-reports") for number in range(100)]


def test_callbacks_that_were_gathered_are_called_in_order_and_all_before_the_end() -> None:
    told: list[int] = []
    failures: list[BaseException] = []
    reporter = Reporter(failures.append, lambda: 1e-6)
    for number in range(50):
        reporter.put(lambda n=number: told.append(n))  # type: ignore[misc]
        reporter.put(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    reporter.start()
    reporter.close(PATIENCE_S)
    assert told == list(range(50))
    assert len(failures) == 50


def test_while_much_is_gathered_the_thread_is_woken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waking it takes the interpreter's lock from whoever does so."""
    told: list[int] = []
    woken: list[int] = []
    all_told = threading.Event()
    coming = iter(range(20))

    def pause_s() -> float:
        number = next(coming, None)
        if number is None:
            return 0.0
        reporter.put(lambda: told.append(number))
        if number == 19:
            reporter.put(all_told.set)
        return 1e-6

    reporter = Reporter(lambda error: None, pause_s)

    class Woken(queue.Queue[None]):
        def put(self, *given: Any, **more: Any) -> None:
            woken.append(1)
            super().put(*given, **more)

    monkeypatch.setattr(reporter, "_something", Woken())
    reporter.put(lambda: None)
    reporter.start()
    assert all_told.wait(PATIENCE_S) and len(woken) == 1
    # It waits by now, or soon: what comes then is told all the same.
    reporter.put(lambda: told.append(20))
    reporter.close(PATIENCE_S)
    assert told == list(range(21))


def test_a_callback_that_fails_costs_no_other() -> None:
    told: list[str] = []
    failures: list[BaseException] = []
    reporter = Reporter(failures.append)
    reporter.start()
    reporter.put(lambda: told.append("before"))
    reporter.put(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    reporter.put(lambda: told.append("after"))
    reporter.close(PATIENCE_S)
    assert told == ["before", "after"]
    assert [type(failure) for failure in failures] == [ZeroDivisionError]


def test_the_reporting_thread_may_close_itself() -> None:
    done = threading.Event()
    reporter = Reporter(lambda error: None)
    reporter.start()

    def close() -> None:
        reporter.close(PATIENCE_S)
        done.set()

    reporter.put(close)
    assert done.wait(PATIENCE_S)
    reporter.close(PATIENCE_S)


def test_a_callback_that_hangs_is_not_waited_for() -> None:
    go_on = threading.Event()
    reporter = Reporter(lambda error: None)
    reporter.start()
    reporter.put(lambda: go_on.wait(PATIENCE_S))  # type: ignore[arg-type, return-value]
    reporter.close(0.0)
    go_on.set()
    reporter.close(PATIENCE_S)
