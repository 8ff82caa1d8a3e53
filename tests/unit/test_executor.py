"""Snakemake's executor over a stub workflow: which way a job goes, and how its end is told (S1).

No Snakemake is started; the pool is real, over a host in memory.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.deployment.singularity import Singularity
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.settings import DeploymentMethod
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_executor_gpupool.errors import PoolEnded
from snakemake_executor_gpupool.frontends import images
from snakemake_executor_gpupool.frontends.snakemake import containers
from snakemake_executor_gpupool.frontends.snakemake.local_jobs import LocalLane
from snakemake_executor_gpupool.frontends.snakemake.log_plugins import tell_error
from snakemake_executor_gpupool.wire.requests import JobReport
from tests.unit.stub_workflow import StubGroup, StubWorkflow
from tests.waiting import PATIENCE_S


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubWorkflow]:
    """One simulated GPU, two cores."""
    monkeypatch.setenv("GPUPOOL_SIMULATE", "1x8GiB")
    monkeypatch.setenv("GPUPOOL_PROFILE", "off")
    made = StubWorkflow(tmp_path, monkeypatch)
    yield made
    made.executor.shutdown()


def wait_for(gate: threading.Event) -> None:
    """Hold a job until a test lets it go on."""
    assert gate.wait(PATIENCE_S)


# -- served jobs ---------------------------------------------------------------------------------


def test_served_jobs_are_made_ready_served_and_reported(workflow: StubWorkflow) -> None:
    jobs = [workflow.served(f"s{n}") for n in range(100)]
    workflow.run(*jobs)
    workflow.wait(lambda: len(workflow.finished) == 100)
    assert set(workflow.finished) == {job.name for job in jobs} and not workflow.failed
    assert all(job.prepared == job.registered == 1 for job in jobs)
    assert len(workflow.host.written) == 100 and workflow.ran == []


def test_equal_items_of_two_rules_are_computed_once(workflow: StubWorkflow) -> None:  # W1
    workflow.host.items = {1: ["x", "y"], 2: ["y", "x", "y"]}
    workflow.run(workflow.served("a"), workflow.served("b"))
    workflow.wait(lambda: len(workflow.finished) == 2)
    assert sorted(workflow.host.computed) == ["x", "y"]
    assert workflow.host.written == {1: [b"x!", b"y!"], 2: [b"y!", b"x!", b"y!"]}


def test_a_bad_item_fails_its_own_job_with_the_tools_words(workflow: StubWorkflow) -> None:  # W2
    workflow.executor.workflow.execution_settings.keep_going = True
    workflow.host.items = {1: ["good"], 2: ["bad"], 3: ["good", "fine"]}
    workflow.host.bad = {"bad"}
    workflow.run(*(workflow.served(name) for name in "abc"))
    workflow.wait(lambda: len(workflow.finished) + len(workflow.failed) == 3)
    assert workflow.failed == ["b"] and sorted(workflow.finished) == ["a", "c"]
    assert workflow.told("b").startswith("rule b (name=b): item bad: ValueError: bad item")


def test_a_job_that_cannot_be_made_ready_fails_by_itself(workflow: StubWorkflow) -> None:
    workflow.executor.workflow.execution_settings.keep_going = True
    first, second = workflow.served("a"), workflow.served("b")
    first.unready = OSError("no space left")
    workflow.run(first, second)
    workflow.wait(lambda: workflow.finished and workflow.failed)
    assert workflow.failed == ["a"] and workflow.finished == ["b"]
    assert "no space left" in workflow.told("a")


def test_a_tool_that_there_is_not_fails_its_own_jobs(workflow: StubWorkflow) -> None:
    workflow.executor.workflow.execution_settings.keep_going = True
    workflow.run(workflow.job("a", gpupool_tool="no-such-tool"), workflow.served("b"))
    workflow.wait(lambda: workflow.finished and workflow.failed)
    assert workflow.failed == ["a"] and "no-such-tool" in workflow.told("a")


def test_the_highest_priority_goes_first(workflow: StubWorkflow) -> None:  # S6
    names = ["low", "high", "middle"]
    jobs = [workflow.served(n, priority=p) for n, p in zip(names, (0, 9, 5), strict=True)]
    workflow.run(*jobs)
    assert [job.name for job in workflow.scheduler.submitted] == ["high", "middle", "low"]
    workflow.wait(lambda: len(workflow.finished) == 3)


@pytest.mark.parametrize("jobs", [64, 65])
def test_the_pool_is_told_while_many_jobs_are_handed_over(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:  # P6
    pool, told = workflow.executor._pool, list[object]()
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda some: (told.append(len(some)), submit(some)))
    monkeypatch.setattr(pool, "handing_over", lambda *, goes_on: told.append(goes_on))
    workflow.run(*(workflow.served(f"s{n}") for n in range(jobs)))
    assert told == ([64] if jobs == 64 else [True, 16, 48, 1, False])
    workflow.wait(lambda: len(workflow.finished) == jobs)


def test_jobs_that_could_not_all_be_handed_over_are_over_too(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[bool]()
    executor = workflow.executor
    monkeypatch.setattr(executor._pool, "handing_over", lambda *, goes_on: told.append(goes_on))
    monkeypatch.setattr(executor._serving, "flush", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        workflow.run(*(workflow.served(f"s{n}") for n in range(100)))
    assert told == [True, False]


def test_an_error_without_words_is_an_error(workflow: StubWorkflow) -> None:
    """A child that has said what is wrong by itself leaves nothing to say."""

    def fails() -> None:
        raise RuntimeError("")

    job = workflow.job("a", body=fails)
    workflow.run(job)
    workflow.wait(lambda: workflow.failed)
    silent = SubmittedJobInfo(workflow.job("b"))
    workflow.scheduler.running.add(silent.job)
    workflow.executor._finish(silent, JobReport(0, ""))
    assert workflow.failed == ["a", "b"] and not workflow.finished


def test_jobs_are_reported_when_the_pool_takes_no_more(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:  # S10
    def ended(*args: object) -> None:
        raise PoolEnded("the pool has failed: a cause")

    for method in ("submit", "lease"):
        monkeypatch.setattr(workflow.executor._pool, method, ended)
    workflow.run(workflow.served("a"), workflow.served("b"), workflow.job("c", gpu=1))
    workflow.wait(lambda: len(workflow.failed) == 3)
    assert all("a cause" in workflow.told(name) for name in "abc")


def test_nobody_waits_while_an_image_is_read(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1 P1 S3
    image, program = workflow.directory / "image.sif", workflow.directory / "bin/apptainer"
    image.write_bytes(b"image")
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho apptainer version 1.3.4\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(Singularity, "instance", None)
    settings = {"deployment_method": {DeploymentMethod.APPTAINER}, "apptainer_args": ""}
    workflow.deployment_settings = SimpleNamespace(**settings)
    workflow.runtime_paths = []
    may_go_on, asked = threading.Event(), []

    def reading(path: str) -> str:
        assert threading.current_thread() is not threading.main_thread(), "run_jobs waits for it"
        asked.append(path)
        wait_for(may_go_on)
        return "0" * 64

    monkeypatch.setattr(images, "digests", {})
    monkeypatch.setattr(images, "_digest", reading)
    jobs = [workflow.served(name) for name in "ab"]
    for job in jobs:
        job.container_img_url = "image.sif"
        job.container_img = SimpleNamespace(url="image.sif", path=str(image), is_local=True)
    workflow.run(*jobs, workflow.served("c"))
    workflow.wait(lambda: workflow.finished or workflow.failed)
    assert workflow.finished == ["c"] and not workflow.failed
    may_go_on.set()
    workflow.wait(lambda: len(workflow.finished) == 3)
    assert asked == [str(image)], "once for both"
    assert containers.is_read(workflow, jobs[0])


# -- the lane, and leases ------------------------------------------------------------------------


def test_jobs_of_the_lane_keep_to_the_threads_there_are(workflow: StubWorkflow) -> None:  # S6
    guard, at_once, most = threading.Lock(), [0], [0]
    gate = threading.Semaphore(0)

    def body() -> None:
        with guard:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        assert gate.acquire(timeout=PATIENCE_S)
        with guard:
            at_once[0] -= 1

    jobs = [workflow.job(f"j{n}", body=body) for n in range(6)]
    workflow.run(*jobs)
    for count in range(6):
        gate.release()
        workflow.wait(lambda count=count: len(workflow.finished) == count + 1)
    assert most == [2] and all(job.registered == 1 for job in jobs)


def test_a_job_with_a_gpu_sees_it_alone_and_gives_it_back(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:  # D4 D5
    seen: list[tuple[str, str]] = []
    at_once = [0]

    def child(lane: Any, lane_job: Any) -> None:
        at_once[0] += 1
        assert at_once[0] == 1, "one card, one job"
        seen.append((lane_job.job.name, lane_job.environment["CUDA_VISIBLE_DEVICES"]))
        at_once[0] -= 1
        if lane_job.job.name == "b":
            raise RuntimeError("b has failed")

    monkeypatch.setattr(
        LocalLane, "cached_or_run", lambda lane, job, run, lane_job: child(lane, lane_job)
    )
    workflow.execution_settings.keep_going = True
    workflow.run(*(workflow.job(name, gpu=1) for name in "abc"))
    workflow.wait(lambda: len(workflow.finished) + len(workflow.failed) == 3)
    assert sorted(name for name, _ in seen) == ["a", "b", "c"]
    assert len({card for _, card in seen}) == 1 and seen[0][1]
    assert workflow.failed == ["b"] and "b has failed" in workflow.told("b")
    assert workflow.executor._pool.allocation_map()["cuda:0"] == []


def test_a_device_that_there_is_not_fails_its_job(workflow: StubWorkflow) -> None:  # D10
    workflow.run(workflow.job("a", device="cuda:7"))
    workflow.wait(lambda: workflow.failed)
    assert "cuda:7" in workflow.told("a")


def test_a_malformed_need_fails_its_job_with_the_grammar(workflow: StubWorkflow) -> None:  # D1
    workflow.run(workflow.job("a", device="gpu-0"))
    workflow.wait(lambda: workflow.failed)
    assert "is not understood" in workflow.told("a")


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("exit 0", 0)])
def test_a_child_s_exit_code_is_its_job_s(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(LocalLane, "format_job_exec", lambda lane, job: command)
    monkeypatch.setattr(LocalLane, "cached_or_run", lambda lane, job, run, mine: run(mine))
    job = workflow.job("a")
    job.is_run = True
    watched: list[int] = []
    workflow.executor._lane._watch = lambda group, mark: watched.append(group)
    workflow.run(job)
    workflow.wait(lambda: workflow.finished or workflow.failed)
    assert (workflow.failed == ["a"]) is bool(code) and len(watched) == 1


# -- after a failure -----------------------------------------------------------------------------


def test_after_a_failure_nothing_new_starts_and_what_runs_is_finished(
    workflow: StubWorkflow,
) -> None:  # S8
    gate = threading.Event()

    def fails() -> None:
        raise RuntimeError("it has failed")

    runs = workflow.job("runs", body=lambda: wait_for(gate))
    bad = workflow.job("bad", body=fails)
    later = [workflow.job(f"later{n}") for n in range(3)]
    workflow.host.silent = {"read"}
    workflow.run(runs, bad, *later, workflow.served("served"))
    workflow.wait(lambda: "bad" in workflow.failed)
    gate.set()
    workflow.wait(lambda: workflow.scheduler.ended_with is not None)
    assert workflow.finished == ["runs"]
    assert set(workflow.failed) == {"bad", "served"}, "the served one had been made ready"
    assert workflow.ran == ["runs", "bad"] and all(job.registered == 0 for job in later)
    assert "4 jobs were not started" in str(workflow.scheduler.ended_with)


def test_a_failure_that_is_tried_again_stops_nothing(workflow: StubWorkflow) -> None:  # S8
    def fails() -> None:
        raise RuntimeError("the first try")

    bad = workflow.job("bad", body=fails, restart_times=1)
    workflow.run(bad)
    workflow.wait(lambda: workflow.failed == ["bad"])
    workflow.run(workflow.job("next"), workflow.served("served"))
    workflow.wait(lambda: len(workflow.finished) == 2)
    bad.attempt = 2
    workflow.run(bad)
    workflow.wait(lambda: workflow.failed == ["bad", "bad"])
    workflow.run(workflow.served("late"))
    workflow.wait(lambda: len(workflow.failed) == 3)
    assert "late" not in workflow.finished


# -- groups --------------------------------------------------------------------------------------


def test_members_of_a_group_go_their_own_ways_one_after_the_other(
    workflow: StubWorkflow,
) -> None:  # S7
    first, second = workflow.job("first"), workflow.served("second")
    last = workflow.job("last")
    second.reads(first)
    last.reads(second)
    workflow.run(StubGroup(first, second, last))
    workflow.wait(lambda: workflow.finished)
    assert workflow.finished == ["group"] and workflow.ran == ["first", "last"]
    assert workflow.host.written and second.prepared == 1
    assert workflow.dag.settled == ["first", "second"], "before whoever reads them starts"


@pytest.mark.parametrize("notemp", [False, True])
def test_a_temporary_file_goes_with_the_last_member_that_reads_it(
    workflow: StubWorkflow, notemp: bool
) -> None:  # S7
    workflow.storage_settings.notemp = notemp
    seen: dict[str, bool] = {}

    def look(name: str) -> Callable[[], None]:
        return lambda: seen.update({name: Path("made.txt").exists()})

    made = workflow.job("made", body=lambda: Path("made.txt").write_text("x"))
    first, second = (workflow.job(name, body=look(name)) for name in ("first", "second"))
    served, last = workflow.served("served"), workflow.job("last", body=look("last"))
    workflow.dag.temporary = {"made.txt"}
    first.reads(made)
    second.reads(made, first)
    served.reads(second)
    last.reads(served)
    workflow.run(StubGroup(made, first, second, served, last))
    workflow.wait(lambda: workflow.finished)
    assert seen == {"first": True, "second": True, "last": notemp}


def test_a_group_does_not_go_on_after_a_member_has_failed(workflow: StubWorkflow) -> None:  # S7
    workflow.execution_settings.keep_going = True
    first, second = workflow.served("first"), workflow.job("second")
    second.reads(first)
    workflow.host.bad = {"1"}
    workflow.run(StubGroup(first, second))
    workflow.wait(lambda: workflow.failed)
    assert workflow.failed == ["group"] and workflow.ran == []
    assert any("bad item" in str(getattr(r, "told", "")) for r in workflow.lines.records)


def test_a_member_whose_output_is_not_there_fails_its_group(workflow: StubWorkflow) -> None:  # S7
    first, second = workflow.served("first"), workflow.job("second")
    second.reads(first)
    workflow.dag.unsettled = {"first"}
    workflow.run(StubGroup(first, second))
    workflow.wait(lambda: workflow.failed)
    assert workflow.failed == ["group"] and workflow.ran == []
    assert "first.txt is missing" in workflow.lines.text


def test_a_group_that_needs_nothing_of_ours_is_one_job_of_the_lane(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[Any] = []
    monkeypatch.setattr(LocalLane, "_spawn", lambda lane, job: spawned.append(job.job))
    group = StubGroup(workflow.job("a"), workflow.job("b"))
    workflow.run(group)
    workflow.wait(lambda: workflow.finished)
    assert spawned == [group] and workflow.finished == ["group"] and group.registered == 1


# -- jobs that follow ----------------------------------------------------------------------------


def test_what_follows_a_served_job_is_sent_along(workflow: StubWorkflow) -> None:
    (workflow.directory / "in.txt").write_text("x")
    first = workflow.served("first", inputs=["in.txt"], outputs=["first.txt"])
    second = workflow.served("second", inputs=["first.txt"], outputs=["second.txt"])
    other = workflow.job("other", inputs=["second.txt"])
    second.reads(first)
    other.reads(second)
    for job in (first, second, other):
        for file in (*job.input, *job.output):
            assert not file.is_storage
    workflow.run(first)
    workflow.wait(lambda: workflow.finished == ["first"])
    (read,) = (f for frames in workflow.host.sent.values() for f in frames if f.type == "read")
    assert len(read.meta["follow"]) == 1, "the served one, and not who reads it"
    assert second.prepared == 0


# -- ends ----------------------------------------------------------------------------------------


def test_cancelling_ends_everything_and_reports_nothing(workflow: StubWorkflow) -> None:  # S10
    gate = threading.Event()
    workflow.host.silent = {"run"}
    runs = workflow.job("runs", body=lambda: wait_for(gate))
    workflow.run(runs, workflow.served("served"), *(workflow.job(f"w{n}") for n in range(5)))
    gate.set()
    workflow.executor.cancel()
    assert "served" not in workflow.finished and not workflow.host.sent
    with pytest.raises(PoolEnded):
        workflow.executor._pool.submit([])


def test_a_pool_that_breaks_reports_every_job_and_ends_the_run(workflow: StubWorkflow) -> None:
    workflow.host.silent = {"read"}
    workflow.run(workflow.served("a"), workflow.served("b"))
    workflow.host.failing.add("poll")
    workflow.host.wake()
    workflow.wait(lambda: workflow.scheduler.ended_with is not None)
    assert sorted(workflow.failed) == ["a", "b"]
    assert "poll failed" in str(workflow.scheduler.ended_with)
    workflow.run(workflow.served("c"))
    workflow.wait(lambda: "c" in workflow.failed)


def test_the_summary_counts_what_was_served(workflow: StubWorkflow) -> None:
    workflow.run(*(workflow.served(f"s{n}") for n in range(3)))
    workflow.wait(lambda: len(workflow.finished) == 3)
    summary = workflow.executor._pool.summary()
    assert summary["jobs_served"] == 3 and summary["simulated"] is True


def test_the_end_of_a_lease_is_noted_though_the_pool_is_closed_at_once(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Ctrl-C: the job's process ends, and the pool is closed right after."""
    gate, pool = threading.Event(), workflow.executor._pool
    held, goes_on, act = threading.Event(), threading.Event(), pool._loop._act

    def slow_act() -> None:
        act()
        if gate.is_set():
            held.set()
            goes_on.wait(PATIENCE_S)

    monkeypatch.setattr(pool._loop, "_act", slow_act)
    runs = threading.Event()
    workflow.run(workflow.job("a", gpu=1, body=lambda: (runs.set(), wait_for(goes_on))))
    wait_for(runs)
    gate.set()
    pool._inbox.post(lambda now_s: None)
    wait_for(held)  # the loop is past what was posted, and not yet at the question whether it ends
    pool.lease_done(1, "cancelled")
    closing = threading.Thread(target=pool.close)
    closing.start()
    closing.join(0.2)
    goes_on.set()
    closing.join(PATIENCE_S)
    assert '"lease_released"' in pool.paths.events.read_text()


class Queue(QueueHandler):
    """Takes what a logger plugin would be given."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        super().__init__(self)  # type: ignore[arg-type]

    def put_nowait(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_only_plugins_are_told_what_the_terminal_shows_otherwise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger, queue = logging.Logger("snakemake"), Queue()
    logger.addHandler(caplog.handler)
    tell_error(logger, "JobFailed", "nobody listens")
    logger.addHandler(queue)
    tell_error(logger, "JobFailed", "why", "a rule")
    (record,) = queue.records
    told = record.event, record.exception, record.rule  # type: ignore[attr-defined]
    assert told == (LogEvent.ERROR, "JobFailed", "a rule") and record.getMessage() == "why"
    assert not caplog.records
