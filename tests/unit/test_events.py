"""The event log on a disk that is full, or gone: lines are lost, never a run (W9, W10)."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from snakemake_executor_gpupool.records.events import EventLog


def test_a_full_disk_costs_lines_only() -> None:
    log = EventLog(Path("/dev/full"))
    for number in range(3):
        log.write("job_done", {"job_id": number})
        log.flush()
    assert log.error is not None and log.error.errno == errno.ENOSPC
    log.close()


def test_a_directory_that_is_gone_costs_lines_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone" / "events.jsonl")
    log.write("job_done", {})
    log.close()
    assert log.error is not None and log.error.errno == errno.ENOENT


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("first", {})
    log.flush()
    real = log._file

    class AlmostFull:
        def write(self, data: bytes) -> int:
            assert real is not None
            return real.write(data[:10])

    log._file = AlmostFull()  # type: ignore[assignment]
    log.write("second", {})
    log.flush()
    log._file = real
    log.write("third", {})
    log.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["event"] == "first"
    assert json.loads(lines[2])["event"] == "third"
    assert len(lines) == 3


def test_text_that_nothing_can_encode_is_escaped(tmp_path: Path) -> None:  # W5
    log = EventLog(tmp_path / "events.jsonl")
    log.write(
        "job_failed",
        {"error": "caf\u00e9 \U0001f600 \udc80", "jobs": [["\ud800"], {"a": "\udcff"}]},
    )
    log.close()
    told = json.loads((tmp_path / "events.jsonl").read_text())
    assert told["error"] == "caf\u00e9 \U0001f600 \\udc80"
    assert told["jobs"] == [["\\ud800"], {"a": "\\udcff"}]


def test_whoever_waits_for_the_file_hears_of_it_once(tmp_path: Path) -> None:
    begun: list[bool] = []
    path = tmp_path / "events.jsonl"
    log = EventLog(path, begun=lambda: begun.append(path.exists()))
    log.write("one", {})
    assert begun == []
    for _ in range(2):
        log.flush()
        log.write("two", {})
    log.close()
    assert begun == [True]
