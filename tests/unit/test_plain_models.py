"""The model of a job that follows is described anew where anything but numbers chooses it (R2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker import plain_models
from snakemake_executor_gpupool.worker.describe import describe_model, tool_info
from snakemake_executor_gpupool.worker.loaded import for_files
from snakemake_executor_gpupool.worker.plain_models import PlainModels, are_plain


class Plain(Tool):
    reload_on = ("layers",)
    defaults: ClassVar = {"layers": 1, "scale": 1.0, "seed": None}


class Named(Plain):
    """Its default names a file."""

    reload_on = ("weights",)
    defaults: ClassVar = {"weights": "weights.bin"}


class Further(Plain):
    def extra_model_files(self) -> list[str]:
        return ["weights.bin"]


class Choosing(Plain):
    def model_params(self) -> dict[str, Any]:
        return {"weights": "weights.bin"}


class Beginning(Plain):
    def __init__(self, params: Any = None) -> None:
        super().__init__({"weights": "weights.bin"})


class Versioned(Plain):
    @property
    def version(self) -> str:  # type: ignore[override]
        return Path("weights.bin").read_text()


def described(kind: type[Tool], job: Job) -> dict[str, Any]:
    return {**describe_model(for_files(kind, job.params), job.output), "info": tool_info(kind)}


@pytest.mark.parametrize("kind", [Plain, Named, Further, Choosing, Beginning, Versioned])
@pytest.mark.parametrize("params", [{"layers": 2}, {"layers": 2, "weights": "weights.bin"}])
def test_what_is_said_is_what_would_be_found_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Tool], params: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    models = PlainModels()
    said = []
    for content in ("first", "second, longer"):
        Path("weights.bin").write_text(content)
        job = Job(output=["out.txt"], params=params)
        assert models.of(kind, job) == described(kind, job)
        said.append(models.of(kind, job)["model"])
    names_a_file = kind in (Named, Further, Choosing, Versioned)
    assert (said[0] != said[1]) is names_a_file, "so that the line above can fail"


def test_equal_numbers_of_different_types_are_different_params() -> None:
    models = PlainModels()
    jobs = [Job(params={"layers": value}) for value in (1, True, 1.0, None, 2)]
    said = [models.of(Plain, job) for job in jobs]
    assert said == [described(Plain, job) for job in jobs]
    assert models.of(Plain, Job(params={"layers": 1})) is said[0], "made once"


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_models, "MOST", 3)
    models = PlainModels()
    for layers in range(10):
        models.of(Plain, Job(params={"layers": layers}))
        assert len(models._known) <= 3


@pytest.mark.parametrize("value", ["x", b"x", Path("x"), [1], {"a": 1}, float, "1"])
def test_what_may_hold_a_text_is_looked_at_each_time(value: Any) -> None:
    assert are_plain(Plain, {"a": 1, "b": 2.5, "c": None, "d": False})
    assert not are_plain(Plain, {"a": value})
