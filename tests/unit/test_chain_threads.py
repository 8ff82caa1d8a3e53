"""A chain on the CPU computes short requests with one thread where that is quicker (F2)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker import chain_threads
from snakemake_executor_gpupool.worker.chain_models import ChainModels
from snakemake_executor_gpupool.worker.chain_threads import (
    BRIEF_S,
    PAUSE,
    QUICK_S,
    ChainThreads,
    ThreadChoice,
)
from snakemake_executor_gpupool.worker.loaded import RestoredTools

MANY = 4


def numbers(choice: ThreadChoice, one_s: float, many_s: float, batches: int = 200) -> list[int]:
    """Return with how many threads batches of ten items were computed that take so long."""
    chosen = []
    for _ in range(batches):
        chosen.append(choice.number())
        choice.took(chosen[-1], 10, one_s if chosen[-1] == 1 else many_s)
    return chosen


def test_threads_that_wait_for_each_other_are_not_used() -> None:  # F2
    chosen = numbers(ThreadChoice(MANY), one_s=0.001, many_s=0.06)
    assert chosen[:2] == [MANY, MANY], "the first one also had what is done only once"
    assert set(chosen[2:]) == {1}, "there is nothing to gain by trying many again"


def test_many_threads_are_used_where_they_are_quicker() -> None:  # F2
    chosen = numbers(ThreadChoice(MANY), one_s=0.1, many_s=0.03)
    assert chosen.count(1) <= 4, "one try, and others ever more seldom"
    first, second = (n for n, number in enumerate(chosen) if number == 1 and n < 3 * PAUSE)
    assert (first, second) == (2, 2 + 1 + PAUSE)


def test_what_takes_long_is_left_as_it_is() -> None:  # F2
    chosen = numbers(ThreadChoice(MANY), one_s=8.0, many_s=BRIEF_S * 1.1)
    assert set(chosen) == {MANY}


def test_one_thread_that_is_not_quick_is_compared_again() -> None:  # F2
    choice = ThreadChoice(MANY)
    assert set(numbers(choice, one_s=0.02, many_s=0.03, batches=20)[2:]) == {1}
    # The cores have become idle meanwhile.
    later = numbers(choice, one_s=0.02, many_s=0.006, batches=400)
    assert later[-1] == MANY


def test_batches_of_different_sizes_are_compared_by_their_items() -> None:  # F2
    choice = ThreadChoice(MANY)
    for _ in range(2):
        choice.took(choice.number(), 100, 0.1)
    choice.took(1, 10, 2 * QUICK_S)
    assert choice.number() == 1, "as long for an item"
    choice = ThreadChoice(MANY)
    for _ in range(2):
        choice.took(choice.number(), 100, 0.1)
    choice.took(1, 10, 4 * QUICK_S)
    assert choice.number() == MANY, "shorter, but of fewer items"


# -- torch -----------------------------------------------------------------------------------
class FakeTorch(ModuleType):
    """Knows a number of threads."""

    def __init__(self, threads: int) -> None:
        super().__init__("torch")
        self.threads = threads

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, number: int) -> None:
        self.threads = number


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    monkeypatch.setenv("OMP_NUM_THREADS", str(MANY))
    torch = FakeTorch(MANY)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def compute(threads: ChainThreads, stage: int, seconds: float, batches: int = 4) -> None:
    for _ in range(batches):
        threads.settle(stage)
        threads.took(stage, 10, seconds)


def test_torch_is_told_for_each_stage(torch: FakeTorch) -> None:  # F2
    threads = ChainThreads()
    compute(threads, 0, 0.001)
    assert torch.threads == 1
    compute(threads, 1, 1.0)
    assert torch.threads == MANY, "each stage has a model of its own"
    threads.settle(0)
    assert torch.threads == 1


def test_a_number_that_a_tool_chooses_stays(torch: FakeTorch) -> None:  # F2
    torch.threads = 3
    compute(ChainThreads(), 0, 0.001)
    assert torch.threads == 3, "chosen while it was loaded"
    torch.threads = MANY
    threads = ChainThreads()
    compute(threads, 0, 0.001)
    torch.threads = 2
    compute(threads, 0, 0.001)
    assert torch.threads == 2, "chosen while it ran"


@pytest.mark.parametrize("given", ["1", "", "many"])
def test_nothing_is_done_where_there_is_no_choice(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:  # F2
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    torch.threads = 1 if given == "1" else MANY
    before = torch.threads
    compute(ChainThreads(), 0, 0.001)
    assert torch.threads == before
    monkeypatch.delitem(sys.modules, "torch")
    compute(ChainThreads(), 0, 0.001)
    assert chain_threads._torch() is None


class Upper(Tool):
    """Writes larger."""

    devices = ("cuda", "cpu")
    reproducible = "always"

    def load(self, device: str) -> None:
        """Need nothing."""

    def read(self, job: Job) -> Iterator[str]:
        """Read nothing."""
        yield from ()

    def run(self, items: list[str]) -> list[str]:
        """Return upper case."""
        return [item.upper() for item in items]

    def write(self, job: Job, results: list[str]) -> None:
        """Write nothing."""


@pytest.mark.parametrize(("device", "reproducible"), [("cpu", "0"), ("cuda:0", "0"), ("cpu", "1")])
def test_only_what_is_computed_on_the_cpu_in_a_plain_run_has_a_choice(
    monkeypatch: pytest.MonkeyPatch, device: str, reproducible: str
) -> None:  # F2 R5
    monkeypatch.setenv("GPUPOOL_REPRODUCIBLE", reproducible)
    told: list[int] = []
    monkeypatch.setattr(ChainThreads, "settle", lambda self, stage: told.append(stage))
    models = ChainModels([Upper], RestoredTools([Upper]), Spool([]), lambda reader: None)
    models.start([{}], device)
    computed, _ = models.compute(0, {}, {"a": "x", "b": "y"}, None)
    assert len(computed) == 2
    assert bool(told) is (device == "cpu" and reproducible == "0")
