"""From Snakemake's job to a request of plain values (W3, S1)."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict, defaultdict
from enum import Enum
from pathlib import Path, PurePath, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from snakemake.io import pipe
from snakemake.iocontainers import Params

from snakemake_executor_gpupool.frontends.snakemake.following import DagView
from snakemake_executor_gpupool.frontends.snakemake.plain_values import plain
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    MANY_BYTES,
    MAX_LOOKS,
    build_request,
    identity,
    input_bytes,
    is_served,
    plain_job,
    script_of,
    title,
    tool_spec,
)
from snakemake_executor_gpupool.tool_api.values import PortablePath
from snakemake_executor_gpupool.wire.requests import ToolRef
from tests.unit.stub_workflow import StubDag, StubJob

TOOL = ToolRef("tool", "", "python")


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A workflow that runs nothing."""
    monkeypatch.chdir(tmp_path)
    made = SimpleNamespace(jobs=[], persistence=SimpleNamespace(path=tmp_path))
    made.dag = StubDag(made)
    return made


class Text(str):
    """What Snakemake's own strings are."""


def test_values_become_such_as_any_python_unpickles() -> None:
    value = {"a": [Text("x"), (Text("y"), 1)], Text("b"): {"c": 2.5, "d": None}}
    plained = plain(value)
    assert plained == {"a": ["x", ("y", 1)], "b": {"c": 2.5, "d": None}}
    flat = [*plained, plained["a"][0], plained["a"][1][0]]
    assert {type(one) for one in flat} == {str} and type(plained["a"][1]) is tuple


class Mode(str, Enum):  # noqa: UP042 - as tools for older Pythons write it
    FAST = "fast"


class Size(NamedTuple):
    width: int
    name: Any


def test_what_a_script_could_tell_from_plain_types_stays() -> None:  # S4
    """Under the local executor a script gets them as they are."""
    text = Text("x")
    kept = [Mode.FAST, Size(1, text), OrderedDict(a=text), Counter("ab"), {text}, frozenset([text])]
    missing = defaultdict(int, a=text)
    for value in (*kept, missing):
        seen = pickle.loads(pickle.dumps(plain(value)))
        assert seen == value and type(seen) is type(value)
        parts = seen.values() if isinstance(seen, dict) else [*seen]
        assert Text not in map(type, parts)
    assert plain(missing)["other"] == 0


@pytest.mark.parametrize("path", [PurePosixPath("/data/model"), Path("model"), PurePath("a/b")])
def test_a_path_stays_a_path_for_whatever_python_reads_it(path: PurePath) -> None:
    """The classes of pathlib move from one Python to the next."""
    kept = plain({"model": path, "more": [path]})
    assert isinstance(kept["model"], PortablePath) and isinstance(kept["more"][0], PortablePath)
    data = pickle.dumps(kept, 5)
    assert b"pathlib" not in data.replace(b"PortablePath", b"")
    assert pickle.loads(data)["model"] == path
    again, path = plain(path), Path(path)
    assert {again, plain(path)} == {kept["model"]}, "jobs with equal params are equal"
    assert again not in (str(path), plain(path / "other"))
    assert repr(again) == repr(path), "records say what it is, not where it was in memory"


def test_a_server_is_told_of_relative_paths_in_params(workflow: Any) -> None:  # G1
    relative = {"model": Path("weights/a.pt"), "more": ["beside", "/a", Path("/b")]}
    job = StubJob(workflow, "embed", params=relative, gpupool_tool="tool")
    texts = build_request(workflow, job, 5, TOOL).texts
    assert set(texts) == {"beside", "weights/a.pt", *relative}, "names may be paths, too"


def test_what_a_tool_sees_is_what_the_rule_says(workflow: Any) -> None:
    job = StubJob(
        workflow,
        "embed",
        inputs=["a.fasta", "b.fasta"],
        outputs=["a.npz"],
        params={"model": Path("/m"), "gpupool_tool": "tool", "n": 3},
        gpupool_tool="tool",
        mem_mb=100,
    )
    seen = pickle.loads(pickle.dumps(plain_job(job)))
    assert list(seen.input) == ["a.fasta", "b.fasta"] and seen.input["in1"] == "b.fasta"
    assert list(seen.output) == ["a.npz"] and seen.rule == "embed"
    assert dict(seen.params) == {"model": Path("/m"), "n": 3}, "which tool it is, is no param"
    assert "_cores" not in dict(seen.resources) and dict(seen.resources)["mem_mb"] == 100
    assert dict(seen.wildcards) == {"name": "embed"}


def test_a_request_says_all_that_decides_about_the_job(workflow: Any) -> None:
    Path("in.txt").write_bytes(bytes(123))
    job = StubJob(
        workflow,
        "r",
        inputs=["in.txt"],
        priority=7,
        attempt=2,
        gpupool_tool="tool",
        device="cuda:1",
        vram_mb=900,
        runtime=2,
        gpupool_instance="mine",
    )
    request = build_request(workflow, job, 5, TOOL)
    assert (request.job_id, request.title) == (5, "rule r (name=r)")
    assert request.devices is not None and request.devices.names == ("cuda:1",)
    assert (request.vram_mib, request.priority, request.attempt) == (900, 7, 2)
    assert request.timeout_s == 120.0 and request.instance == "mine"
    assert request.input_bytes == 123 and request.cwd == str(Path.cwd())
    assert request.identity == identity(job) == ("r", "name", "r")
    bare = pickle.loads(request.bare)
    assert dict(bare.resources) == {}, "what is foreseen of a job cannot know its resources"
    other = StubJob(workflow, "r", inputs=["in.txt"], gpupool_tool="tool", runtime=9)
    assert build_request(workflow, other, 6, TOOL).bare == request.bare


def test_files_that_cannot_be_told_are_many_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    assert input_bytes([str(tmp_path / "a"), str(tmp_path / "gone")]) == 10
    assert input_bytes([str(tmp_path)]) == MANY_BYTES
    assert input_bytes(["gone"] * (MAX_LOOKS + 1)) == MANY_BYTES


def test_which_jobs_are_served(workflow: Any) -> None:
    assert is_served(StubJob(workflow, "a", gpupool_tool="tool"))
    assert is_served(StubJob(workflow, "a", params={"gpupool_tool": "tool"}))
    assert tool_spec(StubJob(workflow, "a", gpupool_tool="")) is None
    joined = StubJob(workflow, "a", outputs=[pipe("a.txt")], gpupool_tool="tool")
    joined.is_pipe = True
    assert not is_served(joined)
    assert title(joined) == "rule a (name=a)"


@pytest.mark.parametrize("is_local", [False, True])
def test_a_job_that_cannot_be_served_is_not_evaluated_to_see_whether_it_follows(
    is_local: bool,
) -> None:
    class Unevaluated:
        def __init__(self) -> None:
            self.is_local = is_local
            named = {"gpupool_tool": "tool"} if is_local else {}
            self.rule = SimpleNamespace(resources=named, params=Params())

        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt(name)  # which nothing suppresses

    assert not DagView(None, lambda job: False).is_servable(Unevaluated())


def test_a_script_is_the_rules_own_python() -> None:
    def rule(**bodies: str) -> Any:
        named = ("script", "shellcmd", "notebook", "wrapper")
        return SimpleNamespace(**{**dict.fromkeys(named), **bodies})

    assert script_of(rule(script="tools/mine.py")) == "tools/mine.py"
    for bodies, told in (
        ({"shellcmd": "true"}, "its body is a shell:"),
        ({"script": "mine.R"}, "its body is mine.R, which is not a Python file"),
        ({}, "its body is none"),
    ):
        with pytest.raises(Unservable, match=told):
            script_of(rule(**bodies))
