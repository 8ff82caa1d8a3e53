"""Old runs go, up to a bound, and nothing else ever does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_gpupool.frontends.snakemake.pool_options import bounds_of
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.records.housekeeping import Bounds, has_failed, remove_old_runs
from snakemake_executor_gpupool.records.owned import OwnedDirectory

ALL = Bounds(0, 0)


def make(root: Path, number: int, *, failed: bool = False, size: int = 0, **extra: Any) -> Path:
    run = root / f"20260101-0000{number:02d}-{1000 + number}"
    (run / "workers").mkdir(parents=True)
    (run / "workers" / "t.1.log").write_bytes(b"x" * size)
    lines = [{"time_s": 1e9 + number, "event": "run_started"}, *extra.get("events", [])]
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "summary.json").write_text(json.dumps({"jobs_failed": int(failed)}))
    return run


def names(root: Path) -> list[str]:
    return sorted(path.name[13:15] for path in root.iterdir() if path.name.startswith("2026"))


def test_the_oldest_go_beyond_a_number(tmp_path: Path) -> None:
    runs = [make(tmp_path, number) for number in range(6)]
    assert remove_old_runs(tmp_path, runs[-1], Bounds(4, 0)) == runs[:2]
    assert names(tmp_path) == ["02", "03", "04", "05"]
    assert remove_old_runs(tmp_path, runs[-1], Bounds(4, 0)) == []
    assert remove_old_runs(tmp_path, runs[-1], ALL) == []
    assert remove_old_runs(tmp_path, runs[-1], Bounds(1, 0)) == runs[2:5]


def test_the_oldest_go_beyond_a_size(tmp_path: Path) -> None:
    runs = [make(tmp_path, number, size=2**20) for number in range(4)]
    remove_old_runs(tmp_path, runs[-1], Bounds(0, 3))
    assert names(tmp_path) == ["02", "03"]
    remove_old_runs(tmp_path, runs[-1], Bounds(0, 1))
    assert names(tmp_path) == ["03"], "the run at hand stays, however large"


def test_the_options_are_the_bounds() -> None:
    assert bounds_of(ExecutorSettings(keep_runs=3, keep_runs_mib=5)) == Bounds(3, 5)
    assert bounds_of(ExecutorSettings()) == Bounds()
    for name in ("keep_runs", "keep_runs_mib"):
        with pytest.raises(WorkflowError, match=f"--gpupool-{name.replace('_', '-')} "):
            bounds_of(ExecutorSettings(**{name: -1}))


def test_the_newest_failed_one_stays(tmp_path: Path) -> None:
    make(tmp_path, 0, failed=True)
    make(tmp_path, 1, failed=True)
    runs = [make(tmp_path, number) for number in range(2, 6)]
    remove_old_runs(tmp_path, runs[-1], Bounds(2, 0))
    assert names(tmp_path) == ["01", "04", "05"]


@pytest.mark.parametrize(
    "event",
    [
        {"time_s": 2e9, "event": "lease_released", "job_id": 1, "error": "x"},
        {"time_s": 2e9, "event": "lease_failed", "job_id": 1, "error": "x"},
        {"time_s": 2e9, "event": "pool_failed", "error": "x"},
    ],
)
def test_what_counts_as_failed(tmp_path: Path, event: dict[str, Any]) -> None:
    assert has_failed(make(tmp_path, 1, events=[event]))
    fine = {"time_s": 2e9, "event": "lease_released", "job_id": 1}
    assert not has_failed(make(tmp_path, 2, events=[fine]))
    killed = make(tmp_path, 3)
    (killed / "summary.json").unlink()
    assert has_failed(killed)


def test_one_that_goes_on_stays(tmp_path: Path) -> None:
    runs = [make(tmp_path, number) for number in range(4)]
    owned = OwnedDirectory(runs[0])
    (runs[1] / ".lock").write_text("of another machine, or from before a restart")
    remove_old_runs(tmp_path, runs[-1], Bounds(1, 0))
    assert names(tmp_path) == ["00", "01", "03"]
    owned.let_go()
    remove_old_runs(tmp_path, runs[-1], Bounds(1, 0))
    assert names(tmp_path) == ["01", "03"]


def test_what_is_no_run_stays(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    precious = make(elsewhere, 0)
    runs = [make(root, number) for number in range(1, 4)]
    (root / precious.name).symlink_to(precious)
    (root / "latest").symlink_to(runs[-1].name)
    (root / "20250101-000000-1").mkdir()
    (root / "20250101-000000-1" / "mine.txt").write_text("kept")
    (root / "20250101-000000-2").write_text("a file")
    odd = root / "results"
    odd.mkdir()
    (odd / "events.jsonl").write_text('{"time_s": 1}')  # older than any run
    (odd / "summary.json").write_text('{"jobs_failed": 0}')
    linked = root / "20250101-000000-3"
    linked.mkdir()
    (linked / "events.jsonl").symlink_to(precious / "events.jsonl")
    inner = runs[0] / "out"
    inner.symlink_to(elsewhere)
    assert remove_old_runs(root, runs[-1], Bounds(1, 0)) == runs[:2]
    assert (precious / "events.jsonl").exists() and (precious / "workers" / "t.1.log").exists()
    left = sorted(path.name for path in root.iterdir())
    assert left == sorted(
        [
            precious.name,
            "latest",
            runs[-1].name,
            "results",
            *(f"20250101-000000-{number}" for number in (1, 2, 3)),
        ]
    )


def test_what_another_user_has_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make(tmp_path, number) for number in range(3)]
    unused = tmp_path / "20260101-000009-1"
    unused.mkdir()
    os.utime(unused, (1e9, 1e9))
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert remove_old_runs(tmp_path, runs[-1], Bounds(1, 0)) == []
    assert names(tmp_path) == ["00", "01", "02", "09"]


def test_what_cannot_be_removed_ends_no_run(tmp_path: Path) -> None:
    assert remove_old_runs(tmp_path / "none", tmp_path / "none" / "x", Bounds(1, 1)) == []
    runs = [make(tmp_path, number) for number in range(3)]
    if os.getuid() != 0:
        runs[0].chmod(0o500)
    remove_old_runs(tmp_path, runs[-1], Bounds(1, 0))
    assert runs[-1].exists()
    if os.getuid() != 0:
        runs[0].chmod(0o700)


def test_one_that_goes_on_does_not_take_the_place_of_the_newest_failed(tmp_path: Path) -> None:
    make(tmp_path, 0, failed=True)
    runs = [make(tmp_path, number) for number in range(1, 5)]
    (runs[1] / "summary.json").unlink()  # not written before its end
    owned = OwnedDirectory(runs[1])
    remove_old_runs(tmp_path, runs[-1], Bounds(1, 0))
    assert names(tmp_path) == ["00", "02", "04"]
    owned.let_go()


@pytest.mark.parametrize("damage", ["[" * 100_000, '{"time_s": 1' + "0" * 400 + "}", "[1]", "3"])
def test_whatever_a_run_has_left_ends_no_other(tmp_path: Path, damage: str) -> None:
    runs = [make(tmp_path, number) for number in range(3)]
    (runs[0] / "events.jsonl").write_text(f"{damage}\n")
    (runs[0] / "summary.json").write_text(damage)
    remove_old_runs(tmp_path, runs[-1], Bounds(1, 0))
    assert runs[-1].exists()


def test_what_was_made_for_runs_in_which_nothing_happened_goes(tmp_path: Path) -> None:
    current = make(tmp_path, 9)
    for number, extra in enumerate(("", "workers/t.log", "spool/x", "note.txt", "", "")):
        unused = tmp_path / f"20260101-0000{number:02d}-1"
        for name in ("workers", "spool"):
            (unused / name).mkdir(parents=True)
        if extra:
            (unused / extra).touch()
        if number != 4:  # that one is being made
            os.utime(unused, (1e9, 1e9))
    owned = OwnedDirectory(unused)  # the last one has begun, long ago
    os.utime(unused, (1e9, 1e9))
    remove_old_runs(tmp_path, current, ALL)
    assert names(tmp_path) == ["01", "02", "03", "04", "05", "09"]
    owned.let_go()
    assert (tmp_path / "20260101-000003-1/workers").is_dir(), (
        "whatever else is there: it stays whole"
    )
