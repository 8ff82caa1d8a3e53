"""What is known of a workflow's last run: kept, and never believed blindly."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.snakemake import early as early_start
from snakemake_executor_gpupool.frontends.snakemake.early import runs_workflow
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.records import last_run, profile
from snakemake_executor_gpupool.records.last_run import LastRunFile, last_run_path
from snakemake_executor_gpupool.wire.known_process import KnownProcess, LastRun

ONE = KnownProcess(
    *("esm2-embed", "/usr/bin/python", 'source activate; "$@"'),
    variables={"OMP_NUM_THREADS": "1"},
    place=".",
    imports=("torch", "esm.model"),
    code="abc",
    has_model=True,
    count=2,
)


def kept(path: Path) -> LastRunFile:
    return LastRunFile(path, "0.1")


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "early/a.json"
    assert kept(path).read() is None
    kept(path).write(LastRun((ONE, dataclasses.replace(ONE, has_model=False)), 1, 2))
    assert kept(path).read() == LastRun((ONE, dataclasses.replace(ONE, has_model=False)), 1, 2)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"gpupool": "0.0"},
        {"in_vain": "many"},
        {"unfit": None},
        {"processes": {}},
        {"processes": [None]},
        *(
            {"processes": [{**dataclasses.asdict(ONE), name: value}]}
            for name, value in [
                ("imports", ["os; import evil"]),
                ("imports", ["a..b"]),
                ("imports", [1]),
                ("variables", {"A": 1}),
                ("variables", {"A": "\0"}),
                ("variables", ["A"]),
                ("python", None),
                ("count", True),
                ("more", "than is known"),
            ]
        ),
    ],
)
def test_what_it_does_not_understand_is_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    kept(path).write(LastRun((ONE,)))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))
    if change == {"processes": {}}:
        assert kept(path).read() == LastRun()
    else:
        assert kept(path).read() is None


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "\x00"])
def test_garbage_is_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert kept(path).read() is None


def test_what_others_could_have_written_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    for mode in (0o620, 0o602):
        kept(path).write(LastRun((ONE,)))
        path.chmod(mode)
        assert kept(path).read() is None
    kept(path).write(LastRun((ONE,)))
    assert kept(path).read() is not None
    owner = path.stat().st_uid
    monkeypatch.setattr(profile.os, "geteuid", lambda: owner + 1)
    assert kept(path).read() is None


def test_no_more_processes_are_remembered_than_may_be_started(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    kept(path).write(LastRun((ONE,)))
    content = json.loads(path.read_text())
    content["processes"] *= 100
    path.write_text(json.dumps(content))
    last = kept(path).read()
    assert last is not None and len(last.processes) == last_run.MAX_PROCESSES


def test_few_workflows_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_run, "MAX_FILES", 3)
    for number in range(5):
        kept(tmp_path / f"{number}.json").write(LastRun((ONE,)))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["2.json", "3.json", "4.json"]


def test_a_directory_that_cannot_be_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept(tmp_path / "file" / "a.json").write(LastRun((ONE,)))


def test_workflows_have_files_of_their_own(tmp_path: Path) -> None:
    environment = {"GPUPOOL_PROFILE": str(tmp_path / "profile.json")}
    one, two = (last_run_path(environment, name) for name in ("/a/Snakefile", "/b/Snakefile"))
    assert one != two and one is not None and one.parent == tmp_path / "early"
    assert last_run_path({"GPUPOOL_PROFILE": "off"}, "/a/Snakefile") is None


# -- which calls of Snakemake run a workflow ---------------------------------------------------
def arguments(*words: str) -> argparse.Namespace:
    from snakemake.cli import get_argument_parser

    return get_argument_parser().parse_args(["--executor", "gpupool", *words])


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("--jobs 1", True),
        ("--jobs 1 --report-after-run --report r.html", True),
        ("-n", False),
        ("--touch", False),
        ("--lint", False),
        ("--unlock", False),
        ("--dag", False),
        ("--rulegraph", False),
        ("--d3dag", False),
        ("--summary", False),
        ("--list-rules", False),
        ("--report r.html", False),
        ("--containerize", False),
        ("--delete-all-output", False),
        ("--conda-create-envs-only", False),
        ("--cleanup-metadata a", False),
        ("--archive a.tar.gz", False),
        ("--generate-unit-tests", False),
        ("--mode subprocess", False),
        ("--mode remote", False),
    ],
)
def test_only_calls_that_run_a_workflow_begin_early(words: str, runs: bool) -> None:
    assert runs_workflow(arguments(*words.split())) is runs


def test_settings_that_nobody_asked_for_on_a_command_line_start_nothing() -> None:
    ExecutorSettings()
    assert early_start._begun == []


@pytest.mark.parametrize(("module", "begun"), [("snakemake.cli", 1), ("another.cli", 0)])
def test_only_snakemake_s_own_command_line_begins_early(
    module: str, begun: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(early_start, "_begun", [])
    monkeypatch.setattr(early_start.COLLECTOR, "pass_over_imports", lambda: None)
    monkeypatch.setenv("GPUPOOL_PROFILE", str(tmp_path / "profile.json"))
    monkeypatch.delenv("GPUPOOL_LEASE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").touch()
    caller: dict[str, Any] = {"__name__": module, "make": ExecutorSettings}
    exec("def args_to_api(args):\n    make()", caller)
    caller["args_to_api"](arguments("--jobs", "1"))
    assert len(early_start._begun) == begun


@pytest.mark.parametrize(
    ("settings", "lease", "wanted"),
    [
        ({}, None, True),
        ({"early_start": "off"}, None, False),
        ({"server": "auto"}, None, False),
        ({"cluster": "slurm"}, None, False),
        ({}, "", False),
    ],
)
def test_who_starts_processes_elsewhere_starts_none_early(
    settings: dict[str, Any], lease: str | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPUPOOL_LEASE", raising=False)
    if lease is not None:
        monkeypatch.setenv("GPUPOOL_LEASE", lease)
    given = {"server": "off", "cluster": None, "early_start": "auto", **settings}
    assert early_start._is_wanted(SimpleNamespace(**given)) is wanted
