"""What other threads ask of the run loop."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.runtime import inbox as inbox_module
from snakemake_executor_gpupool.runtime.inbox import Inbox


def test_a_loop_that_is_over_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run asks for its summary when its loop has ended."""
    monkeypatch.setattr(inbox_module, "LOOK_S", 1e6)
    inbox = Inbox(wake=lambda: None)
    inbox.over()
    assert inbox.ask(lambda: "summary") == "summary"
