"""The garbage collector of Snakemake's process is as it was after a run, whatever happens in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from snakemake_executor_gpupool.frontends.snakemake.collector import (
    BEFORE_THE_NEXT,
    BETWEEN_LOOKS,
    LARGE_GRAPH,
    Collector,
)
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings


@pytest.fixture
def usual() -> Iterator[tuple[int, int, int]]:
    """Python's own choice, which other tests may have changed."""
    before = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    yield gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(*before)


def test_it_looks_less_often_until_the_run_is_over(usual: tuple[int, int, int]) -> None:
    collector = Collector()
    collector.relax()
    collector.relax()
    assert gc.get_threshold() == (BETWEEN_LOOKS, *usual[1:])
    collector.hold(LARGE_GRAPH)
    held = gc.get_freeze_count()
    assert held > 1000
    later = [[number] for number in range(1000)]
    collector.hold(LARGE_GRAPH)  # once: what has come since may be garbage
    assert gc.get_freeze_count() <= held and len(later) == 1000
    collector.over()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0
    collector.over()
    assert gc.get_threshold() == usual


@pytest.mark.parametrize("first", [0, BETWEEN_LOOKS + 1])
def test_what_somebody_else_has_chosen_stays(usual: tuple[int, int, int], first: int) -> None:
    gc.set_threshold(first, *usual[1:])
    collector = Collector()
    collector.relax()
    collector.hold(LARGE_GRAPH)
    assert gc.get_threshold()[0] == first
    assert gc.get_freeze_count() == 0
    collector.over()
    assert gc.get_threshold()[0] == first


def test_what_is_chosen_meanwhile_stays(usual: tuple[int, int, int]) -> None:
    collector = Collector()
    collector.relax()
    gc.set_threshold(123, 4, 5)
    collector.over()
    assert gc.get_threshold() == (123, 4, 5)


def test_settings_are_made_before_the_workflow_is_read(usual: tuple[int, int, int]) -> None:
    from snakemake_executor_gpupool.frontends.snakemake.collector import COLLECTOR

    COLLECTOR.over()
    ExecutorSettings()
    assert gc.get_threshold()[0] == BETWEEN_LOOKS
    COLLECTOR.over()


def test_what_was_imported_stays_left_alone_after_a_small_graph(
    usual: tuple[int, int, int],
) -> None:
    collector = Collector()
    collector.relax()
    collector.pass_over_imports()
    held = gc.get_freeze_count()
    collector.hold(LARGE_GRAPH - 1)
    collector.over()
    assert gc.get_freeze_count() > held / 2 > 500


def test_older_objects_are_looked_at_less_often_while_a_large_graph_is_worked_off(
    usual: tuple[int, int, int],
) -> None:
    collector = Collector()
    collector.relax()
    collector.hold(LARGE_GRAPH)
    assert gc.get_threshold() == (BETWEEN_LOOKS, BEFORE_THE_NEXT, usual[2])
    collector.over()
    assert gc.get_threshold() == usual
    gc.set_threshold(BETWEEN_LOOKS + 1, 4, 5)  # somebody else's choice
    collector.relax()
    collector.hold(LARGE_GRAPH)
    collector.over()
    assert gc.get_threshold() == (BETWEEN_LOOKS + 1, 4, 5)
