"""Hidden directories beside outputs: one for many jobs, gone once nobody writes there (W9)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.frames import Decoder, Frame, encode
from snakemake_executor_gpupool.wire.messages_out import (
    Guessed,
    Results,
    publish_job,
    with_latency,
    write_job,
)
from snakemake_executor_gpupool.wire.payload import pack
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.describe import describe_model
from snakemake_executor_gpupool.worker.later_tools import LaterTools
from snakemake_executor_gpupool.worker.loaded import RestoredTools, for_files
from snakemake_executor_gpupool.worker.named_files import params_digest
from snakemake_executor_gpupool.worker.outputs import staged_outputs
from snakemake_executor_gpupool.worker.staging import digest
from snakemake_executor_gpupool.worker.staging_folders import StagingFolders
from snakemake_executor_gpupool.worker.unchanged import Unchanged
from snakemake_executor_gpupool.worker.writer import Writer


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def hidden() -> list[str]:
    return sorted(str(path) for path in Path().rglob(".gpupool-*"))


@pytest.mark.parametrize("parent", ["out", "out/deep", "", "absolute"])
def test_a_directory_serves_for_the_next_job_under_another_name(parent: str) -> None:
    folders = StagingFolders()
    place = str(Path.cwd()) if parent == "absolute" else parent
    first = Path(folders.take(place))
    number = first.stat().st_ino
    folders.give_back(str(first))
    second = Path(folders.take(place))
    assert second.stat().st_ino == number and second != first
    assert second.is_absolute() == first.is_absolute()
    assert second.parent == Path(place)
    assert not first.exists(), "what an earlier job has left running finds nothing"
    folders.give_back(str(second))
    folders.clear()
    assert not hidden()


def test_of_two_by_one_job_none_stays() -> None:
    """A job's outputs may be named by relative paths and by absolute ones."""
    folders = StagingFolders()
    two = folders.take("out"), folders.take(str(Path("out").absolute()))
    for folder in two:
        folders.give_back(folder)
    assert len(hidden()) == 1
    folders.clear()
    assert not hidden()


def test_a_directory_is_found_from_another_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = StagingFolders()
    folders.give_back(folders.take("a/b"))
    monkeypatch.chdir("a")
    folder = folders.take("b")
    assert [str(path) for path in Path("b").iterdir()] == [folder]


@pytest.mark.parametrize("left", ["x", ".x"])
def test_what_a_job_leaves_is_not_the_next_ones(left: str) -> None:
    folders = StagingFolders()
    first = folders.take("out")
    Path(first, left).touch()
    folders.give_back(first)
    assert not hidden()
    folders.give_back(folders.take("out"))
    Path(hidden()[0]).rmdir()
    assert not list(Path(folders.take("out")).iterdir())


def test_a_failed_write_leaves_nothing() -> None:
    folders = StagingFolders()
    with pytest.raises(ValueError), staged_outputs(Named(["out/x"]), folders=folders) as staged:
        Path(staged[0]).touch()
        raise ValueError
    assert not hidden() and not Path("out/x").exists()


class Copy(Tool):
    """Writes its result, or fails."""

    def write(self, job: Job, results: list[str]) -> None:
        if results[0] == "bad":
            raise ValueError
        for path in job.output:
            Path(path).write_text(results[0])


OTHER = """
from snakemake_executor_gpupool.tool_api.tool import Tool


class Other(Tool):
    def read(self, job):
        return []

    def run(self, items):
        return items

    def write(self, job, results):
        with open(job.output[0], "w") as file:
            file.write("other " + results[0])
"""


def made(
    outputs: Iterable[str], inputs: list[str], result: str, log: str = "", template: str = ""
) -> tuple[Request, list[bytes]]:
    """Return the request of a job, and its result."""
    files = Named(list(outputs))
    described = Job("r", {}, inputs, files, {"template": template}, log=[log] if log else [])
    job = b"".join(map(bytes, pack(described)))
    request = Request(1, "r", ToolRef("t", "", "python"), job, b"", str(Path.cwd()))
    return request, [b"".join(map(bytes, pack(result)))]


class Coordinator:
    """Sends frames to a process that writes, and sees what is there once it answers."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.socket, self._decoder = ours, Decoder()
        self.channel = Channel(theirs.detach())
        later = LaterTools(Unchanged(""), str(Path.cwd()))
        self.writer = Writer(self.channel, Copy, RestoredTools(), Unchanged(""), later)

    def send(self, *outputs: str, result: str = "good") -> None:
        request, blobs = made(outputs, [], result)
        self.put(write_job(request, [0], ["i"], blobs, "", hashes=False))

    def publish(
        self, output: str, digests: list[str], result: str, tool: str = "", **other: str
    ) -> None:
        """Have a job's outputs written that a row of models has computed; it reads ``in``.

        ``other``: what its model, group or params' files were.
        """
        request, blobs = made([output], ["in"], result, log="log", template="template")
        kind = load_tool_class(tool, str(Path.cwd())) if tool else Copy
        params = {"template": "template"}
        names = {**describe_model(for_files(kind, params), [output]), **other}
        named = other.get("named", params_digest(params, [output]))
        ref = ToolRef(tool, "", "") if tool else None
        guessed = Guessed([*digests, named, names["group"]], names["model"], ref)
        results = Results([0], ["i"], blobs, "computed\n")
        self.put(publish_job(request, guessed, [], ["read"], results=results))

    def put(self, frame: Frame) -> None:
        for chunk in encode(with_latency(frame.meta, 0.0), frame.blobs):
            self.socket.sendall(chunk)

    def answers(self) -> Iterator[str]:
        """Have all that was sent written, one by one."""
        while self.channel.waiting() is not None:
            frame = self.channel.receive()
            assert isinstance(frame, Frame)
            (self.writer.write if frame.type == "write" else self.writer.publish)(frame)
            for answer in self._decoder.feed(self.socket.recv(65536)):
                yield answer.type


@pytest.fixture
def work() -> Iterator[Coordinator]:
    ours, theirs = socket.socketpair()
    made = Coordinator(ours, theirs)
    yield made
    ours.close()
    made.channel._socket.close()


def test_it_stays_while_a_job_that_is_written_next_needs_it_and_no_longer(
    work: Coordinator,
) -> None:
    for outputs in (["a/1"], ["a/2", "b/2"], ["b/3"], ["c/4"], ["c/5"]):
        work.send(*outputs)
    seen = []
    for kind in work.answers():
        assert kind == "written"
        seen.append([path.split("/")[0] for path in hidden()])
    assert seen == [["a"], ["b"], [], ["c"], []]
    assert sorted(str(path) for path in Path().rglob("?/?")) == [
        "a/1",
        "a/2",
        "b/2",
        "b/3",
        "c/4",
        "c/5",
    ]


def test_a_job_that_fails_leaves_none_of_an_earlier_one(work: Coordinator) -> None:
    work.send("a/1")
    work.send("a/2", result="bad")
    work.send("a/3")
    seen = [(kind, len(hidden())) for kind in work.answers()]
    assert seen == [("written", 1), ("write_failed", 0), ("written", 0)]


def test_what_a_row_has_computed_is_written_for_the_job_that_was_guessed(
    work: Coordinator,
) -> None:  # M1 M5
    Path("in").write_text("x")
    Path("read").write_text("read\n")
    Path("log").write_text("before\n")
    work.publish("a/1", [digest("in")], "good")
    work.publish("a/2", ["1:other"], "good")
    work.publish("a/3", [digest("in")], "bad")
    answers = work.answers()
    first = next(answers)
    Path("read").write_text("read\n")
    kinds = [first, *answers]
    assert kinds == ["published", "unpublished", "unpublished"]
    assert Path("a/1").read_text() == "good" and not hidden()
    assert not Path("a/2").exists() and not Path("a/3").exists()
    assert Path("log").read_text() == "before\nread\ncomputed\n", "what has failed is told once"


@pytest.mark.parametrize("what", ["model", "group", "named"])
def test_nothing_is_written_where_what_params_name_has_changed(
    work: Coordinator, what: str
) -> None:  # M5
    Path("in").write_text("x")
    Path("template").write_text("one")
    work.publish("a/1", [digest("in")], "good", **{what: "another"})
    work.publish("a/2", [digest("in")], "good")
    Path("read").write_text("")
    assert next(answers := work.answers()) == "unpublished" and not Path("a/1").exists()
    Path("template").write_text("two")
    assert list(answers) == ["unpublished"] and not Path("a/2").exists()


def test_it_is_written_by_the_tool_of_its_job(work: Coordinator) -> None:  # M1
    Path("in").write_text("x")
    Path("other.py").write_text(OTHER)
    work.publish("a/1", [digest("in")], "good", tool="other.py:Other")
    assert list(work.answers()) == ["published"]
    assert Path("a/1").read_text() == "other good"
