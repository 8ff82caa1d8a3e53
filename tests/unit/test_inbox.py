"""What other threads ask of the run loop."""

from __future__ import annotations

import threading

import pytest

from snakemake_executor_gpupool.runtime import inbox as inbox_module
from snakemake_executor_gpupool.runtime.inbox import Inbox
from tests.waiting import PATIENCE_S


def test_a_loop_that_is_over_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run asks for its summary when its loop has ended."""
    monkeypatch.setattr(inbox_module, "LOOK_S", 1e6)
    inbox = Inbox(wake=lambda: None)
    inbox.over()
    assert inbox.ask(lambda: "summary") == "summary"


def test_whoever_asks_a_loop_that_is_ending_is_answered_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "LOOK_S", PATIENCE_S)
    inbox = Inbox(wake=lambda: None)
    inbox.close("the pool is closed")
    answers: list[str] = []
    asker = threading.Thread(target=lambda: answers.append(inbox.ask(lambda: "summary")))
    asker.start()
    inbox.over()
    asker.join(PATIENCE_S / 2)
    assert answers == ["summary"]
