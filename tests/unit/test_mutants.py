"""The table of deliberate breaks fits the code: each can be applied (make mutants applies them)."""

from __future__ import annotations

from pathlib import Path

from tests import mutants

#: What must be among them, whatever else is.
MUST = (
    "outputs are staged",
    "a worker that ignores a graceful stop is killed",
    "a group does not go on after a member has failed",
    "a kept result that is handed out is held",
    "a result of a tool that is not deterministic is not kept",
    "leased devices count as demand",
    "no batch is sent to a node that is about to end",
    "a path in params reaches a tool as a path",
)
ROOMS = {
    *("runtime", "hosts", "scheduling", "worker", "records", "devices", "wire"),
    *("frontends", "tool_api"),
}


def test_every_break_can_be_applied() -> None:
    assert mutants.misfits() == []


def test_what_must_be_noticed_is_in_the_table() -> None:
    breaks = [mutant.breaks for mutant in mutants.MUTANTS]
    assert len(breaks) == len(set(breaks)) >= 24
    for words in MUST:
        assert any(each.startswith(words) for each in breaks), words
    assert {Path(mutant.file).parts[0] for mutant in mutants.MUTANTS} == ROOMS


def test_a_text_that_is_gone_is_said(tmp_path: Path) -> None:
    wrong = mutants.misfits(tmp_path)
    assert len(wrong) == len(mutants.MUTANTS) and "0 times" in wrong[0]
