"""What runs have left behind is read back: all of it, part of it, or as much as can be."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.records.owned import OwnedDirectory
from snakemake_executor_gpupool.records.runs.files import NoRun, find_run, is_live, list_runs
from snakemake_executor_gpupool.records.runs.reader import EventReader, RunReader, read_run
from snakemake_executor_gpupool.records.runs.states import Activity, JobState, RunState
from snakemake_executor_gpupool.records.runs.values import RunView
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.run_files import EPOCH_S, events_of, leave, lines_of
from tests.unit.test_chains import Pipeline


def world_with_everything() -> World:
    world = World(gpus=2, budget_tokens=3, bad={"bad"}, deadly={"deadly"})
    world.submit(1, ["a", "b", FakeItem("long", 3.0, 2)])
    world.submit(2, ["a", "c", "c"])
    world.submit(3, ["bad", "d"])
    world.submit(4, ["e"], model="other")
    world.at(30.0, lambda: world.submit(5, ["deadly"]))
    world.run()
    return world


def read(events: list[dict[str, Any]], directory: Path) -> RunView:
    return read_run(leave(directory, events))


def test_a_whole_run(tmp_path: Path) -> None:
    world = world_with_everything()
    run = read(events_of(world), tmp_path / "run")
    assert run.state is RunState.ENDED and run.notes == []
    assert run.wall_s == pytest.approx(world.now_s)
    assert (run.frontend, run.options) == ("snakemake", {"--gpupool-devices": "all"})
    assert {name: d.model for name, d in run.devices.items()}["cuda:1"] == "A100"
    states = {job_id: job.state for job_id, job in run.jobs.items()}
    done, failed = JobState.DONE, JobState.FAILED
    assert states == {1: done, 2: done, 3: failed, 4: done, 5: failed}
    assert run.rules() == {"r": {done: 3, failed: 2}}
    assert run.jobs[2].wildcards == {"job": "2"} and run.jobs[2].items == 3
    assert run.jobs[2].duplicates == 2
    assert "bad item" in run.jobs[3].error
    assert run.company(1)[2] >= 1 and run.company(2)[1] == run.company(1)[2]
    shared = run.batches[run.jobs[2].batches[0]]
    assert 2 in shared.jobs and shared.seconds and shared.tokens_per_s
    reported_s = math.fsum(job.cost.device_s or 0.0 for job in run.jobs.values())
    assert reported_s == pytest.approx(world.scheduler.dispatch.charging.time.jobs_s)


def test_batches_and_jobs_name_each_other(tmp_path: Path) -> None:
    run = read(events_of(world_with_everything()), tmp_path / "run")
    for batch in run.batches.values():
        assert batch.jobs and all(batch.batch_id in run.jobs[job].batches for job in batch.jobs)
        assert batch.batch_id in run.workers[batch.worker_id].batches
        if not batch.is_lost:
            paid = [*batch.jobs.values(), *batch.overhead_s.values()]
            assert math.fsum(s or 0.0 for s in paid) == pytest.approx(batch.seconds)


def test_a_workers_spans_follow_one_another(tmp_path: Path) -> None:
    run = read(events_of(world_with_everything()), tmp_path / "run")
    for worker in run.workers.values():
        spans = list(worker.all_spans())
        assert spans[0].activity is Activity.START
        for one, two in itertools.pairwise(spans):
            assert one.to_s is not None and one.to_s <= two.from_s + 1e-9
        if not worker.is_for_files:
            at = [span.activity for span in spans]
            assert Activity.LOAD in at
    kinds = {mark.kind for worker in run.workers.values() for mark in worker.marks}
    assert "worker_died" in kinds
    assert any(batch.is_lost for batch in run.batches.values())


def test_a_merged_run(tmp_path: Path) -> None:
    pipeline = Pipeline(gpus=1, cpus=0, short_tokens=8)
    pipeline.row(1, ["x", "y"])
    pipeline.run()
    run = read(events_of(pipeline), tmp_path / "run")
    (batch,) = run.batches.values()
    assert [title for _, title in batch.stages] == [f"rule r (job=10{n})" for n in range(3)]
    assert run.jobs[101].merged_into == batch.batch_id == run.jobs[102].batches[0]
    assert all(job.cost.device_s for job in run.jobs.values())


def test_it_can_be_followed_as_it_grows(tmp_path: Path) -> None:
    events = events_of(world_with_everything())
    whole = lines_of(events)
    directory = tmp_path / "run"
    directory.mkdir()
    reader = RunReader(directory)
    assert not reader.poll()
    rng = random.Random(3)
    cuts = sorted(rng.sample(range(len(whole)), 50))
    with (directory / "events.jsonl").open("wb", buffering=0) as file:
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            file.write(whole[start:end])
            assert reader.poll()
            assert reader.run.notes == [] and not reader._reader.damaged_lines
    assert not reader.poll()
    at_once = read_run(directory)
    assert reader.finish() == at_once


def test_jobs_that_wait_and_run_are_told_apart(tmp_path: Path) -> None:
    world = World(gpus=1, cpus=0)
    world.submit(1, ["a"])
    world.submit(2, ["b"], model="other")
    world.run(until_s=1.5)
    events = events_of(world)[:-1]
    run = read_run(leave(tmp_path / "run", events), is_live=True)
    assert run.state is RunState.GOING
    assert {job.state for job in run.jobs.values()} == {JobState.RUNNING}
    (busy,) = [w for w in run.workers.values() if w.devices and w.started_at_s]
    assert busy.open_span is not None and busy.open_span.activity is Activity.BATCH
    killed = read_run(tmp_path / "run")
    assert killed.state is RunState.KILLED
    assert {job.state for job in killed.jobs.values()} == {JobState.LOST}


@pytest.mark.parametrize("seed", range(8))
def test_a_file_that_was_cut_off_shows_what_is_there(tmp_path: Path, seed: int) -> None:
    whole = lines_of(events_of(world_with_everything()))
    cut = random.Random(seed).randrange(1, len(whole))
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "events.jsonl").write_bytes(whole[:cut])
    run = read_run(directory)
    is_cut_in_a_line = whole[cut - 1 : cut] != b"\n" and whole[cut : cut + 1] != b"\n"
    lines = whole[:cut].count(b"\n")
    assert (run.started_at_s is None) == (lines == 0 and is_cut_in_a_line)
    assert any("damaged" in note for note in run.notes) == is_cut_in_a_line
    assert all(job.state.is_over for job in run.jobs.values())


def test_lines_that_are_no_events_are_counted_and_left_out(tmp_path: Path) -> None:
    events = lines_of(events_of(world_with_everything())).splitlines(keepends=True)
    junk = [b"\xff\xfe\n", b"[]\n", b"null\n", b'{"event": "job_done"}\n', b"[" * 100_000 + b"\n"]
    junk.append(b'{"event": "job_done", "time_s": 1, "job_id": [1]}\n')
    junk.append(b'{"event": "batch_done", "time_s": 1, "batch": 77, "seconds": 1}\n')
    mixed = [line for pair in zip(events, junk * 100, strict=False) for line in pair]
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "events.jsonl").write_bytes(b"".join(mixed))
    run = read_run(directory)
    clean = read(events_of(world_with_everything()), tmp_path / "clean")
    assert {n: j.state for n, j in run.jobs.items()} == {n: j.state for n, j in clean.jobs.items()}
    assert any(f"{len(events)} damaged lines" in note for note in run.notes)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_field_holds_reading_never_fails(data: st.DataObject) -> None:
    events = events_of(WORLD)
    odd = st.one_of(
        st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers()), st.just({})
    )
    for _ in range(data.draw(st.integers(1, 6))):
        event = events[data.draw(st.integers(0, len(events) - 1))]
        if not event:
            continue  # all its fields have been removed
        name = data.draw(st.sampled_from(sorted(event)))
        if data.draw(st.booleans()):
            event[name] = data.draw(odd)
        else:
            del event[name]
    run = RunView(Path(), "x")
    reader = EventReader(run)
    reader.feed(lines_of(events))
    reader.close()
    run.rules()
    for job_id in run.jobs:
        run.company(job_id), run.waited_s(job_id)


WORLD = world_with_everything()

OLD = [
    {"event": "run_started", "devices": ["cuda:0"], "simulated": True},
    {"event": "job_submitted", "job": "rule embed (sample=a=b, n=1)", "job_id": 1},
    {"event": "worker_started", "worker": "t.files1", "tool": "t", "devices": [], "pid": 5},
    {"event": "read_sent", "worker": "t.files1", "job_id": 1},
    {"event": "file_done", "worker": "t.files1", "job_id": 1},
    {"event": "device_granted", "worker": "t.1", "devices": ["cuda:0"]},
    {"event": "worker_started", "worker": "t.1", "tool": "t", "devices": ["cuda:0"], "pid": 6},
    {"event": "load_sent", "worker": "t.1"},
    {"event": "model_loaded", "worker": "t.1", "model": "t (m)", "seconds": 1.0},
    {
        "event": "batch_sent",
        "batch": 1,
        "worker": "t.1",
        "items": 2,
        "tokens": 7,
        "longest_tokens": 4,
    },
    {"event": "batch_done", "batch": 1, "worker": "t.1", "seconds": 0.5},
    {"event": "job_done", "job": "rule embed (sample=a=b, n=1)", "job_id": 1},
    {"event": "run_ended", "wall_s": 3.0},
]


def test_a_run_of_an_older_version_shows_what_it_recorded(tmp_path: Path) -> None:
    events = [{"time_s": EPOCH_S + number, **event} for number, event in enumerate(OLD)]
    run = read(events, tmp_path / "run")
    assert any("older version" in note for note in run.notes) and len(run.notes) == 1
    job = run.jobs[1]
    assert (job.state, job.rule, job.wildcards) == (
        JobState.DONE,
        "embed",
        {"sample": "a=b", "n": "1"},
    )
    assert job.cost.device_s is None and job.items is None
    assert run.batches[1].seconds == 0.5 and run.batches[1].padding is None
    at = [span.activity for span in run.workers["t.1"].all_spans()]
    assert at == [Activity.START, Activity.LOAD, Activity.IDLE, Activity.BATCH, Activity.IDLE]
    assert run.devices["cuda:0"].kind == "cuda"


def test_a_run_of_a_newer_version_says_so(tmp_path: Path) -> None:
    events = events_of(world_with_everything())
    events[0]["format"] = 99
    events.insert(1, {"time_s": EPOCH_S, "event": "unheard_of"})
    assert any("newer version" in note for note in read(events, tmp_path / "run").notes)


# -- which run ---------------------------------------------------------------------------
def test_no_run_is_a_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match=r"no run of gpupool in .*start one with snakemake"):
        find_run(None, tmp_path / "none")
    leave(tmp_path / "20260101-000000-1", events_of(WORLD))
    with pytest.raises(NoRun, match="20260101-000000-1"):
        find_run("2025", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoRun):
        find_run(tmp_path / "empty", tmp_path)


def test_a_run_is_found_by_name_path_or_as_the_newest(tmp_path: Path) -> None:
    old = leave(tmp_path / "z-older", events_of(WORLD))
    later = [{**event, "time_s": event["time_s"] + 5} for event in events_of(WORLD)]
    new = leave(tmp_path / "a-newer", later)
    (tmp_path / "latest").symlink_to("z-older")
    assert list_runs(tmp_path) == [old, new]
    assert find_run(None, tmp_path) == new.resolve()
    assert find_run("z-older", tmp_path) == old.resolve()
    assert find_run(str(new)) == new.resolve() == find_run(new / "events.jsonl")
    assert find_run("latest", tmp_path) == old.resolve()


def test_whether_it_goes_on_is_told_by_its_lock(tmp_path: Path) -> None:
    directory = leave(tmp_path / "run", events_of(WORLD)[:-1])
    assert not is_live(directory)
    owned = OwnedDirectory(directory)
    assert is_live(directory)
    owned.let_go()
    assert not is_live(directory)
    (directory / ".lock").write_text("another boot")
    assert is_live(directory)


def test_a_run_in_a_locked_temporary_directory_goes_on(tmp_path: Path) -> None:
    directory = leave(tmp_path / "gpupool-x" / "run", events_of(WORLD)[:-1])
    owned = OwnedDirectory(tmp_path / "gpupool-x")
    assert is_live(directory)
    owned.let_go()
    assert not is_live(directory)


def test_a_damaged_summary_is_none(tmp_path: Path) -> None:
    directory = leave(tmp_path / "run", events_of(WORLD))
    assert read_run(directory).summary is None
    (directory / "summary.json").write_text('{"items": ')
    assert read_run(directory).summary is None
    (directory / "summary.json").write_text(json.dumps({"items": 3}))
    assert read_run(directory).summary == {"items": 3}


def test_a_device_that_joins_is_of_the_kind_that_its_name_says(tmp_path: Path) -> None:
    names = ["n1/cuda:0", "n1/rocm:1", "n1/cpu:0"]
    run = read([{"event": "devices_joined", "time_s": 1.0, "devices": names}], tmp_path)
    assert [run.devices[name].kind for name in names] == ["cuda", "rocm", "cpu"]
