"""What past runs tell of the next: figures that follow by hand from events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.runs.history import history_of
from snakemake_executor_gpupool.records.runs.reader import EventReader
from snakemake_executor_gpupool.records.runs.values import RunView


def run_of(*events: tuple[float, str, dict[str, Any]]) -> RunView:
    run = RunView(Path("/run"), "run")
    reader = EventReader(run)
    for time_s, kind, fields in events:
        reader.take(kind, time_s, fields)
    return run


def job(job_id: int, at_s: float, rule: str, **files: Any) -> tuple[float, str, dict[str, Any]]:
    fields = {"job": f"rule {rule}", "job_id": job_id, "rule": rule, "tool": "t", **files}
    return at_s, "job_submitted", fields


def done(job_id: int, at_s: float, **more: Any) -> tuple[float, str, dict[str, Any]]:
    fields = {"job": "", "job_id": job_id, "items": 4, "worked_s": 1.0, "device_s": 1.0}
    return at_s, "job_done", {**fields, **more}


def test_rules_and_tools_and_snakemake() -> None:
    worker = {"worker": "w", "tool": "t", "devices": ["cpu:0"]}
    run = run_of(
        (0.0, "run_started", {"format": 2}),
        job(1, 1.0, "up", outputs=["a"], n_outputs=1),
        (1.0, "worker_started", worker),
        (1.5, "tool_imported", {"worker": "w", "seconds": 0.2}),
        (1.5, "load_sent", {"worker": "w"}),
        (2.0, "model_loaded", {"worker": "w", "model": "M", "seconds": 0.5}),
        (
            2.0,
            "batch_sent",
            {"batch": 1, "worker": "w", "items": 4, "tokens": 20, "longest_tokens": 5, "jobs": [1]},
        ),
        (
            3.0,
            "batch_done",
            {"batch": 1, "worker": "w", "seconds": 1.0, "jobs": [1], "device_s": [1.0]},
        ),
        done(1, 3.0, duplicates=1, saved_s=0.5),
        job(2, 3.25, "low", inputs=["a"], n_inputs=1),
        done(2, 4.0),
        (4.0, "lease_requested", {"job": "rule card", "job_id": 3, "rule": "card"}),
        (5.0, "lease_granted", {"job": "rule card", "job_id": 3, "devices": ["cuda:0"]}),
        (7.5, "lease_released", {"job": "rule card", "job_id": 3}),
    )
    history = history_of([run])
    up = history.rules["up"]
    assert (up.items, up.usual_items, up.duplicates) == ([4], 4.0, 0.25)
    assert up.item_s == pytest.approx((1.0 + 0.5) / 4)
    assert (up.item_tokens, up.batch_items) == (5.0, 4.0)
    assert history.rules["card"].held_s == [2.5]
    assert history.start_s == {"t": pytest.approx(0.5)}
    assert history.batch_s == {"M": 1.0}
    assert history.turnaround_s == pytest.approx(0.25)


def test_the_latest_run_of_a_rule_counts() -> None:
    old = run_of(job(1, 0.0, "up"), done(1, 1.0), job(2, 0.0, "other"), done(2, 1.0, items=9))
    new = run_of(job(1, 0.0, "up"), done(1, 1.0, items=2))
    history = history_of([old, new])
    assert history.rules["up"].items == [2]
    assert history.rules["other"].items == [9]


def test_what_failed_or_has_not_ended_tells_nothing() -> None:
    run = run_of(
        job(1, 0.0, "up"),
        (1.0, "job_failed", {"job": "", "job_id": 1, "error": "no"}),
        job(2, 0.0, "up"),
    )
    assert history_of([run]).rules == {}
    assert history_of([]).turnaround_s is None


def test_results_of_earlier_runs_are_no_measure_of_time() -> None:
    run = run_of(job(1, 0.0, "up"), done(1, 1.0, reused=4, device_s=0.0))
    assert history_of([run]).rules["up"].item_s is None
