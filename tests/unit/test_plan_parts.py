"""The parts of a plan: what is read, estimated, assumed and said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import ConfigError, ProtocolError
from snakemake_executor_gpupool.frontends.commandline.commands import split_plan
from snakemake_executor_gpupool.frontends.commandline.plan.assumed import assumed_devices
from snakemake_executor_gpupool.frontends.commandline.plan.foresight import ForeseenJobs, sampled
from snakemake_executor_gpupool.frontends.commandline.plan.workload import (
    MAX_ITEMS,
    Source,
    Workload,
    workload_of,
)
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph, PlannedJob, Way
from snakemake_executor_gpupool.records.runs.history import History, RuleHistory
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing.simulation import gpu
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.foreseen import Foreseen, Unforeseen, foreseen_of
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.messages_out import foresee_job
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from snakemake_executor_gpupool.worker.foresee import foresee
from snakemake_executor_gpupool.worker.loaded import for_files
from tests.unit.test_planned_run import INFO, TOOL, model

FIGURES = {"m/cpux1:CPU": Figures(load_s=3.0, s_per_cost=0.5, fixed_s=0.1)}


def served(number: int, *, rule: str = "r", input_bytes: int = 10, **more: Any) -> PlannedJob:
    request = Request(
        number, f"rule {rule}", TOOL, b"", str(number).encode(), "/", input_bytes=input_bytes
    )
    return PlannedJob(number, rule, request.title, Way.SERVED, request=request, **more)


def graph(*jobs: PlannedJob) -> Graph:
    config = PoolConfig((cpu_slot(0), cpu_slot(1)), DeviceSettings(), 2, Path("/none"))
    return Graph(jobs, config, "/")


def load(
    *jobs: PlannedJob, answers: tuple[Foreseen | Unforeseen, ...] = (), **rules: RuleHistory
) -> Workload:
    info = INFO.__class__(**{**{n: getattr(INFO, n) for n in INFO.__slots__}, "devices": ("cpu",)})
    said = {answer.job_id: answer for answer in answers}
    read = {job.number for job in jobs if job.has_inputs and job.number in said}
    foresight = ForeseenJobs(said, read, {TOOL: info})
    history = History(rules=dict(rules))
    return workload_of(graph(*jobs), foresight, history, FIGURES, [cpu_slot(0)])


def answer(number: int, keys: str, cost: float = 2.0) -> Foreseen:
    count = len(keys)
    return Foreseen(number, model(), 64, tuple(keys), (cost,) * count, (7,) * count, 0, count)


# -- what jobs ask for -------------------------------------------------------------------
def test_what_was_read_is_taken_as_it_is() -> None:
    made = load(served(1), answers=(answer(1, "ab"),))
    assert made.jobs[1].items.keys == ("a", "b")
    assert made.jobs[1].items.costs == (2.0, 2.0)
    assert made.jobs[1].batch_tokens == 64
    assert (made.sources[1], made.items[1]) == (Source.READ, 2)


def test_a_job_that_was_not_read_is_like_those_that_were_by_the_size_of_its_input() -> None:
    jobs = served(1, input_bytes=10), served(2, input_bytes=30)
    made = load(*jobs, answers=(answer(1, "aab"),))
    assert (made.items[2], made.sources[2]) == (9, Source.SAMPLED)
    assert set(made.jobs[2].items.costs) == {2.0}
    # One of three was a duplicate: so are three of nine, of others of the rule.
    shared = [key for key in made.jobs[2].items.keys if key.startswith("r#") and "." not in key]
    assert len(shared) == 3
    assert len(set(made.jobs[2].items.keys)) == 9


def test_a_job_without_inputs_is_as_its_rule_was() -> None:
    seen = RuleHistory(items=[4, 6], item_s=1.1, batch_items=1.0, item_tokens=9.0, read_s=0.5)
    told = Foreseen(1, model(), 64)
    made = load(served(1, has_inputs=False), answers=(told,), r=seen)
    assert (made.items[1], made.sources[1]) == (5, Source.HISTORY)
    # An item took 1.1 s, of which 0.1 s is the micro-batch's; a unit of cost takes 0.5 s.
    assert made.jobs[1].items.costs == (pytest.approx(2.0),) * 5
    assert made.jobs[1].items.tokens == (9,) * 5
    assert made.jobs[1].read_s == 0.5


def test_nothing_known_is_said_to_be_so() -> None:
    made = load(served(1, has_inputs=False), answers=(Foreseen(1, model(), 64),))
    assert made.sources[1] is Source.UNKNOWN


def test_a_job_that_cannot_be_read_is_an_error() -> None:
    from snakemake_executor_gpupool.wire.described import WorkerError

    made = load(served(1), answers=(Unforeseen(1, WorkerError("no FASTA")),))
    assert made.errors == {1: "no FASTA"}
    assert not made.jobs


def test_very_many_items_are_bundled_with_their_cost_and_tokens() -> None:
    seen = RuleHistory(items=[1000], item_s=0.6, batch_items=1.0, item_tokens=10.0)
    jobs = [served(number, has_inputs=False) for number in range(1, 181)]
    told = tuple(Foreseen(job.number, model(), 64) for job in jobs)
    made = load(*jobs, answers=told, r=seen)
    assert made.bundle == 3
    items = made.jobs[1].items
    assert len(items.keys) == 334
    assert items.costs[0] == pytest.approx(3 * 1.0)
    assert items.tokens[0] == 30
    assert sum(len(job.items.keys) for job in made.jobs.values()) <= MAX_ITEMS * 1.01
    assert made.items[1] == 1000


def test_of_each_rule_some_jobs_are_asked_evenly() -> None:
    jobs = [served(number) for number in range(1, 11)]
    jobs += [served(number, rule="s", has_inputs=False) for number in range(11, 14)]
    assert [job.number for job in sampled(graph(*jobs), 5)] == [1, 3, 5, 7, 9, 11, 12, 13]
    assert sampled(graph(*jobs), 0) == []


# -- a process's answer --------------------------------------------------------------------
class Lines(Tool):
    """Lines of a file."""

    defaults = {"model": "a"}  # noqa: RUF012
    devices = ("cpu",)

    def read(self, job: Any) -> Any:
        return Path(job.input[0]).read_text().splitlines()

    def cost(self, item: str) -> float:
        return float(len(item))

    def tokens(self, item: str) -> int:
        return len(item)

    def batch_tokens(self, device: str) -> int:
        return 5 if device == "cpu" else 50

    def run(self, items: list[str]) -> list[str]:
        raise AssertionError("nothing is computed")

    def write(self, job: Any, results: list[str]) -> None:
        raise AssertionError("nothing is written")


def asked(path: Path, *, reads: bool = True, most: int = 10, device: str = "cpu") -> Any:
    job = Job(rule="r", input=Named([str(path)]), output=Named(["out"]))
    blob = pickle.dumps(job)
    request = Request(3, "rule r", ToolRef("t", "", "p"), blob, b"", str(path.parent), bare=blob)
    frame = foresee_job(request, device, None, reads=reads, most=most)
    said = foresee(frame, lambda j: for_files(Lines, j.params), lambda *which: False)
    return foreseen_of(Frame(json.loads(json.dumps(said)), []))


def test_a_process_describes_a_jobs_items(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("ab\nabc\nab\n")
    said = asked(tmp_path / "in")
    assert isinstance(said, Foreseen)
    assert (said.job_id, said.costs, said.tokens) == (3, (2.0, 3.0, 2.0), (2, 3, 2))
    assert said.keys[0] == said.keys[2] != said.keys[1]
    assert (said.count, said.is_whole, said.batch_tokens, said.model.label) == (3, True, 5, "a")
    assert asked(tmp_path / "in", device="cuda:0").batch_tokens == 50


def test_items_beyond_the_bound_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\n" * 25)
    said = asked(tmp_path / "in", most=10)
    assert (len(said.keys), said.count, said.is_whole) == (10, 25, True)


def test_without_inputs_the_model_is_described_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("ab\n")
    missing = asked(tmp_path / "absent", reads=False)
    assert (missing.count, missing.keys) == (0, ())
    assert missing.model == asked(tmp_path / "in").model


def test_an_input_that_cannot_be_read_is_an_answer(tmp_path: Path) -> None:
    said = asked(tmp_path / "absent")
    assert isinstance(said, Unforeseen)
    assert "is not there" in said.error.message


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"kept": 2},
        {"tokens": []},
        {"costs": [-1.0]},
        {"batch_tokens": 0},
        {"whole": 1},
        {"more": 1},
        {"type": "items"},
        {"model": None},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    names = {"model": "m", "model_label": "l", "group": "g", "short_tokens": 0}
    columns = {"keys": ["a"], "costs": [1.0], "tokens": [1], "kept": 0, "count": 1, "whole": True}
    sound = {"type": "foreseen", "job": 1, "batch_tokens": None, **names, **columns}
    assert foreseen_of(Frame(sound, []))
    with pytest.raises(ProtocolError):
        foreseen_of(Frame({**sound, **change}, []))


# -- devices that are assumed ----------------------------------------------------------------
def names(text: str, *here: Any) -> list[str]:
    return [device.name for device in assumed_devices(text, here)]


def test_a_number_is_of_the_kind_that_is_there() -> None:
    assert names("2", cpu_slot(0)) == ["cpu:0", "cpu:1"]
    assert names("3", gpu(0), cpu_slot(0)) == ["cuda:0", "cuda:1", "cuda:2", "cpu:0"]
    assert names("cpu:2", gpu(0)) == ["cpu:0", "cpu:1"]
    assert names("2x24GiB", cpu_slot(0)) == ["cuda:0", "cuda:1", "cpu:0"]
    assert {d.memory_mib for d in assumed_devices("2x24GiB", [gpu(0)])} == {24 * 1024, None}


@pytest.mark.parametrize("text", ["", "0", "cpu:0", "many", "4x", "-1", "99999"])
def test_other_words_are_no_devices(text: str) -> None:
    with pytest.raises(ConfigError, match="--devices"):
        assumed_devices(text, [cpu_slot(0)])


# -- words of the command line -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "own", "others"),
    [
        ("--cores 4 --json target", "--json", "--cores 4 target"),
        ("--devices 4 --devices=2 -n", "--devices 4 --devices=2", "-n"),
        ("--sample 5 -- --json all", "--sample 5", "--json all"),
        ("--config devices=4 sample=1", "", "--config devices=4 sample=1"),
        ("-s Snakefile --gpupool-devices 2", "", "-s Snakefile --gpupool-devices 2"),
    ],
)
def test_words_go_to_gpupool_or_to_snakemake(words: str, own: str, others: str) -> None:
    assert split_plan(["plan", *words.split()]) == (["plan", *own.split()], others.split())
