"""What a server tells runs of their jobs, and what a run makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.server.relay import BATCH_OFFSET, Item, Relay
from snakemake_executor_gpupool.frontends.snakemake.servers import check_server_option
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.records.events import EventLog
from snakemake_executor_gpupool.runtime.elsewhere import Elsewhere, News
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

TOOL = ToolRef("t", "/", "python", stamp="s1")


class Run:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Item] = []

    def put(self, item: Item) -> None:
        self.told.append(item)

    def names(self) -> list[str]:
        return [name for _, _, name, _ in self.told]

    def fields(self, name: str) -> dict[str, Any]:
        return next(fields for _, _, each, fields in self.told if each == name)


class World:
    """A relay with two runs; job 7 is the first's, which calls it 1, job 8 the second's, too 1."""

    def __init__(self) -> None:
        self.relay, self.one, self.two = Relay(), Run(), Run()
        for run, job_id in ((self.one, 7), (self.two, 8)):
            self.relay.attach(run)
            self.relay.add(job_id, run, 1, "s1")
            self.event("job_submitted", job_id=job_id, job="rule r")

    def event(self, event: str, **fields: Any) -> None:
        self.relay.take(1.0, event, fields)

    def load(self, stamp: str = "s1") -> None:
        self.event("device_granted", worker="w.1", devices=["cuda:0"], model="M")
        started = {"tool": "t", "pid": 5, "devices": ["cuda:0"], "node": "", "stamp": stamp}
        self.event("worker_started", worker="w.1", **started)
        self.event("model_loaded", worker="w.1", model="M", seconds=2.0, versions={"a": "1"})

    def batch(self) -> None:
        self.event("batch_sent", batch=3, worker="w.1", items=3, jobs=[7, 8, 9], tokens=3)
        fact = {"batch": 3, "worker": "w.1", "keys": ["k"], "model": "m", "seconds": 1.0}
        self.relay.fact("batch", fact)
        charged = {"jobs": [7, 8, 9], "device_s": [1.0, 2.0, 1.0], "energy_j": 8.0}
        self.event(
            "batch_done", batch=3, worker="w.1", seconds=4.0, **charged, overhead_s={"lost": 9}
        )

    def end(self, job_id: int, run: Run, *, is_final: bool = True) -> None:
        request = Request(job_id, "rule r", TOOL, b"", b"", "/")
        made = {"request": request, "model": "m", "batches": [(3, 1), (99, 1)]}
        self.relay.fact("job", {**made, "duplicate_of": [7, 8], "items": 1})
        self.event("job_done", job_id=job_id, job="rule r", items=1)
        self.relay.close(job_id, is_final=is_final)


def test_a_shared_batch_is_told_to_each_run_with_what_its_own_jobs_pay() -> None:  # G2
    world = World()
    world.load()
    world.batch()
    for run, device_s, energy_j in ((world.one, 1.0, 2.0), (world.two, 2.0, 4.0)):
        sent, done = run.fields("batch_sent"), run.fields("batch_done")
        assert sent["jobs"] == done["jobs"] == [1], "under its own number, and no one else's"
        assert (done["device_s"], done["energy_j"]) == ([device_s], energy_j)
        assert "overhead_s" not in done
        assert sent["batch"] == done["batch"] == 3 + BATCH_OFFSET
        assert sent["worker"] == "server.w.1"


def test_a_load_is_told_to_the_first_that_waits_and_others_meet_the_process() -> None:
    world = World()
    world.load()
    world.batch()
    assert "model_loaded" in world.one.names() and "worker_attached" not in world.one.names()
    assert "model_loaded" not in world.two.names()
    met = world.two.fields("worker_attached")
    assert (met["model"], met["seconds"], met["devices"]) == ("M", 2.0, ["cuda:0"])
    world.event("worker_ended", worker="w.1", reason="", expected=True)
    assert "worker_ended" in world.one.names() and "worker_ended" in world.two.names()


def test_a_load_ahead_is_told_to_a_run_that_has_had_such_jobs() -> None:  # G2
    world = World()
    world.event("job_read", job_id=8, items=1, model="M")
    for job_id, run in ((7, world.one), (8, world.two)):
        world.end(job_id, run)
    world.load()
    assert "model_loaded" in world.two.names() and "model_loaded" not in world.one.names()


def test_a_load_of_another_tool_of_that_name_is_told_to_nobody() -> None:
    world = World()
    world.load(stamp="s2")
    assert world.one.names() == world.two.names() == ["job_submitted"]


def test_a_try_that_is_repeated_is_told_to_nobody() -> None:
    world = World()
    world.event("job_failed", job_id=7, job="rule r", error="its code changed")
    world.relay.close(7, is_final=False)
    world.relay.add(17, world.one, 1, "s1")
    world.end(17, world.one)
    assert world.one.names() == ["job_submitted", "job", "job_done"]
    assert world.one.fields("job_done")["job_id"] == 1
    assert world.two.names() == ["job_submitted"]


def test_an_earlier_batch_is_told_before_the_job_that_has_a_result_of_it() -> None:
    world = World()
    world.load()
    world.batch()
    for software in ("", "another environment"):
        made = {"model": "m", "label": "M", "software": software}
        world.relay.fact("model", made)
    late = Run()
    world.relay.attach(late)
    world.relay.add(30, late, 5, "s1")
    world.end(30, late)
    assert late.names() == ["model", "worker_attached", "batch", "job", "job_done"]
    assert late.fields("model")["software"] == "", "the job's own"
    job = late.fields("job")
    assert job["batches"] == [(3 + BATCH_OFFSET, 1)], "and none that it has not been told of"
    assert job["duplicate_of"] == [], "other runs' jobs are not its own"


def test_a_run_that_has_left_is_told_nothing() -> None:
    world = World()
    world.relay.detach(world.one)
    world.load()
    world.batch()
    assert world.one.names() == ["job_submitted"]
    assert "model_loaded" in world.two.names()


def test_stages_of_a_row_of_models_are_told_to_the_run_whose_job_they_are_of() -> None:
    world = World()
    world.event("worker_started", worker="c.1", tool="t", pid=5, devices=["cpu:0"], stamp="s1")
    world.relay.close(7, is_final=True)  # the first stage is done, the others follow
    done = {"job": "rule r", "batch": 3, "stage": 1, "worker": "c.1"}
    world.event("stage_done", job_id=7, **done)
    world.event("dispatch_saved", job_id=8, job="rule r", batch=3)
    assert world.one.fields("stage_done") == {
        **done, "job_id": 1, "batch": 3 + BATCH_OFFSET, "worker": "server.c.1"
    }  # fmt: skip
    assert "stage_done" not in world.two.names()
    assert world.two.fields("dispatch_saved")["batch"] == 3 + BATCH_OFFSET
    assert "dispatch_saved" not in world.one.names()


def test_a_row_s_load_is_told_to_the_first_run_that_waits_for_its_first_model() -> None:
    world = World()
    started = {"tool": "t + u", "pid": 5, "devices": ["cpu:0"], "node": ""}
    world.relay.add(10, world.one, 3, "p.b")  # waits for the row's second model
    world.relay.add(9, world.two, 2, "p.a")
    world.event("job_read", job_id=9, items=1, model="A")
    world.event("worker_started", worker="c.1", **started, stamp="p.a+b")
    world.event("model_loaded", worker="c.1", model="chain", seconds=2.0, versions={})
    assert "model_loaded" in world.two.names() and "model_loaded" not in world.one.names()


def test_figures_add_up(tmp_path: Path) -> None:
    elsewhere = Elsewhere(EventLog(tmp_path / "events"), None)

    def happens(name: str, **fields: Any) -> None:
        elsewhere.take_news([News(1.0, name, fields)], 1.0)

    happens("worker_attached", worker="w", devices=["cuda:0", "cuda:1"])
    happens("batch_done", worker="w", jobs=[1], device_s=[3.0])
    happens("batch_lost", worker="w", lost_s=1.0)
    happens("job_done", job_id=1, items=5, duplicates=2, reused=1)
    happens("job_failed", job_id=2, items=1)
    happens("job_withdrawn", job_id=3)
    happens("stage_done", job_id=1, stage=0, batch=7, worker="w")
    happens("stage_done", job_id=1, stage=1, batch=7, worker="w")
    happens("dispatch_saved", job_id=4, batch=7)
    happens("job_done", job_id=4, items=0, device_s=2.0)
    own = {"jobs_served": 1, "items": 2, "costs": {"jobs_s": 1.0, "lost_s": 0.0}}
    devices = {"cuda:0": {"busy_s": 1.0}, "cuda:1": {"busy_s": 0.0}}
    summary = elsewhere.added_to({**own, "devices": devices})
    assert (summary["jobs_served"], summary["jobs_failed"], summary["jobs_withdrawn"]) == (3, 1, 1)
    assert (summary["items"], summary["items_unique"], summary["items_computed"]) == (8, 3, 2)
    assert (summary["chains_merged"], summary["dispatches_saved"]) == (1, 1)
    assert summary["costs"] == {"jobs_s": 6.0, "lost_s": 1.0}
    assert summary["devices"] == {"cuda:0": {"busy_s": 4.0}, "cuda:1": {"busy_s": 3.0}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"server": "auto", "cluster": "slurm"}, "do not go together: a server has the devices"),
        ({"server": "always"}, "it takes auto"),
    ],
)
def test_what_cannot_be_had_with_a_server_is_refused(more: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_server_option(ExecutorSettings(**more))  # type: ignore[arg-type]
    check_server_option(ExecutorSettings(cluster="slurm"))
