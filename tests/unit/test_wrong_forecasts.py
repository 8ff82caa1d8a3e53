"""A forecast may be wrong, late or absent: every job ends, with the results that are its own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.testing.graph_runs import GraphRun
from snakemake_executor_gpupool.testing.graphs import random_graph
from snakemake_executor_gpupool.testing.random_world import random_world
from tests.unit.fuzzing import cases

#: Seeds of small graphs, some of each shape.
QUICK = (15, 32, 36, 39, 50, 53, 59, 61, 64, 67, 86, 93)


@cases(6)
@given(graph=st.sampled_from(QUICK), seed=st.integers(0, 2**32))
def test_jobs_of_a_graph_end_whatever_is_foreseen(graph: int, seed: int) -> None:
    rng = random.Random(seed)
    run = GraphRun(random_graph(graph), looks_ahead=True, mistakes=rng)
    for lease in range(1000, 1000 + rng.choice((0, 0, 2))):
        at_s, hold_s = rng.uniform(0.0, 50.0), rng.uniform(1.0, 20.0)
        run.world.at(
            at_s, lambda n=lease, s=hold_s: run.world.lease(n, DeviceSpec("cuda", 1, ()), s)
        )
    run.run()  # compares the results
    assert run.world.scheduler.is_quiet


@pytest.mark.parametrize("seed", range(1, 13))
def test_every_job_of_any_run_ends_with_what_is_foreseen_as_without(seed: int) -> None:
    """Processes that die, items that fail, leases, nodes that go: the same jobs are reported."""
    ahead, ready = random_world(seed), random_world(seed, foresees=False)
    for world in (ahead, ready):
        world.run()
        assert world.scheduler.is_quiet and not world.complaints
    assert ahead.reports.keys() == ready.reports.keys()
