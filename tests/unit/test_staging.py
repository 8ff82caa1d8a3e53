"""Outputs staged before their job is ready: published whole and as guessed, or not at all (M5)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.worker.staging import Staging, digest, publish


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of one file and one directory, with a log."""
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("input")
    Path("in.dir").mkdir()
    Path("in.dir", "a").write_text("a")
    return Job("r", {}, ["in.txt", "in.dir"], Named(["out/x", "other/x"]), log=["log/x"])


def staged(job: Job) -> tuple[list[str], list[str], list[str]]:
    """Stage a job's outputs; return what is needed to publish them."""
    aside = Staging(str(Path("run/staged-1").absolute())).aside(job)
    for path in (*aside.output, *aside.log):
        assert not Path(path).exists()
        Path(path).write_text(f"of {path[-1]}")
    assert len({*aside.output, *aside.log}) == 3, "equal base names do not meet"
    return [digest(path) for path in job.input], list(aside.output), list(aside.log)


def test_staged_outputs_are_published_if_the_inputs_are_the_same(job: Job) -> None:
    told = staged(job)
    Path("log").mkdir()
    Path("log/x").write_text("before, ")
    assert publish(job, *told)
    assert Path("out/x").read_text() == Path("other/x").read_text() == "of x"
    assert Path("log/x").read_text() == "before, of x"
    assert not [path for path in Path("run").rglob("*") if path.is_file()]


@pytest.mark.parametrize("change", ["content", "file of directory", "new file", "output gone"])
def test_nothing_is_published_if_anything_differs(job: Job, change: str) -> None:
    told = staged(job)
    match change:
        case "content":
            Path("in.txt").write_text("Input")
        case "file of directory":
            Path("in.dir/a").write_text("b")
        case "new file":
            Path("in.dir/b").write_text("")
        case "output gone":
            Path(told[1][1]).unlink()
    assert not publish(job, *told)
    assert not Path("out").exists() and not Path("other").exists() and not Path("log").exists()


def test_many_files_of_one_name_are_placed_without_looking_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    exists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: looks.append(path) or exists(path))
    staging = Staging(str(tmp_path / "staged-1"))
    places: list[str] = []
    for n in range(300):
        places.append(staging.aside(Job(output=[f"{n}/x"])).output[0])
        Path(places[-1]).touch()
    assert len(set(places)) == 300
    assert len(looks) < 4 * 300
    for place in places:
        Path(place).unlink()
    again = {staging.aside(Job(output=["x"])).output[0] for _ in range(5)}
    assert again <= set(places), "folders are used again"
