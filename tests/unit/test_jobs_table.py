"""``jobs.tsv``: a line for each job that has ended, in Nextflow's words where they fit."""

from __future__ import annotations

import csv
import stat
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.records.jobs_table import COLUMNS, NEXTFLOWS, JobsTable
from snakemake_executor_gpupool.testing.simulation import World
from tests.unit.run_files import EPOCH_S, events_of
from tests.unit.test_runs import world_with_everything

#: Nextflow's trace fields, from its documentation ("Trace file").
TRACE_FIELDS = {
    *("task_id", "hash", "native_id", "process", "tag", "name", "status", "exit", "module"),
    *("container", "cpus", "time", "disk", "memory", "attempt", "submit", "start", "complete"),
    *("duration", "realtime", "queue", "%cpu", "%mem", "rss", "vmem", "peak_rss", "peak_vmem"),
    *("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "vol_ctxt", "inv_ctxt"),
    *("env", "workdir", "script", "scratch", "error_action", "hostname", "cpu_model"),
}


def table_of(path: Path, events: list[dict[str, Any]], *, close: bool = True) -> list[Any]:
    table = JobsTable(path)
    for event in events:
        fields = {name: value for name, value in event.items() if name not in ("time_s", "event")}
        table.take(event["time_s"], event["event"], fields)
    table.flush()
    if close:
        table.close()
    elif table._file is not None:
        table._file.close()
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_its_columns_are_nextflows_where_they_have_the_same_name() -> None:
    assert set(NEXTFLOWS) <= TRACE_FIELDS
    assert not (set(COLUMNS) - set(NEXTFLOWS)) & TRACE_FIELDS


def test_each_job_has_a_line(tmp_path: Path) -> None:
    world = world_with_everything()
    path = tmp_path / "jobs.tsv"
    rows = {row["task_id"]: row for row in table_of(path, events_of(world))}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(rows) == {"1", "2", "3", "4", "5"}
    first, failed = rows["1"], rows["5"]
    assert (first["process"], first["tag"], first["name"]) == ("-", "-", "rule r (job=1)")
    assert (first["status"], first["exit"], failed["status"], failed["exit"]) == (
        "COMPLETED",
        "0",
        "FAILED",
        "-",
    )
    assert int(first["submit"]) == 1000 * EPOCH_S
    submit, start, complete = (int(first[name]) for name in ("submit", "start", "complete"))
    assert int(first["duration"]) == complete - submit
    assert int(first["realtime"]) == complete - start
    (done,) = [each for each in world.notes("job_done") if each["job_id"] == 1]
    assert float(first["device_s"]) == round(done["device_s"], 6)
    assert (rows["2"]["items"], rows["2"]["duplicates"], first["device"]) == ("3", "2", "cuda")
    assert failed["error"].startswith("rule r (job=5)") and first["error"] == "-"


def test_what_would_break_a_line_is_a_space(tmp_path: Path) -> None:
    fields = {"job": "rule a (x=1\t2\n3)", "rule": "a", "wildcards": {"x": "1\t2\n3"}, "job_id": 1}
    submitted = {"time_s": 1.0, "event": "job_submitted", **fields}
    error = "first\nsecond\tthird \ud800"
    failed = {"time_s": 2.0, "event": "job_failed", "job": "", "job_id": 1, "error": error}
    (row,) = table_of(tmp_path / "jobs.tsv", [submitted, failed])
    assert (row["tag"], row["name"], row["error"]) == ("x=1 2 3", "rule a (x=1 2 3)", "first")


def test_jobs_that_the_run_left_open_were_aborted(tmp_path: Path) -> None:
    world = World(gpus=1, cpus=0)
    world.submit(1, ["a"])
    world.submit(2, ["b"], model="other")
    world.run(until_s=2.5)
    events = events_of(world)[:-1]
    rows = table_of(tmp_path / "going.tsv", events, close=False)
    assert [row["status"] for row in rows] == ["COMPLETED"]
    rows = table_of(tmp_path / "closed.tsv", events)
    assert [row["status"] for row in rows] == ["COMPLETED", "ABORTED"]


def test_a_plain_job_with_devices_has_a_line(tmp_path: Path) -> None:
    world = World(gpus=2)
    world.lease(7, DeviceSpec("cuda", 2), hold_s=3.0)
    world.run()
    (row,) = table_of(tmp_path / "jobs.tsv", events_of(world))
    assert (row["kind"], row["status"], row["device"]) == ("leased", "COMPLETED", "cuda")
    assert float(row["device_s"]) == 6.0 and row["items"] == "-"


def test_a_full_disk_costs_lines_only() -> None:
    table = JobsTable(Path("/dev/full"))
    table.take(1.0, "job_submitted", {"job": "a", "job_id": 1})
    table.take(2.0, "job_done", {"job": "a", "job_id": 1})
    table.flush()
    table.close()
