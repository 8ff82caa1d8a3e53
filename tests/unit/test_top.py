"""``gpupool top``: what a run is at, from its files."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.main import main
from snakemake_executor_gpupool.frontends.commandline.top import frame
from snakemake_executor_gpupool.records.progress import ModelState, Progress
from snakemake_executor_gpupool.records.report.rules import device_rows
from snakemake_executor_gpupool.records.runs.live import Snapshot, remaining, snapshot
from snakemake_executor_gpupool.records.runs.reader import EventReader, read_run
from snakemake_executor_gpupool.records.runs.values import RunView
from tests.unit.run_files import EPOCH_S, events_of, leave
from tests.unit.test_runs import WORLD


def text_of(shot: Snapshot) -> str:
    from rich.console import Console

    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(frame(shot))
    return capture.get()


def view(events: list[dict[str, object]], until_s: float = math.inf) -> RunView:
    """A run as its file showed it at a moment."""
    run = RunView(Path("run"), "run")
    lines = [json.dumps(e) for e in events if float(str(e["time_s"])) <= EPOCH_S + until_s]
    EventReader(run).feed("".join(f"{line}\n" for line in lines).encode())
    return run


EVENTS = [
    {"event": "run_started", "devices": ["cuda:0", "cuda:1", "cpu:0"], "format": 2},
    *(
        {"event": "job_submitted", "job": f"rule up (n={n})", "job_id": n, "rule": "up"}
        for n in range(1, 5)
    ),
    {"event": "device_granted", "worker": "t.1", "devices": ["cuda:0"]},
    {"event": "worker_started", "worker": "t.1", "tool": "t", "devices": ["cuda:0"], "pid": 7},
    {"event": "load_sent", "worker": "t.1"},
    {"event": "model_loaded", "worker": "t.1", "model": "esm", "seconds": 1.0},
    {
        "event": "batch_sent",
        "batch": 1,
        "worker": "t.1",
        "items": 6,
        "tokens": 60,
        "longest_tokens": 10,
        "jobs": [1, 2],
    },
    {"event": "batch_done", "batch": 1, "worker": "t.1", "seconds": 1.0},
    {"event": "job_done", "job": "rule up (n=1)", "job_id": 1},
    {
        "event": "job_failed",
        "job": "rule up (n=2)",
        "job_id": 2,
        "error": "no \x1b[31msuch\nletter",
    },
    {
        "event": "batch_sent",
        "batch": 2,
        "worker": "t.1",
        "items": 1,
        "tokens": 5,
        "longest_tokens": 5,
        "jobs": [3],
    },
    {"event": "lease_requested", "job": "rule alone", "job_id": 9, "rule": "alone"},
    {"event": "lease_granted", "job": "rule alone", "job_id": 9, "devices": ["cuda:1"]},
]
#: One event a second.
TIMED = [{"time_s": EPOCH_S + n, **event} for n, event in enumerate(EVENTS)]


def test_a_run_that_goes_on() -> None:  # R1
    shot = snapshot(view(TIMED), EPOCH_S + 20)
    first, second, third = shot.devices
    assert (first.model, first.doing) == ("esm", "computing for 7 s")
    assert first.batch == "1 items of 1 job"
    # From 9 s to 10 s with the first batch, from 13 s on with the second.
    assert first.busy_share == pytest.approx(8 / 20)
    assert (second.doing, second.busy_share) == ("leased to rule alone", pytest.approx(5 / 20))
    assert (third.doing, third.busy_share, third.batch) == ("free", 0.0, "")
    up, alone = shot.rules
    assert (up.rule, up.done, up.failed, up.done + up.running + up.waiting + up.failed) == (
        *("up", 1, 1),
        4,
    )
    assert (alone.rule, alone.running) == ("alone", 1)
    assert (shot.items_per_s, shot.tokens_per_s) == (pytest.approx(6 / 20), pytest.approx(60 / 20))
    assert (shot.jobs_done, shot.jobs_known, shot.state) == (1, 4, "going")
    text = text_of(shot)
    assert "failed: no \\x1b[31msuch" in text, "nothing that a terminal obeys"
    assert "letter" not in text, "one line"
    assert "####......  40%" in text


def test_rates_and_shares_are_those_of_the_last_half_minute() -> None:  # R1
    released = {"event": "lease_released", "job": "rule alone", "job_id": 9}
    done = {"event": "batch_done", "batch": 2, "worker": "t.1", "seconds": 27.0}
    events = [
        *TIMED,
        {"time_s": EPOCH_S + 35, **released},
        {"time_s": EPOCH_S + 40, **done},
    ]
    shot = snapshot(view(events), EPOCH_S + 60)
    # The first batch was before; the second from 13 s to 40 s, the lease from 15 s to 35 s.
    assert (shot.items_per_s, shot.tokens_per_s) == (pytest.approx(1 / 30), pytest.approx(5 / 30))
    shares = [device.busy_share for device in shot.devices]
    assert shares == pytest.approx([10 / 30, 5 / 30, 0.0])


def test_what_is_shown_is_what_the_view_holds_at_any_moment() -> None:
    events = events_of(WORLD)
    for moment_s in [number * WORLD.now_s / 20 for number in range(21)]:
        run = view(events, moment_s)
        shot = snapshot(run, EPOCH_S + moment_s)
        shown = sum(r.done + r.running + r.waiting + r.failed for r in shot.rules)
        assert shown == len(run.jobs) + len(run.leases)
        assert all(0.0 <= device.busy_share <= 1.0 for device in shot.devices)
        assert text_of(shot).startswith("gpupool run run")
        assert json.loads(json.dumps(dataclasses.asdict(shot)))["run"] == "run"


def test_the_estimate_holds_four_times_of_five() -> None:
    """Jobs that finish at random, at a steady rate: the real end is in the interval."""
    rng, inside, trials = random.Random(0), 0, 400
    for _ in range(trials):
        at_s, ends_s = 0.0, []
        for _ in range(60):
            at_s += rng.expovariate(2.0)
            ends_s.append(at_s)
        now_s = ends_s[29]
        left = remaining(ends_s[:30], 60, 0.0, now_s)
        assert left is not None
        assert left.low_s <= left.likely_s <= left.high_s
        inside += left.low_s <= ends_s[-1] - now_s <= left.high_s
    assert inside >= 0.75 * trials


def test_the_estimate_is_by_the_rate_of_late_and_holds_that_of_the_whole_run() -> None:
    early_s, late_s = [float(n) for n in range(1, 41)], [75.0, 80.0, 85.0, 90.0, 95.0, 100.0]
    left = remaining([*early_s, *late_s], 56, 0.0, 100.0)
    assert left is not None
    assert left.likely_s == pytest.approx(10 * 30 / 6)
    assert left.low_s < 10 * 100 / 46 < left.likely_s < left.high_s


def test_no_estimate_before_a_few_jobs_are_done_nor_after_all_are() -> None:
    assert remaining([1.0, 2.0], 10, 0.0, 3.0) is None
    assert remaining([1.0, 2.0, 3.0], 3, 0.0, 3.0) is None


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = leave(tmp_path / "run", TIMED)
    assert main(["top", "--once", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "killed" in printed and "rule" in printed, "its process is gone"
    assert main(["top", "--json", str(run)]) == 0
    shot = json.loads(capsys.readouterr().out)
    assert (shot["state"], shot["jobs_known"], len(shot["devices"])) == ("killed", 4, 3)
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"time_s": 1, "ev')
    assert main(["top", "--once", str(run)]) == 0
    assert "1 damaged line of events.jsonl left out" in capsys.readouterr().out


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_progress_says_for_how_long_a_model_has_been_loading() -> None:  # R1
    def line(last_load_s: float | None) -> str:
        state = ModelState(
            *("k", "esm2 (650M)", 0, 5, 9),
            is_active=True,
            remaining_s=None,
            devices=("cuda:0",),
            loading_s=25.0,
            last_load_s=last_load_s,
        )
        return Progress(0.0).lines([state], 10.0)[0]

    assert line(26.0).startswith("gpupool: loading esm2 (650M) (25 s so far, 26 s last time)")
    assert line(None).startswith("gpupool: loading esm2 (650M) (25 s so far) on cuda:0")


def test_a_plain_job_that_has_ended_was_on_its_device() -> None:  # R1
    released = {"event": "lease_released", "job": "rule alone", "job_id": 9}
    ended = {"event": "run_ended", "wall_s": 20.0}
    events = [
        *TIMED,
        {"time_s": EPOCH_S + 18, **released},
        {"time_s": EPOCH_S + 20, **ended},
    ]
    going = snapshot(view(events, 19), EPOCH_S + 20).devices[1]
    over = snapshot(view(events), EPOCH_S + 1000).devices[1]
    for device in (going, over):  # leased from 15 s to 18 s
        assert (device.doing, device.busy_share) == ("free", pytest.approx(3 / 20))


def test_workers_that_share_a_device_are_busy_together_once() -> None:
    one = {"items": 1, "tokens": 5, "longest_tokens": 5, "jobs": [3]}
    other = {"worker": "t.2", "devices": ["cuda:0"]}
    events = [
        *TIMED,
        {"time_s": EPOCH_S + 16, "event": "worker_started", "tool": "t", "pid": 8, **other},
        {"time_s": EPOCH_S + 17, "event": "batch_sent", "batch": 3, "worker": "t.2", **one},
    ]
    first = snapshot(view(events), EPOCH_S + 20).devices[0]
    assert first.busy_share == pytest.approx(8 / 20), "from 9 s to 10 s, from 13 s on"


def test_memory_is_that_of_all_workers_of_a_device_and_a_lost_batch_is_no_work() -> None:  # R1
    other = {"worker": "t.2", "devices": ["cuda:0"]}
    loaded = {"event": "model_loaded", "model": "m", "seconds": 1.0}
    events = [
        *TIMED,
        {"time_s": EPOCH_S + 16, "event": "worker_started", "tool": "t", "pid": 8, **other},
        {"time_s": EPOCH_S + 17, **loaded, "worker": "t.2", "peak_mib": 300},
        {"time_s": EPOCH_S + 17, **loaded, "worker": "t.1", "peak_mib": 500},
        {"time_s": EPOCH_S + 18, "event": "batch_lost", "batch": 2, "worker": "t.1", "lost_s": 1},
    ]
    shot = snapshot(view(events), EPOCH_S + 20)
    assert shot.devices[0].memory_mib == 800
    assert shot.items_per_s == pytest.approx(6 / 20), "those of the first batch alone"


def test_what_happened_last_comes_first() -> None:  # R1
    def event(kind: str, number: int, **more: str) -> dict[str, object]:
        return {"time_s": EPOCH_S + number, "event": kind, "job": "j", "job_id": number, **more}

    submitted = [event("job_submitted", number) for number in range(20, 30)]
    failed = [event("job_failed", number, error=f"e{number}") for number in range(20, 30)]
    shot = snapshot(view([*TIMED, *submitted, *failed]), EPOCH_S + 30)
    assert [text for _, text in shot.events] == [f"failed: e{n}" for n in (29, 28, 27, 26, 25)]
    assert [ago_s for ago_s, _ in shot.events] == pytest.approx([1, 2, 3, 4, 5])


def test_a_run_that_was_killed_has_no_workers_any_more(tmp_path: Path) -> None:
    run = read_run(leave(tmp_path / "run", TIMED))
    shot = snapshot(run, run.end_s)
    assert shot.state == "killed"
    assert [(d.model, d.doing, d.batch) for d in shot.devices] == [("", "free", "")] * 3
    assert shot.devices[0].busy_share == pytest.approx(3 / 15)


def test_jobs_that_were_not_started_are_neither_finished_nor_left() -> None:
    submitted = [{"event": "job_submitted", "job": "j", "job_id": n} for n in range(1, 9)]
    done = [{"event": "job_done", "job": "j", "job_id": n} for n in (1, 2, 3)]
    withdrawn = [{"event": "job_withdrawn", "job": "j", "job_id": n} for n in (4, 5)]
    events = [EVENTS[0], *submitted, *done, *withdrawn]
    shot = snapshot(view([{"time_s": EPOCH_S, **event} for event in events]), EPOCH_S + 9)
    assert shot.jobs_known == 6
    assert shot.remaining is not None
    assert shot.remaining.likely_s == pytest.approx(9.0), "three in 9 s, three are left"


def test_a_device_is_busy_while_it_computes_not_while_its_answer_waits() -> None:
    """The run loop may be late: what counts is what the worker says that it took."""
    events = [dict(event) for event in TIMED]
    done = next(event for event in events if event["event"] == "batch_done")
    done["seconds"] = 0.25
    run = view(events)
    assert snapshot(run, EPOCH_S + 20).devices[0].busy_share == pytest.approx(7.25 / 20)
    assert device_rows(run)[0]["busy_s"] == pytest.approx(0.25 + 2.0)


def test_an_eviction_is_listed_once() -> None:
    world = [
        {"event": "worker_started", "worker": "w.1", "tool": "t", "devices": ["cuda:0"], "pid": 1},
        {"event": "evicted", "worker": "w.1", "devices": ["cuda:0"], "how": "restart"},
        {"event": "worker_stopping", "worker": "w.1", "why": "evicted"},
        {"event": "worker_started", "worker": "w.2", "tool": "t", "devices": ["cuda:0"], "pid": 2},
        {"event": "worker_stopping", "worker": "w.2", "why": "idle"},
    ]
    run = view([{"time_s": EPOCH_S + n, **event} for n, event in enumerate(world)])
    texts = [text for _, text in snapshot(run, EPOCH_S + 9).events]
    assert sorted(texts) == ["w.1: evicted (restart)", "w.2: idle"]
