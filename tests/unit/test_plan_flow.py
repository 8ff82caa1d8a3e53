"""Snakemake in simulated time: when jobs are handed out, and when they end."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.devices.device_spec import gpus
from snakemake_executor_gpupool.frontends.commandline.plan.flow import Flow, Limits, SnakemakesPace
from snakemake_executor_gpupool.frontends.commandline.plan.to_come import JobsToCome
from snakemake_executor_gpupool.frontends.snakemake.planned import PlannedJob, Way
from snakemake_executor_gpupool.runtime.expected import Pace
from snakemake_executor_gpupool.scheduling import forecast as forecasts
from snakemake_executor_gpupool.scheduling.core import Setup
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing.simulation import gpu
from tests.unit.test_planned_run import (
    INFO,
    KNOWN,
    READ_S,
    START_S,
    WRITE_S,
    expected,
    model,
    request,
)

#: What Snakemake takes: nothing, but for what a test says.
NO_TIME = SnakemakesPace(opening_s=0, turnaround_s=0, finish_s=0, submit_s=0, child_s=0)


def plain(number: int, *after: int, **more: object) -> PlannedJob:
    job = PlannedJob(number, "plain", f"rule plain (i={number})", Way.PLAIN, after=after)
    return dataclasses.replace(job, **more)  # type: ignore[arg-type]


def served(number: int, *after: int, **more: object) -> PlannedJob:
    job = plain(number, *after, request=request(number), way=Way.SERVED)
    return dataclasses.replace(job, **more)  # type: ignore[arg-type]


def flow(
    *jobs: PlannedJob,
    own: SnakemakesPace = NO_TIME,
    limits: Limits | None = None,
    seconds: float = 1.0,
    **expects: str,
) -> Flow:
    """A run that has ended, of jobs that take a second each."""
    known = {"m/cudax1:": KNOWN}
    return Flow(
        jobs,
        {job.number: expected(expects.get(f"job{job.number}", "ab")) for job in jobs},
        {"tool": INFO},
        Setup(devices=(gpu(0), cpu_slot(0)), figures=known),
        Pace({"tool": START_S}, figures=known),
        {job.number: seconds for job in jobs},
        limits or Limits(cores=2, local_cores=1),
        own,
    )


def ends(made: Flow) -> dict[int, float]:
    made.run()
    return {number: round(made.done_s[number], 3) for number in sorted(made.done_s)}


def test_plain_jobs_share_the_cores() -> None:
    assert ends(flow(plain(1), plain(2), plain(3))) == {1: 1.0, 2: 1.0, 3: 2.0}


def test_a_job_with_more_threads_than_cores_takes_all_of_them() -> None:
    assert ends(flow(plain(1, threads=8), plain(2))) == {1: 1.0, 2: 2.0}


def test_a_job_waits_for_all_that_it_reads_from() -> None:
    jobs = plain(1), plain(2), plain(3, 1, 2)
    assert ends(flow(*jobs)) == {1: 1.0, 2: 1.0, 3: 2.0}


def test_snakemake_takes_its_time_between_jobs() -> None:
    own = SnakemakesPace(opening_s=0.5, turnaround_s=0.25, finish_s=0.1, submit_s=0.05)
    first_s = 0.5 + 0.05 + 1.0
    then_s = first_s + 0.25 + 0.1 + 0.05 + 1.0
    assert ends(flow(plain(1), plain(2, 1), own=own)) == {1: first_s, 2: pytest.approx(then_s)}


def test_jobs_a_second_are_bounded() -> None:
    limits = Limits(cores=100, local_cores=1, jobs_a_second=10)
    done = ends(flow(*map(plain, range(1, 26)), limits=limits))
    starts = [round(end - 1.0, 1) for end in done.values()]
    assert [len(list(each)) for _, each in itertools.groupby(starts)] == [10, 10, 5]
    assert sorted(set(starts)) == [0.0, 1.0, 2.0]


def test_jobs_at_a_time_are_bounded() -> None:
    limits = Limits(cores=100, local_cores=1, jobs=2)
    assert max(ends(flow(*map(plain, range(1, 6)), limits=limits)).values()) == 3.0


def test_local_jobs_have_cores_of_their_own() -> None:
    jobs = plain(1), plain(2), plain(3, way=Way.LOCAL), plain(4, way=Way.LOCAL)
    assert ends(flow(*jobs)) == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0}


def test_a_served_job_goes_through_the_pool() -> None:
    done = ends(flow(plain(1), served(2, 1), plain(3, 2, way=Way.NOTHING)))
    pool_s = START_S + READ_S + 3.0 + 2.0 + WRITE_S
    # The batch window: a model without work waits a moment for other inputs.
    assert 1.0 + pool_s <= done[2] <= 1.0 + pool_s + 0.2
    assert done[3] == done[2]


def test_plain_gpu_jobs_wait_for_devices_and_give_them_back() -> None:
    jobs = [
        plain(n, way=Way.LEASED, lease=LeaseRequest(n, f"rule card {n}", gpus(1))) for n in (1, 2)
    ]
    assert ends(flow(*jobs)) == {1: 1.0, 2: 2.0}


def test_members_of_a_group_go_on_without_snakemake() -> None:
    own = dataclasses.replace(NO_TIME, turnaround_s=5.0)
    jobs = plain(1, group=1), plain(2, 1, group=1), plain(3, 2)
    assert ends(flow(*jobs, own=own)) == {1: 1.0, 2: 2.0, 3: 8.0}


def test_a_group_starts_when_all_of_it_can() -> None:
    jobs = plain(1), plain(2, group=1), plain(3, 1, group=1)
    assert ends(flow(*jobs)) == {1: 1.0, 2: 2.0, 3: 2.0}


def test_a_job_of_its_own_process_takes_longer() -> None:
    own = dataclasses.replace(NO_TIME, child_s=2.0)
    assert ends(flow(plain(1, own_process=True), own=own)) == {1: 3.0}


def test_priority_goes_first() -> None:
    limits = Limits(cores=1, local_cores=1)
    assert ends(flow(plain(1), plain(2, priority=5), limits=limits)) == {1: 2.0, 2: 1.0}


def test_every_job_ends_in_any_graph() -> None:
    """Each job of layers reads from all of the layer before."""
    layers = [range(start, start + 5) for start in range(1, 21, 5)]
    jobs = [plain(n) for n in layers[0]]
    jobs += [plain(n, *before) for before, layer in itertools.pairwise(layers) for n in layer]
    done = ends(flow(*jobs, limits=Limits(cores=5, local_cores=1)))
    assert len(done) == 20
    assert max(done.values()) == 4.0


@pytest.mark.parametrize(("looks_ahead", "loads"), [(False, 4), (True, 3)])
def test_what_is_to_come_counts_as_in_a_run(looks_ahead: bool, loads: int) -> None:
    """Of two idle models the one used least recently is needed again, the other is not."""
    of = {1: "m1", 2: "m2", 3: "m3", 4: "m1"}
    jobs = served(1), served(2), served(3, 1, 2), served(4, 3)
    wanted = {
        n: expected("?abcd"[n], 4.0 if n == 2 else 1.0, model(name)) for n, name in of.items()
    }
    known = {f"{name}/cudax1:": Figures(load_s=10.0, s_per_cost=1.0) for name in of.values()}
    made = Flow(
        jobs,
        wanted,
        {"tool": INFO},
        Setup(devices=(gpu(0), gpu(1), cpu_slot(0)), figures=known),
        Pace({"tool": START_S}, figures=known),
        {},
        Limits(cores=2, local_cores=1),
        NO_TIME,
        JobsToCome(jobs, wanted) if looks_ahead else None,
    )
    assert ends(made).keys() == of.keys()
    assert made.forecast.counts["model_loads"] == loads


def test_of_a_large_graph_the_rest_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "MAX_WAVES", 3)
    jobs = [served(n, n - 1) if n > 1 else served(n) for n in range(1, 6)]
    to_come = JobsToCome([*jobs, plain(9, 5)], {job.number: expected("a") for job in jobs})
    first = to_come.look(0.0, ())
    assert first is not None and first.is_cut and not first.is_complete
    assert [wave.jobs for wave in first.waves] == [1, 1, 1]
    begun = to_come.wave_of(1)
    assert begun and to_come.wave_of(5) == ""
    assert to_come.look(5.0, {1}) is None
    then = to_come.look(10.0, {1, 2})
    assert then is not None and then.is_complete and len(then.waves) == 3
    assert to_come.wave_of(5) != ""
    assert to_come.look(30.0, {1, 2}) is None
