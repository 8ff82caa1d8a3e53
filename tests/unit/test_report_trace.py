"""``gpupool report --trace``: a run's trace from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.main import main
from tests.unit.run_files import events_of, leave, lines_of
from tests.unit.test_runs import WORLD
from tests.unit.trace_format import problems


def test_it_goes_into_the_runs_directory_a_file_or_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave(tmp_path / "run", events_of(WORLD))
    assert main(["report", "--trace", str(run)]) == 0
    path = run / "trace.json"
    assert capsys.readouterr().out.strip() == str(path)
    whole = path.read_text()
    assert problems(json.loads(whole)) == []
    assert main(["report", "--trace", str(run), "-o", str(tmp_path / "t.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trace"] == str(tmp_path / "t.json") and told["bytes"] == len(whole.encode())
    assert main(["report", "--trace", str(run), "-o", "-"]) == 0
    assert capsys.readouterr().out == whole


def test_a_damaged_run_has_one_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = leave(tmp_path / "run", [])
    (run / "events.jsonl").write_bytes(lines_of(events_of(WORLD))[:-20])
    assert main(["report", "--trace", str(run), "-o", "-"]) == 0
    assert problems(json.loads(capsys.readouterr().out)) == []


def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--trace", str(tmp_path / "none")]) == 2
    run = leave(tmp_path / "run", events_of(WORLD))
    assert main(["report", "--trace", str(run), "-o", str(run / "events.jsonl" / "t.json")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("gpupool: ") for line in lines)


def test_where_the_runs_directory_cannot_be_written_another_place_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave(tmp_path / "run", events_of(WORLD))
    (run / "report.html").mkdir()
    assert main(["report", str(run)]) == 1
    told = capsys.readouterr().err
    assert "--output names another place" in told and len(told.splitlines()) == 1
