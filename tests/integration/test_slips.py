"""Mistakes of a tool's author: each is a sentence to act on, and one call tells it (C3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.errors import ContractError, InputError, JobFailed
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker.cold import run_cold

TOOL = f"{Path(__file__).parent.parent / 'tools' / 'slips.py'}:Slips"

READ = {
    "read_nothing": "Slips.read() returned None; it must return or yield the items",
    "read_dict": "returned a dict, whose keys alone would count",
    "read_text": "returned one text, whose letters would count",
    "read_set": "returned a set, which has no order",
    "read_file": "returned an open file",
    "read_midway": "ValueError: line 3 is odd",
}
#: Served alone: cold, all is in one process.
READ_FAR = {
    "read_open_files": "item #0 of Slips.read() is an open file (",
    "read_local_class": "holds an object of the class Slips.read_local_class.<locals>.Row, "
    "which cannot go to the process that holds the model. Define that class at the top",
    "read_local_tuple": "holds an object of the class Row, which cannot go",
    "read_lambda": "holds the function Slips.read_lambda.<locals>",
    "read_generators": "is a generator, whose values are not computed yet",
    "read_locks": "holds a lock",
    "read_unloadable": "cannot be read back in the process that holds the model (TypeError: ",
    "read_snakemake": "`snakemake` is None while a rule is served: read(job)",
}
RUN = {
    "run_none": "got 3 items and returned None; it must return a list of one result per item",
    "run_dict": "returned a dict, whose keys alone would count",
    "run_joined": "returned one text, whose letters",
    "run_set": "returned a set, which has no order",
    "run_fewer": "got 3 items and returned 2; it must return",
}
RUN_FAR = {
    "run_generators": "a result of Slips.run() is a generator, whose values are not computed yet",
    "run_meta": "a result of Slips.run() is a tensor on meta, which cannot go to the process that "
    "writes files. Take .cpu() of it",
}
WRITE = {
    "write_nothing": "Slips.write() did not write {out}, {more}. It has to write the paths in "
    "job.output",
    "write_suffix": "did not write {out}, {more}, and left {out}.npy beside its outputs, "
    "which would be lost. It has to write the paths in job.output, and these alone; the "
    "library has added a suffix",
    "write_direct": "did not write {out}, {more}, and wrote to {out} directly: job.output "
    "has temporary paths",
    "write_one": "Slips.write() did not write {more}.",
    "write_more": "left {out}.json beside its outputs, which would be lost",
    "write_list": "not Named. job.input, job.output and job.log are lists: take job.output[0]",
    "write_into": "output {out} cannot be written: No such file or directory; have write() make "
    "the directory first",
    "write_attribute": "What load() and run() leave on self is not there in write(), which runs "
    "on another object",
}


@pytest.fixture(scope="module")
def pool() -> Iterator[ToolPool]:
    with ToolPool(devices="cpu:1") as opened:
        yield opened


class Files:
    """The files of one job."""

    def __init__(self, directory: Path) -> None:
        self.source, self.out, self.more = (directory / n for n in ("in.txt", "out", "more.txt"))
        self.calls = directory / "calls"
        self.source.write_text("a b c\n")
        self.outputs = [str(self.out), str(self.more)]

    def params(self, slip: str) -> dict[str, Any]:
        return {"slip": slip, "place": str(self.out), "calls": str(self.calls)}

    def words(self, text: str) -> str:
        return text.format(out=self.out, more=self.more)

    def served(self, pool: ToolPool, slip: str) -> None:
        files = {"input": str(self.source), "output": self.outputs}
        pool.run_job(TOOL, **files, params=self.params(slip))

    def cold(self, slip: str) -> None:
        job = Job("r", {}, [str(self.source)], self.outputs, self.params(slip))
        run_cold(load_tool_class(TOOL), job, "cpu")

    def times_run(self) -> int:
        return len(self.calls.read_text().split()) if self.calls.exists() else 0


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def check_left(files: Files) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.out.unlink()  # written by its own name
    assert sorted(path.name for path in files.source.parent.iterdir()) in (
        ["calls", "in.txt"],
        ["in.txt"],
    )


@pytest.mark.parametrize("slip", READ)
def test_what_read_returns(pool: ToolPool, files: Files, slip: str) -> None:
    with pytest.raises(JobFailed) as served:
        files.served(pool, slip)
    with pytest.raises((ContractError, ValueError)) as cold:
        files.cold(slip)
    assert READ[slip] in str(served.value)
    assert READ[slip].removeprefix("ValueError: ") in str(cold.value)
    assert ("Traceback" in str(served.value)) == (slip == "read_midway"), "the sentence is enough"
    check_left(files)


@pytest.mark.parametrize("slip", READ_FAR)
def test_items_that_cannot_travel(pool: ToolPool, files: Files, slip: str) -> None:
    with pytest.raises(JobFailed) as served:
        files.served(pool, slip)
    assert READ_FAR[slip] in str(served.value)
    check_left(files)


@pytest.mark.parametrize("slip", [*RUN, *RUN_FAR])
def test_one_call_settles_what_run_returns(pool: ToolPool, files: Files, slip: str) -> None:
    files.source.write_text(" ".join(f"w{n}" for n in range(3)))
    crashes = pool.summary["worker_crashes"]
    with pytest.raises(JobFailed) as served:
        files.served(pool, slip)
    assert files.times_run() == 1
    assert {**RUN, **RUN_FAR}[slip] in str(served.value)
    assert "Traceback" not in str(served.value) and "item" not in str(served.value).split(":")[1]
    if slip in RUN:
        with pytest.raises(ContractError) as cold:
            files.cold(slip)
        assert RUN[slip] in str(cold.value)
    assert pool.summary["worker_crashes"] == crashes
    check_left(files)


def test_a_hundred_items_are_settled_by_one_call(pool: ToolPool, files: Files) -> None:
    params = {"slip": "run_fewer", "calls": str(files.calls)}
    with pytest.raises(JobFailed, match="must return a list of one result per item"):
        pool.run(TOOL, [f"w{n}" for n in range(100)], params)
    assert files.times_run() <= 2, "one, and one that was sent ahead"
    # Another call is another try.
    with pytest.raises(JobFailed):
        pool.run(TOOL, ["x", "y"], params)
    assert files.times_run() <= 3


def test_one_result_of_many_that_cannot_travel_fails_alone(pool: ToolPool) -> None:
    items = ["a", "b", "c"]
    with pytest.raises(JobFailed, match=r"item #1: a result of Slips.run\(\) is a generator"):
        pool.run(TOOL, items, {"slip": "run_one_generator"})
    assert pool.run(TOOL, ["a", "c"], {"slip": "run_one_generator"}) == ["a", "c"]


@pytest.mark.parametrize(
    ("slip", "text"),
    [
        ("run_generator", "A\nB\nC\n"),
        ("run_numbers", "1\n1\n1\n"),
        ("run_tensor", "tensor([1., 1.])\n" * 3),
        ("run_spawn", "1\n1\n1\n"),
    ],
)
def test_what_can_be_taken_for_a_list_is(
    pool: ToolPool, files: Files, slip: str, text: str
) -> None:
    files.outputs = [str(files.out)]
    files.served(pool, slip)
    assert files.out.read_text() == text
    assert files.times_run() == 1
    if slip != "run_spawn":  # cold, it is the main program that a child would import
        files.out.unlink()
        files.cold(slip)
        assert files.out.read_text() == text
    array = Files(files.source.parent)
    array.outputs = [str(array.out)]
    array.served(pool, "read_array")
    assert array.out.read_text() == "a\nb\nc\n"


@pytest.mark.parametrize("slip", WRITE)
def test_what_write_leaves(pool: ToolPool, files: Files, slip: str) -> None:
    with pytest.raises(JobFailed) as served:
        files.served(pool, slip)
    assert files.words(WRITE[slip]) in str(served.value)
    check_left(files)
    with pytest.raises((ContractError, InputError, TypeError, AttributeError)) as cold:
        files.cold(slip)
    if slip not in (
        "write_list",
        "write_attribute",
    ):  # whose advice is in the served job's message alone
        assert files.words(WRITE[slip]) in str(cold.value)
    check_left(files)


def test_locks_and_hidden_files_beside_outputs_are_nobodys(pool: ToolPool, files: Files) -> None:
    files.served(pool, "write_hidden")
    assert files.out.read_text() == files.more.read_text() == "x"


def test_a_misspelt_attribute_is_said_with_the_nearest(pool: ToolPool, files: Files) -> None:
    with pytest.raises(JobFailed, match=r"no attribute 'slipp'\. Did you mean 'slip'"):
        files.served(pool, "run_attribute")
