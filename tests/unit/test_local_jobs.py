"""The lane's own parts: what a child is told, and how its end is read (S7, D4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.snakemake.admission import LaneJob
from snakemake_executor_gpupool.frontends.snakemake.failures import is_of_command, words_of
from snakemake_executor_gpupool.frontends.snakemake.local_jobs import (
    ChildFailed,
    LocalLane,
    NodeLost,
    check_exit,
    child_environment,
    with_members,
)
from tests.unit.stub_workflow import StubWorkflow
from tests.waiting import eventually


def test_how_a_child_ended() -> None:
    check_exit(0)
    with pytest.raises(NodeLost):
        check_exit(None)
    with pytest.raises(ChildFailed, match=r"exit code 3, .*:\nno room"):
        check_exit(3, "no room")


def test_a_child_sees_what_was_leased_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:  # D4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert child_environment({})["CUDA_VISIBLE_DEVICES"] == ""
    leased = child_environment({"CUDA_VISIBLE_DEVICES": "1", "GPUPOOL_LEASE": "token"})
    assert leased["CUDA_VISIBLE_DEVICES"] == "1" and leased["GPUPOOL_LEASE"] == "token"


def test_joined_jobs_are_run_by_a_snakemake_that_shows_each_its_own() -> None:
    command = f"cd /x && {sys.executable} -m snakemake --snakefile 'a b'"
    assert with_members(command) == (
        f"cd /x && {sys.executable} -m snakemake_executor_gpupool.frontends.snakemake.members "
        "-m snakemake --snakefile 'a b'"
    )


def test_whose_failure_it_was() -> None:
    failed = subprocess.CalledProcessError(3, "cmd")
    assert is_of_command(failed) and not is_of_command(ValueError("x"))
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = failed
    assert is_of_command(wrapped)
    assert words_of(ValueError("")) == "ValueError"


@pytest.fixture
def lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GPUPOOL_PROFILE", "off")
    workflow = StubWorkflow(tmp_path, monkeypatch)
    yield workflow
    workflow.executor.shutdown()


def test_what_is_elsewhere_is_run_there_and_goes_with_its_node(lane: StubWorkflow) -> None:  # D12
    commands: list[str] = []
    codes: list[int | None] = [None, 0]

    def elsewhere(command: str) -> int | None:
        commands.append(command)
        return codes.pop(0)

    lane.executor._lane.format_job_exec = lambda job: f"run {job.name}"
    job = lane.job("a")
    for expected in (NodeLost, None):
        lane_job = LaneJob(job, 1, lambda failure: None, elsewhere=elsewhere)
        if expected is None:
            lane.executor._lane._spawn(lane_job)
        else:
            with pytest.raises(expected):
                lane.executor._lane._spawn(lane_job)
    assert commands == ["run a", "run a"]


def test_a_child_that_is_cancelled_is_told_to_end(lane: StubWorkflow) -> None:  # S10
    lane.executor._lane.format_job_exec = lambda job: "sleep 300 & wait"
    ended: list[BaseException | None] = []
    job = lane.job("a")
    local: LocalLane = lane.executor._lane
    watched: list[int] = []
    local._watch, forgotten = lambda group, mark: watched.append(group), []
    local._forget = forgotten.append
    lane_job = LaneJob(job, 1, ended.append, environment={"GPUPOOL_LEASE": ""})
    local.cached_or_run = lambda job, run, mine: run(mine)
    local.submit(lane_job)
    assert eventually(lambda: watched)
    local.cancel()
    local.pool.shutdown()
    assert isinstance(ended[0], ChildFailed) and forgotten == watched


def test_waiting_jobs_of_a_cancelled_lane_are_reported_if_they_are_to_be(
    lane: StubWorkflow,
) -> None:  # S10
    ended: list[str] = []
    local: LocalLane = lane.executor._lane
    local._admission.free = 0
    for name in "ab":
        local.submit(LaneJob(name, 1, lambda failure, name=name: ended.append(name)))  # type: ignore[misc]
    local.cancel(reports_waiting=True)
    assert ended == ["a", "b"]
