"""The data of a report's page, against a run whose values are known, and counts over its lines."""

from __future__ import annotations

import json
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.report.columns import Table, Texts, stepwise, ticks
from snakemake_executor_gpupool.records.report.data import MARK_KINDS, SPAN_KINDS, report_data
from snakemake_executor_gpupool.records.report.estimate import estimate
from snakemake_executor_gpupool.records.report.rules import (
    device_rows,
    is_over_usual,
    over_time,
    time_rows,
    typical_item_s,
)
from snakemake_executor_gpupool.records.runs.reader import EventReader, read_run
from snakemake_executor_gpupool.records.runs.spans import union_s
from snakemake_executor_gpupool.records.runs.states import Activity, JobState, Span
from snakemake_executor_gpupool.records.runs.values import (
    BatchView,
    Cost,
    DeviceView,
    JobView,
    LeaseView,
    RunView,
    WorkerView,
)
from tests.report.synthetic import Shape, lines_of, write_run


def column(packed: Any) -> list[int]:
    """A column as the page reads it."""
    return list(accumulate(packed["steps"])) if isinstance(packed, dict) else packed


def small_run() -> RunView:
    """Two devices, a model of one tool, three finished jobs of four items, one that failed."""
    run = RunView(Path("/w/run"), "run", started_at_s=100.0, ended_at_s=120.0)
    for name in ("cuda:0", "cuda:1"):
        run.devices[name] = DeviceView(name, "cuda")
        worker = WorkerView(f"m.{name[-1]}", "tool", "model", devices=(name,))
        worker.import_s, worker.load_s = 2.0, 3.0 + int(name[-1])
        run.workers[worker.worker_id] = worker
    for job_id in (1, 2, 3, 4):
        state = JobState.FAILED if job_id == 4 else JobState.DONE
        job = JobView(job_id, f"rule r (n={job_id})", "r", {"n": str(job_id)}, "tool", "model")
        job.state, job.submitted_at_s, job.items, job.duplicates = state, 101.0, 4, 1
        job.worked_s, job.cost = 1.0, Cost(0.5, "cuda", saved_s=0.25)
        job.done_at_s = 110.0
        run.jobs[job_id] = job
    for number, name in enumerate(("m.0", "m.1", "m.0")):
        at_s = 105.0 + number
        shares = {1: 0.6, 2: 0.4} if number < 2 else {3: 0.75}
        lost_s = {} if number < 2 else {"unclaimed": 0.25}
        run.batches[number + 1] = BatchView(
            number + 1, name, at_s, at_s, at_s + 1, 1.0, 4, 90, 100, 25, shares, lost_s
        )
    return run


# -- columns -------------------------------------------------------------------------------------
def test_steps_are_undone_by_sums() -> None:
    assert column(stepwise([3, 3, 10, 7])) == [3, 3, 10, 7]
    assert column(stepwise([])) == []


def test_ticks_are_tenths_of_milliseconds() -> None:
    assert [ticks(None), ticks(0.0), ticks(1.23456), ticks(-3.0)] == [-1, 0, 12346, 0]


def test_a_text_is_kept_once() -> None:
    texts = Texts()
    assert [texts.number(text) for text in ("a", "", "b", "a")] == [0, -1, 1, 0]
    assert texts.all() == ["a", "b"]


def test_a_row_must_fit_its_table() -> None:
    table = Table(("a", "b"))
    table.add(a=1, b=2)
    for row in ({"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}):
        with pytest.raises(KeyError):
            table.add(**row)
    assert len(table) == 1


# -- figures ---------------------------------------------------------------------------------------
def test_one_process_per_job_is_import_load_and_inference_over_devices() -> None:
    found = estimate(small_run())
    assert found is not None
    # Three finished jobs; import 2 s, load 3.5 s (the median of 3 and 4), inference 0.75 s each.
    assert found.wall_s == pytest.approx(3 * (2.0 + 3.5 + 0.75) / 2)
    assert (found.import_s, found.load_s) == (3.0, 5.25)
    assert found.inference_s == pytest.approx(1.125)
    assert found.gaps == []


def test_this_run_is_what_its_workers_took_over_the_same_devices() -> None:
    run = small_run()
    spans = [(Activity.START, 1.0), (Activity.IMPORT, 2.0), (Activity.LOAD, 3.0)]
    spans += [(Activity.IDLE, 5.0), (Activity.MOVE, 0.5), (Activity.STOP, 1.0)]
    at_s = 90.0
    for activity, seconds in spans:
        run.workers["m.0"].spans.append(Span(activity, at_s, at_s + seconds))
        at_s += seconds
    run.workers["files"] = WorkerView("files", "tool", spans=[Span(Activity.START, 90.0, 150.0)])
    run.batches[3].seconds, run.batches[3].is_lost = None, True
    run.batches[3].ended_at_s = 109.0  # it had begun at 107
    found = estimate(run)
    assert found is not None
    # A process of its own would start, too: 3 s with the import by one worker, 2 by the other.
    assert found.import_s == 3 * 2.5 / 2
    assert (found.own_import_s, found.own_load_s, found.own_inference_s) == (1.5, 1.75, 2.0)
    assert found.own_s == 5.25
    # Another worker on the same device, at the same time, takes none of it twice.
    run.workers["n.0"] = WorkerView("n.0", "tool", "other", devices=("cuda:0",))
    run.workers["n.0"].spans = [Span(Activity.LOAD, 90.0, 96.0)]
    found = estimate(run)
    assert found is not None
    assert found.own_s == pytest.approx(5.25)
    assert found.own_load_s > 1.75


def test_what_was_not_measured_counts_as_nothing_and_is_said() -> None:
    run = small_run()
    for worker in run.workers.values():
        worker.import_s = worker.load_s = None
    run.jobs[1].reused = 2
    found = estimate(run)
    assert found is not None
    assert found.wall_s == pytest.approx(1.125)
    assert len(found.gaps) == 3


def test_a_merged_dispatchs_load_is_shared_by_its_models() -> None:
    run = small_run()
    run.workers["c.1"] = WorkerView("c.1", "tool + head", "tool + head", devices=("cuda:0",))
    run.workers["c.1"].load_s = 5.0
    run.batches[4] = BatchView(4, "c.1", 111.0, 111.0, 111.5, 0.5, jobs={5: 0.2})
    run.batches[4].stages = [(111.1, "rule q (n=1)"), (111.1, "rule q (n=2)"), (111.2, "rule h")]
    run.jobs[5] = JobView(5, "rule h", "h", {}, "head", "", JobState.DONE, batches=[4])
    run.jobs[5].cost, run.jobs[5].merged_into = Cost(0.2), 4
    found = estimate(run)
    assert found is not None
    (share,) = (share for share in found.shares if share.tool == "head")
    assert (share.load_s, share.loads) == (2.5, 1)
    assert report_data(run)["stages"] == [[4, [["q", 2], ["h", 1]]]]


def test_there_is_no_estimate_without_a_finished_job_or_costs() -> None:
    run = small_run()
    for job in run.jobs.values():
        job.cost = Cost()
    assert estimate(run) is None
    for job in run.jobs.values():
        job.cost, job.state = Cost(1.0), JobState.FAILED
    assert estimate(run) is None


def test_over_time_is_twice_what_is_usual_and_a_second_more() -> None:
    jobs = list(small_run().jobs.values())
    typical_s = typical_item_s(jobs)
    assert typical_s == 0.25
    for worked_s, is_over in ((1.9, False), (2.0, False), (2.1, True)):
        jobs[0].worked_s = worked_s
        assert is_over_usual(jobs[0], typical_s) is is_over
    jobs[0].items, jobs[0].worked_s = 1, 1.2  # five times the usual, but not a second more
    assert not is_over_usual(jobs[0], typical_s)
    jobs[0].items = None
    assert not is_over_usual(jobs[0], typical_s)


def test_a_job_with_a_limit_is_over_time_if_it_or_a_batch_exceeds_that() -> None:
    run = small_run()
    for job in run.jobs.values():
        job.worked_s, job.limit_s = 90.0, 100.0  # over what is usual is not over the limit
    run.jobs[1].worked_s = 4.0
    assert over_time(run) == set()
    run.jobs[1].worked_s = 101.0
    run.jobs[4].batches, run.batches[3].jobs = [3], {4: None}
    run.batches[3].is_lost, run.batches[3].ended_at_s = True, 107.0 + 100.5
    assert over_time(run) == {1, 4}


def test_spans_that_overlap_count_once() -> None:
    assert union_s([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert union_s([]) == 0


def test_a_device_is_busy_with_batches_and_plain_jobs() -> None:
    run = small_run()
    run.leases[9] = LeaseView(9, "rule t", "t", granted_at_s=105.5, released_at_s=109.5)
    run.leases[9].devices = ("cuda:0",)
    first, second = device_rows(run)
    assert first["busy_s"] == pytest.approx(4.5)  # from 105 to 109.5, the second batch within it
    assert first["busy_share"] == pytest.approx(4.5 / 20)
    assert second["busy_s"] == pytest.approx(1.0)


def test_a_devices_time_goes_to_jobs_nobody_others_and_none() -> None:
    run = small_run()
    first = run.workers["m.0"]
    first.spans = [Span(Activity.START, 100.0, 101.0), Span(Activity.IMPORT, 101.0, 103.0)]
    first.spans += [Span(Activity.LOAD, 103.0, 104.0), Span(Activity.IDLE, 104.0, 105.0)]
    first.spans += [Span(Activity.BATCH, 105.0, 106.0, 1), Span(Activity.BATCH, 107.0, 108.0, 3)]
    row, other = time_rows(run)
    assert row == {
        "name": "cuda:0",
        "jobs": pytest.approx(1.75),
        "nobody": 0.25,
        "import": 3.0,
        "load": 1.0,
        "move": 0,
        "lease": 0,
        "idle": 1.0,
        "empty": pytest.approx(13.0),
    }
    assert other["empty"] == run.wall_s


# -- the whole ------------------------------------------------------------------------------------
def test_batches_say_who_was_in_them_and_with_what_share() -> None:
    data = report_data(small_run())
    assert data["batches"]["parts"] == [2, 2, 1]
    # Each number is the step from the one before in the same batch.
    assert data["parts"] == {"job": [0, 1, 0, 1, 2], "share": [600, 400, 600, 400, 750]}
    assert column(data["batches"]["start"]) == [50_000, 60_000, 70_000]
    assert data["batches"]["overhead_us"] == [0, 0, 250_000]


def test_jobs_have_their_state_cost_and_files() -> None:
    run = small_run()
    run.jobs[2].inputs, run.jobs[2].n_inputs = ("a.fa", "b.fa"), 5
    run.jobs[4].error = "it failed"
    data = report_data(run)
    jobs = data["jobs"]
    states = [tuple(JobState)[number] for number in jobs["state"]]
    assert states == [job.state for job in run.jobs.values()]
    assert jobs["words"] == ["n=1", "n=2", "n=3", "n=4"]
    assert jobs["device_us"] == [500_000] * 4
    assert (jobs["inputs"][1], jobs["n_inputs"][1]) == ("a.fa\nb.fa", 5)
    assert [data["texts"][n] if n >= 0 else "" for n in jobs["error"]] == ["", "", "", "it failed"]


def test_many_long_messages_and_paths_are_cut() -> None:
    run = small_run()
    for job_id in range(100, 400):
        job = JobView(job_id, f"rule r (n={job_id})", "r", {"n": str(job_id)})
        job.state, job.error = JobState.FAILED, f"{job_id} begins {'x' * 9_000} ends {job_id}"
        run.jobs[job_id] = job
    data = report_data(run)
    texts = data["texts"]
    assert len(texts) == 300
    assert sum(map(len, texts)) < 1_200_000
    assert len(texts[0]) > 9_000
    assert texts[-1].startswith("399 begins") and texts[-1].endswith("ends 399")
    for job_id in range(1_000, 21_000):
        paths = tuple(f"in/{job_id}/{number}.txt" for number in range(20))
        run.jobs[job_id] = JobView(job_id, "rule r", "r", inputs=paths, n_inputs=50)
    jobs = report_data(run)["jobs"]
    assert jobs["inputs"][-1] == "in/20999/0.txt\nin/20999/1.txt\nin/20999/2.txt"
    assert jobs["n_inputs"][-1] == 50


def test_a_title_that_is_no_rule_and_wildcards_is_kept() -> None:
    run = small_run()
    run.jobs[1].title, run.jobs[1].wildcards = "call 7 of esm2_embed", {}
    run.jobs[2].title, run.jobs[2].wildcards = "rule r", {}
    assert report_data(run)["jobs"]["words"][:2] == ["call 7 of esm2_embed", ""]


def test_open_spans_reach_to_what_was_heard_last() -> None:
    run = small_run()
    run.ended_at_s, run.last_at_s = None, 118.0
    run.workers["m.0"].open_span = Span(Activity.LOAD, 108.0, None)
    run.batches[3].ended_at_s = run.batches[3].seconds = None
    data = report_data(run)
    assert data["spans"]["ticks"] == [100_000]
    assert data["batches"]["ticks"][2] == 110_000
    assert (data["batches"]["going"][2], data["batches"]["us"][2]) == (1, -1)


def test_an_empty_run_has_data_too() -> None:
    data = report_data(RunView(Path("/w/run"), "run"))
    assert data["estimate"] is None
    assert data["jobs"]["state"] == data["rules"] == data["devices"] == []
    json.dumps(data, allow_nan=False)


def test_what_the_data_says_is_what_the_lines_say(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", Shape(jobs=200, failed=7))
    data = report_data(read_run(directory))
    jobs, batches, parts = data["jobs"], data["batches"], data["parts"]
    ids = column(jobs["id"])
    assert Counter(jobs["state"]) == Counter(
        {
            tuple(JobState).index(JobState.DONE): 200 - 7 + 3,
            tuple(JobState).index(JobState.FAILED): 7,
            tuple(JobState).index(JobState.LOST): 1,
        }
    )
    done = {event["batch"]: event for event in lines_of(directory, "batch_done")}
    at = 0
    for number, size in zip(column(batches["id"]), batches["parts"], strict=True):
        members = list(accumulate(parts["job"][at : at + size]))
        at += size
        charged = {ids[member] for member in members}
        merged = {e["job_id"] for e in lines_of(directory, "dispatch_saved")}
        assert charged - merged == set(done[number]["jobs"])
    assert at == len(parts["job"])
    # What was computed beforehand was charged to nobody, and then to the job that came for it.
    charged_s = [[*e["device_s"], *e.get("overhead_s", {}).values()] for e in done.values()]
    total_s = sum(map(sum, charged_s))
    shown_s = sum(max(value, 0) for value in jobs["device_us"]) / 1e6
    plain_s = sum(row["leased_s"] for row in data["rules"])
    assert shown_s - plain_s == pytest.approx(total_s, rel=1e-3)
    kinds = Counter(MARK_KINDS[kind] for kind in data["marks"]["kind"])
    assert kinds == {"evicted": 1, "worker_died": 1, "note": 1}
    spans = Counter(SPAN_KINDS[kind] for kind in data["spans"]["kind"])
    assert spans[Activity.READ] == 200
    assert spans[Activity.WRITE] == 200 - 7
    assert spans[Activity.LOAD] == 5


@pytest.mark.parametrize(
    "order", [("worker_ended", "worker_died"), ("worker_died", "worker_ended")]
)
def test_a_death_is_one_mark_whatever_is_said_first(order: tuple[str, str]) -> None:
    reader = EventReader(RunView(Path("/w/run"), "run"))
    worker = {"worker": "m.0"}
    reader.take("worker_started", 1.0, {**worker, "tool": "t", "devices": ["cuda:0"], "pid": 1})
    for kind in order:
        reader.take(kind, 2.0, {**worker, "reason": "killed by signal 9", "expected": False})
    assert reader.damaged_lines == 0
    assert [mark.kind for mark in reader.run.workers["m.0"].marks] == ["worker_died"]
