"""The trace of a run is what Chrome's trace event format asks for, and shows what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.records.report.file import write_page
from snakemake_executor_gpupool.records.runs import trace
from snakemake_executor_gpupool.records.runs.reader import EventReader
from snakemake_executor_gpupool.records.runs.values import RunView
from snakemake_executor_gpupool.testing.simulation import World
from tests.unit.run_files import events_of, lines_of
from tests.unit.test_chains import Pipeline
from tests.unit.test_runs import OLD, world_with_everything
from tests.unit.trace_format import problems


def view_of(events: list[dict[str, Any]]) -> RunView:
    run = RunView(Path(), "run")
    reader = EventReader(run)
    reader.feed(lines_of(events))
    return run


def written(run: RunView, directory: Path) -> Any:
    path = directory / "trace.json"
    write_page(path, "".join(trace.trace_text(run)), is_private=True)
    assert [each.name for each in directory.iterdir()] == ["trace.json"]
    return json.loads(path.read_text())


def tracks(found: Any) -> dict[str, tuple[int, int]]:
    return {
        event["args"]["name"]: (event["pid"], event["tid"])
        for event in found["traceEvents"]
        if event["name"] == "thread_name"
    }


def on(found: Any, place: tuple[int, int], phase: str = "X") -> list[Any]:
    events = found["traceEvents"]
    return [e for e in events if e["ph"] == phase and (e["pid"], e["tid"]) == place]


def test_the_validator_refuses_what_is_wrong() -> None:
    good = {"ph": "X", "name": "a", "pid": 1, "tid": 1, "ts": 0, "dur": 2}
    assert problems({"traceEvents": [good]}) == []
    for wrong in (
        {**good, "dur": -1},
        {**good, "ts": float("nan")},
        {**good, "ph": "?"},
        {**good, "tid": "one"},
        {**good, "ph": "C", "args": {"x": "1"}},
        {**good, "ph": "s", "id": 1, "cat": "c"},
        {**good, "ph": "M", "name": "nonsense"},
    ):
        assert problems({"traceEvents": [wrong]}), wrong
    assert problems({"traceEvents": [good, {**good, "ts": 1}]})
    assert problems([good])


def test_a_run_with_everything(tmp_path: Path) -> None:  # R2
    found = written(view_of(events_of(world_with_everything())), tmp_path)
    assert problems(found) == []
    names = tracks(found)
    assert {"cuda:0", "cuda:1", "cpu:0", "tool.1 on cuda:0", "tool.files1"} <= set(names)
    loads = on(found, names["tool.1 on cuda:0"])
    assert {event["name"] for event in loads} >= {"start", "load", "tool (m)"}
    batch = next(e for e in loads if e["name"] == "tool (m)")
    assert batch["args"]["items"] and batch["args"]["jobs"]
    counters = {e["name"] for e in found["traceEvents"] if e["ph"] == "C"}
    assert {"jobs in flight", "items/s"} <= counters
    last = [e for e in found["traceEvents"] if e["name"] == "jobs in flight"][-1]
    assert last["args"] == {"jobs": 0}
    assert any(e["ph"] == "i" and e["name"] == "worker_died" for e in found["traceEvents"])


def test_a_flow_leads_from_reading_through_batches_to_writing(tmp_path: Path) -> None:
    world = World(gpus=1, cpus=0, budget_tokens=1)
    world.submit(1, ["a", "b"])
    world.run()
    found = written(view_of(events_of(world)), tmp_path)
    assert problems(found) == []
    steps = [e for e in found["traceEvents"] if e["ph"] in "stf"]
    names = tracks(found)
    files, worker = names["tool.files1"], names["tool.1 on cuda:0"]
    assert [(e["ph"], (e["pid"], e["tid"])) for e in steps] == [
        ("s", files),
        ("t", worker),
        ("t", worker),
        ("f", files),
    ]


def test_models_and_jobs_that_share_a_device_have_tracks_of_their_own(tmp_path: Path) -> None:
    world = World(gpus=1, cpus=0, packing=True, gpu_mib=10_000)
    for number in range(3):
        world.submit(number, [f"a{number}", f"b{number}"], model=f"m{number}")
    world.lease(9, DeviceSpec("cuda", 1), hold_s=2.0)
    world.run()
    found = written(view_of(events_of(world)), tmp_path)
    assert problems(found) == []
    assert {"cuda:0", "cuda:0 (2)"} <= set(tracks(found))
    assert any(e["name"] == "lease 9" for e in found["traceEvents"])


def test_a_merged_run_and_its_stages(tmp_path: Path) -> None:
    pipeline = Pipeline(gpus=1, cpus=0, short_tokens=8)
    pipeline.row(1, ["x", "y"])
    pipeline.run()
    assert problems(written(view_of(events_of(pipeline)), tmp_path)) == []


@pytest.mark.parametrize("until_s", [0.05, 0.5, 1.5, 2.5])
def test_a_run_that_goes_on(tmp_path: Path, until_s: float) -> None:
    world = World(gpus=1)
    world.submit(1, ["a", "b", "c"])
    world.run(until_s=until_s)
    assert problems(written(view_of(events_of(world)[:-1]), tmp_path)) == []


def test_an_old_run_and_an_empty_one(tmp_path: Path) -> None:
    old = [{"time_s": 100.0 + number, **event} for number, event in enumerate(OLD)]
    assert problems(written(view_of(old), tmp_path)) == []
    assert problems(written(RunView(Path(), "none"), tmp_path)) == []


def test_a_large_run_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_STEPS", 4)
    monkeypatch.setattr(trace, "MAX_POINTS", 10)
    monkeypatch.setattr(trace, "MAX_NAMED", 2)
    world = World(gpus=1, cpus=0, budget_tokens=8)
    for number in range(40):
        world.submit(number, [f"i{number}", f"j{number}", "shared"])
    world.run()
    found = written(view_of(events_of(world)), tmp_path)
    assert problems(found) == []
    flows = [e for e in found["traceEvents"] if e["ph"] in "stf"]
    assert len(flows) <= 40 * 4
    points = [e for e in found["traceEvents"] if e["name"] == "jobs in flight"]
    assert len(points) <= 21
    jobs = [e["args"]["jobs"] for e in found["traceEvents"] if "jobs" in e.get("args", {})]
    assert max(len(each) for each in jobs if isinstance(each, list)) == 3


@pytest.mark.parametrize("time_s", [-1e300, -1.0, 1e14, 1e308])
@pytest.mark.parametrize("kind", ["run_started", "worker_started", "batch_done", "run_ended"])
def test_a_damaged_time_costs_no_memory(tmp_path: Path, kind: str, time_s: float) -> None:
    events = events_of(world_with_everything())
    next(event for event in events if event["event"] == kind)["time_s"] = time_s
    if kind == "worker_started":
        del events[0]  # the trace then begins with the first worker
    found = written(view_of(events), tmp_path)
    rates = [event for event in found["traceEvents"] if event["name"] == "items/s"]
    assert 1 <= len(rates) <= 203
