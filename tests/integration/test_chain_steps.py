"""Stages of a chain by themselves, in a real worker that holds the chain's models (M1, M5)."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.tool_api.short_requests import TRIED
from snakemake_executor_gpupool.tool_api.values import Job, Named, Params
from snakemake_executor_gpupool.wire.payload import load_payload, pack
from tests.integration import test_late_files
from tests.integration.test_late_files import Worker

TOOLS = """
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool

HERE = Path(__file__).parent


class Step(Tool):
    defaults = {"model": "a"}

    def load(self, device):
        if (HERE / f"no-{self.params.model}").exists():
            with (HERE / "tries").open("a") as file:
                print(self.params.model, file=file)
            raise FileNotFoundError("no weights")
        time.sleep(0.05)
        with (HERE / "loads").open("a") as file:
            print(self.params.model, file=file)

    def read(self, job):
        return Path(job.input[0]).read_text().split("\\n")

    def run(self, items):
        with (HERE / "runs").open("a") as file:
            print(self.params.model, *items, file=file)
        if "slow" in items:
            time.sleep(0.3)
        if "bad" in items:
            raise ValueError("no")
        return [f"{item} by {self.params.model}" for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text("\\n".join(results))
"""
MODELS = ("a", "b", "c")


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A process of a chain of three, with the first model loaded."""
    (tmp_path / "steps.py").write_text(TOOLS)
    spec = f"{tmp_path / 'steps.py'}:Step"
    monkeypatch.setattr(test_late_files, "TOOL", spec)
    started = Worker(tmp_path, spec, spec)
    params = [pickle.dumps({"model": model}, 5) for model in MODELS]
    answer = started.ask("load", params, device="cpu", model="")
    assert answer.type == "loaded"
    assert 0.0 <= answer.meta["imported_s"] <= answer.meta["seconds"] - 0.05
    yield started
    started.host.close(on_end=lambda end: None)


def step(worker: Worker, stage: int, *items: str, **changes: Any) -> tuple[dict[str, Any], list]:
    """Have items computed; return the fields of the answer, and the results."""
    meta = {"batch": 1, "stage": stage, "keys": [f"key of {item}" for item in items]}
    meta |= {"known": [], "head": ["", f"m{stage}", "g"], "store": None, "item_limit_s": None}
    blobs = [pickle.dumps({"model": MODELS[stage]}, 5), *(b"".join(pack(i)) for i in items)]
    answer = worker.ask("step", blobs, **meta | {"load_next": False} | changes)
    assert (answer.type, answer.meta["stage"], answer.meta["last"]) == ("stage", stage, True)
    assert answer.meta["chains"] == []
    return answer.meta, [load_payload(blob) for blob in answer.blobs]


def lines(worker: Worker, name: str) -> list[str]:
    path = worker.directory / name
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_each_stage_has_its_own_model_loaded_when_it_is_needed(worker: Worker) -> None:  # M1
    for stage, model in enumerate(MODELS):
        assert lines(worker, "loads") == list(MODELS[: max(stage, 1)])
        meta, results = step(worker, stage, "x", "y")
        assert results == [f"x by {model}", f"y by {model}"]
        assert meta["computed"] == [0, 1] and ("load_s" in meta) == bool(stage)
        assert meta["computed_s"] <= meta["seconds"] < 0.05, "loading is no part of it"
        assert "files_s" not in meta
    assert "load_s" not in step(worker, 1, "z")[0], "it is there"


def test_a_stage_may_be_passed_over(worker: Worker) -> None:  # M1
    """All that its jobs need may be known already."""
    assert step(worker, 2, "x")[1] == ["x by c"]
    assert lines(worker, "loads") == ["a", "c"]
    assert step(worker, 1, "x")[1] == ["x by b"]


def test_the_next_model_is_loaded_before_anybody_asks(worker: Worker) -> None:  # M1 F2
    meta, _ = step(worker, 0, "x", load_next=True)
    assert "load_s" not in meta
    deadline_s = time.monotonic() + 30.0
    while lines(worker, "loads") != ["a", "b"] and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert lines(worker, "loads") == ["a", "b"]
    meta, results = step(worker, 1, "x")
    assert results == ["x by b"] and meta["load_s"] >= 0.05, "it is told of now"
    assert "load_s" not in step(worker, 1, "y")[0]
    assert lines(worker, "loads") == ["a", "b"]


def test_what_waits_goes_before_the_next_model(worker: Worker) -> None:  # F2
    meta = {"stage": 0, "known": [], "head": ["", "m0", "g"], "store": None, "item_limit_s": None}
    for batch, item in enumerate(("slow", "x")):
        blobs = [pickle.dumps({"model": "a"}, 5), b"".join(pack(item))]
        fields = {"type": "step", "batch": batch, "keys": [item], "load_next": not batch, **meta}
        worker.host.send("worker", fields, blobs)
    assert [load_payload(worker.answer().blobs[0]) for _ in range(2)] == ["slow by a", "x by a"]
    assert lines(worker, "loads") == ["a"]


def test_a_dispatch_of_several_may_begin_at_any_stage(worker: Worker) -> None:  # M1 M5
    """Its first job is ready, and is written; the results of the last one are given back."""
    inner, folder = ["in", "mid", "out"], worker.directory
    jobs = [
        pickle.dumps(Job(input=Named([source]), output=Named([target])), 5)
        for source, target in itertools.pairwise(inner)
    ]
    chain = {"cwd": str(folder), "keys": ["k"], "known": [False], "order": [0], "names": ["n"]}
    chain |= {"models": [["", "mb", "g"], ["", "mc", "g"]], "by": "worker", "updates": []}
    chain |= {"touched": [[], []], "staged": str(folder / "staged"), "lent": False}
    meta = {"batch": 4, "offset": 1, "store": None, "chains": [chain], "hashes": False}
    meta["item_limit_s"] = None
    blobs = [_with_params(job, model) for job, model in zip(jobs, MODELS[1:], strict=True)]
    first = worker.ask("chain", [*blobs, b"".join(pack("x"))], **meta)
    assert (first.meta["stage"], first.meta["last"]) == (1, False)
    assert (folder / "mid").read_text() == "x by b"
    last = worker.answer()
    assert (last.meta["stage"], last.meta["last"]) == (2, True)
    assert load_payload(last.blobs[0]) == "x by b by c" and not (folder / "out").exists()
    assert lines(worker, "loads") == ["a", "b", "c"]


def _with_params(job: bytes, model: str) -> bytes:
    return pickle.dumps(pickle.loads(job).replace(params=Params({"model": model})), 5)


def test_after_the_last_stage_there_is_nothing_to_load(worker: Worker) -> None:  # M1
    assert step(worker, 2, "x", load_next=True)[1] == ["x by c"]
    assert step(worker, 0, "x")[1] == ["x by a"]


def test_equal_items_are_computed_once_and_known_results_not_at_all(worker: Worker) -> None:  # P5
    keys = ["k", "l", "k", "m"]
    meta, results = step(worker, 0, "x", "made before", "x", "y", keys=keys, known=[1])
    assert results == ["x by a", "made before", "x by a", "y by a"]
    assert meta["computed"] == [0, 1, 2, 3]
    step(worker, 0, "x", "made before", keys=["k", "l"], known=[1])
    assert lines(worker, "runs") == ["a x y"], "what it has computed it remembers"


def test_what_fails_has_no_result_and_harms_no_other(worker: Worker) -> None:  # W3 M5
    meta, results = step(worker, 0, "x", "bad", "y")
    assert (meta["computed"], results) == ([0, 2], ["x by a", "y by a"])


def test_a_model_that_cannot_be_loaded_is_met_again_by_itself(worker: Worker) -> None:  # M5 W8
    (worker.directory / "no-b").touch()
    meta, results = step(worker, 0, "x", load_next=True)
    assert results == ["x by a"]
    deadline_s = time.monotonic() + 30.0
    while lines(worker, "tries") != ["b"] and time.monotonic() < deadline_s:
        time.sleep(0.01)
    (worker.directory / "tries").write_text("")
    meta, results = step(worker, 1, "x")
    assert (meta["computed"], results, meta["lost"]) == ([], [], True) and "load_s" not in meta
    assert lines(worker, "tries") == [], "that was known by then"
    assert step(worker, 0, "z")[1] == ["z by a"], "the others go on"


def test_items_that_take_too_long_are_left_but_for_those_tried(worker: Worker) -> None:  # F2
    meta, results = step(worker, 0, *(f"w{n}" for n in range(20)), item_limit_s=0.0)
    assert meta["computed"] == list(range(TRIED)) and len(results) == TRIED
    assert len(step(worker, 0, *(f"w{n}" for n in range(20)))[1]) == 20
