"""Which call of Snakemake runs a workflow, told from its words alone: never against Snakemake."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.snakemake import early as early_start
from snakemake_executor_gpupool.frontends.snakemake.early import begin_at_import, runs_workflow
from snakemake_executor_gpupool.frontends.snakemake.guess import RUNS_NOTHING, Call, guessed_call
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from tests.unit.test_last_run import arguments

OURS = "--executor gpupool"
PROFILES = {
    "ours/config.yaml": "executor: gpupool\njobs: 4\n",
    "other/config.yaml": "executor: slurm\n",
    "away/config.yaml": "executor: 'gpupool'  # ours\ndirectory: elsewhere\n",
    "served/config.yaml": "executor: gpupool\ngpupool-server: auto\n",
}


def guessed(words: str, **variables: str) -> Call | None:
    return guessed_call(words.split(), variables, lambda path: PROFILES.get(path, ""))


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (f"{OURS} --jobs 1", ("", "")),
        ("--executor=gpupool -c4 all", ("", "")),
        ("-e gpupool -call -s flow.smk -d room", ("flow.smk", "room")),
        ("-egpupool --snakefile=a.smk --directory=b", ("a.smk", "b")),
        ("-pksflow.smk -e gpupool", ("flow.smk", "")),
        ("--profile ours --config a=-n b=2", ("", "")),
        ("--workflow-profile ours -j4", ("", "")),
        (f"{OURS} --report-after-run --gpupool-devices cpu:2", ("", "")),
        (f"{OURS} --rerun-incomplete --forceall --cores 2 --latency-wait 3", ("", "")),
    ],
)
def test_what_the_words_say_plainly(words: str, call: tuple[str, str]) -> None:
    assert guessed(words) == call


@pytest.mark.parametrize(
    "words",
    [
        "--jobs 1",
        "--executor local",
        "--executor gpupool --executor slurm",
        "--profile other",
        "--profile away",
        "--profile served",
        "--profile ours --executor local",
        f"{OURS} --workflow-profile served",
        f"{OURS} --gpupool-early-start off",
        f"{OURS} --gpupool-early off",
        f"{OURS} --gpupool-cluster=slurm",
        f"{OURS} --gpupool-server auto",
        f"{OURS} -np",
        f"{OURS} -pn",
        f"{OURS} --help",
        f"{OURS} -v",
    ],
)
def test_what_they_do_not_is_no_guess(words: str) -> None:
    assert guessed(words) is None


def test_a_profile_of_the_environment_counts_as_snakemake_s_option_does() -> None:
    assert guessed("-j1", SNAKEMAKE_PROFILE="ours") == ("", "")
    assert guessed("-j1", SNAKEMAKE_PROFILE="other") is None
    assert guessed("-j1 --profile other", SNAKEMAKE_PROFILE="ours") is None


@pytest.mark.parametrize(
    "words",
    [
        *("-n", "--dry-run", "--dryrun", "--touch", "-t", "--lint", "--unlock", "--dag"),
        *("--rulegraph", "--d3dag", "--summary", "-S", "-D", "--list-rules", "-l", "--lt"),
        *("--report r.html", "--containerize", "--delete-all-output", "--mode subprocess"),
        *("--conda-create-envs-only", "--cleanup-metadata a", "--archive a.tar.gz"),
        *("--generate-unit-tests", "--list-untracked", "--deploy-sources a b", "--filegraph"),
        *("--detailed-summary", "--list-changes code", "--cleanup-shadow", "--print-compilation"),
        *("--container-cleanup-images", "--delete-temp-output", "--conda-cleanup-envs"),
    ],
)
def test_where_snakemake_runs_no_workflow_there_is_no_guess(words: str) -> None:
    assert not runs_workflow(arguments(*words.split())), "as Snakemake itself reads it"
    assert guessed(f"{OURS} {words}") is None
    assert guessed(f"{words} {OURS}") is None


def test_no_spelling_of_such_an_option_is_guessed() -> None:
    from snakemake.cli import get_argument_parser

    for action in get_argument_parser()._actions:
        if action.dest in RUNS_NOTHING:
            for option in action.option_strings:
                assert guessed(f"{OURS} {option} x") is None, option


class Early:
    """Notes what becomes of it."""

    def __init__(self, *place: str) -> None:
        self.place, self.said = place, list[str]()

    def start(self, *_: Any) -> None:
        self.said.append("started")

    def close(self) -> None:
        self.said.append("closed")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Early]:
    """What was made, by a program that is just importing Snakemake's command line."""
    made: list[Early] = []

    def processes(*place: str) -> Early:
        made.append(Early(*place))
        return made[-1]

    for name in ("_begun", "_guessed"):
        monkeypatch.setattr(early_start, name, [])
    monkeypatch.setattr(early_start, "_processes", processes)
    monkeypatch.setattr(early_start.COLLECTOR, "pass_over_imports", lambda: None)
    monkeypatch.delenv("GPUPOOL_LEASE", raising=False)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").touch()
    importing = ModuleType("snakemake.cli")
    importing.__spec__ = SimpleNamespace(_initializing=True)  # type: ignore[assignment]
    import snakemake.cli

    before = snakemake.cli
    monkeypatch.setitem(sys.modules, "snakemake.cli", importing)
    begin_at_import_with(monkeypatch, f"{OURS} -j1")
    monkeypatch.setitem(sys.modules, "snakemake.cli", before)
    return made


def begin_at_import_with(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["snakemake", *words.split()])
    begin_at_import()


def make_settings(words: str, **given: Any) -> None:
    caller: dict[str, Any] = {
        "__name__": "snakemake.cli",
        "make": lambda: ExecutorSettings(**given),
    }
    exec("def args_to_api(args):\n    make()", caller)
    caller["args_to_api"](arguments(*words.split()))


def test_a_right_guess_is_the_run_s(made: list[Early], tmp_path: Path) -> None:
    (guess,) = made
    assert guess.place == ("Snakefile", str(tmp_path)) and guess.said == ["started"]
    make_settings("-j1")
    assert early_start._begun == [guess] and made == [guess] and guess.said == ["started"]


@pytest.mark.parametrize(
    ("words", "given", "others"),
    [
        ("-j1 --snakefile Other", {}, 1),
        ("-j1 --directory /", {}, 1),
        ("-j1 --dry-run", {}, 0),
        ("-j1", {"early_start": "off"}, 0),
        ("-j1", {"server": "auto"}, 0),
    ],
)
def test_a_wrong_guess_is_given_up(
    made: list[Early], words: str, given: dict[str, Any], others: int, tmp_path: Path
) -> None:
    (tmp_path / "Other").touch()
    make_settings(words, **given)
    assert made[0].said == ["started", "closed"]
    assert early_start._begun == made[1:] and len(made[1:]) == others
    assert early_start._guessed == []


def test_nobody_but_snakemake_s_program_begins_at_import(
    made: list[Early], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_at_import_with(monkeypatch, f"{OURS} -j1")
    assert len(made) == 1, "its command line was imported before"
