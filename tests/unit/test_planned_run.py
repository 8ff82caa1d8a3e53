"""A run foretold: times that follow by hand from what was measured."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.devices.device_spec import gpus
from snakemake_executor_gpupool.runtime.expected import ExpectedItems, ExpectedJob, Pace
from snakemake_executor_gpupool.runtime.planned_run import PUBLISHING_S, STAGING_S, PlannedRun
from snakemake_executor_gpupool.scheduling.core import Setup
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing.simulation import gpu
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

TOOL = ToolRef("tool", "", "python")
INFO = ToolInfo(
    deterministic=True,
    persistent=True,
    devices=("cuda", "cpu"),
    gpus_per_instance=1,
    pads=False,
    vram_mib=None,
    batch_limit_s=600.0,
    can_move=False,
)
START_S, READ_S, WRITE_S = 0.5, 0.25, 0.125


def model(name: str = "m", short_tokens: int = 0) -> ModelInfo:
    return ModelInfo(name, name, "g", short_tokens)


def expected(keys: str, cost: float = 1.0, of: ModelInfo | None = None) -> ExpectedJob:
    """A job with an item for each letter."""
    items = ExpectedItems(tuple(keys), (cost,) * len(keys), (1,) * len(keys))
    return ExpectedJob(of or model(), INFO, items, 4, READ_S, WRITE_S)


def request(number: int, after: Request | None = None) -> Request:
    return Request(
        number,
        f"rule r (i={number})",
        TOOL,
        b"",
        b"",
        "/",
        bare=str(number).encode(),
        identity=(str(number),),
        follow=(after,) if after else (),
    )


class Run:
    """A forecast, and what was heard of it."""

    def __init__(self, jobs: dict[int, ExpectedJob], devices: int = 1, **figures: Figures) -> None:
        self.done_s: dict[int, float] = {}
        self.errors: dict[int, str | None] = {}
        self.granted: list[tuple[int, float]] = []
        known = {f"{name}/cudax1:": each for name, each in figures.items()}
        setup = Setup(
            devices=(*(gpu(n) for n in range(devices)), cpu_slot(0)),
            figures=known,
            dispatch=DispatchConfig(batch_window_s=0.0),
        )
        pace = Pace({"tool": START_S}, figures=known)
        self.forecast = PlannedRun(setup, jobs, {"tool": INFO}, pace, self.report, self.grant)

    def report(self, report: JobReport) -> None:
        self.done_s[report.job_id] = self.forecast.now_s
        self.errors[report.job_id] = report.error

    def grant(self, job_id: int) -> None:
        self.granted.append((job_id, self.forecast.now_s))


KNOWN = Figures(load_s=3.0, s_per_cost=1.0)


def test_one_job_takes_start_read_load_its_items_and_write() -> None:  # R3
    run = Run({1: expected("abcd")}, m=KNOWN)
    run.forecast.submit(request(1))
    run.forecast.run()
    assert run.done_s == {1: pytest.approx(START_S + READ_S + 3.0 + 4.0 + WRITE_S)}
    tally = run.forecast.models["m/cudax1:"]
    assert (tally.loads, tally.items, tally.busy_s) == (1, 4, pytest.approx(4.0))
    assert tally.devices == {"cuda:0": 1}
    assert tally.is_measured
    assert run.forecast.busy_s == {"cuda:0": pytest.approx(4.0)}


def test_the_load_counts_from_the_process_on() -> None:
    """A load that is shorter than the start of a process is not negative."""
    run = Run({1: expected("a")}, m=Figures(load_s=0.2, s_per_cost=1.0))
    run.forecast.submit(request(1))
    run.forecast.run()
    assert run.done_s[1] == pytest.approx(START_S + READ_S + 0.2 + 1.0 + WRITE_S)


@pytest.mark.parametrize(("cost", "loads"), [(0.05, 1), (1.0, 2)])
def test_a_second_worker_is_loaded_only_if_it_pays(cost: float, loads: int) -> None:
    """Within 4% of the earliest end, fewer are enough: 10.4 s against 10.2 s, not 18 s to 14 s."""
    run = Run({1: expected("abcdefgh", cost)}, 2, m=Figures(load_s=10.0, s_per_cost=1.0))
    run.forecast.submit(request(1))
    run.forecast.run()
    assert run.forecast.models["m/cudax1:"].loads == loads
    took_s = run.done_s[1] - START_S - READ_S - WRITE_S - 10.0
    assert took_s == pytest.approx(8.0 * cost / loads)


def test_what_two_jobs_have_in_common_is_computed_once() -> None:
    run = Run({1: expected("abcd"), 2: expected("cdef")}, m=KNOWN)
    run.forecast.submit(request(1))
    run.forecast.submit(request(2))
    run.forecast.run()
    assert run.forecast.models["m/cudax1:"].items == 6
    assert set(run.done_s) == {1, 2}


def test_kept_results_are_not_computed() -> None:
    items = ExpectedItems(("a", "b", "c"), (1.0,) * 3, (1,) * 3, kept=2)
    run = Run({1: ExpectedJob(model(), INFO, items, 4, READ_S, WRITE_S)}, m=KNOWN)
    run.forecast.submit(request(1))
    run.forecast.run()
    assert run.forecast.models["m/cudax1:"].items == 1


def test_two_models_on_one_device_are_loaded_once_each() -> None:
    jobs = {1: expected("ab"), 2: expected("cd", of=model("n"))}
    run = Run(jobs, m=KNOWN, n=KNOWN)
    run.forecast.submit(request(1))
    run.forecast.submit(request(2))
    run.forecast.run()
    assert run.forecast.counts["model_loads"] == 2
    assert run.forecast.counts["evictions"] == 1


def test_a_model_that_was_never_seen_is_no_measured_one() -> None:
    run = Run({1: expected("ab")})
    run.forecast.submit(request(1))
    run.forecast.run()
    assert not run.forecast.models["m/cudax1:"].is_measured
    assert run.errors == {1: None}


def test_short_jobs_go_through_a_chain_in_one_dispatch() -> None:
    short = model("m", 128), model("n", 128)
    jobs = {1: expected("ab", of=short[0]), 2: expected("ab", of=short[1])}
    chain = Figures(load_s=2.0, s_per_cost=1.0)
    run = Run(jobs, **{"m+n/m": chain})
    later = request(2)
    run.forecast.submit(request(1, later))
    run.forecast.at(20.0, lambda: run.forecast.submit(later))
    run.forecast.run()
    first_s = START_S + READ_S + 2.0 + 1.0 + STAGING_S
    assert run.done_s == {1: pytest.approx(first_s), 2: pytest.approx(20.0 + PUBLISHING_S)}
    assert run.forecast.counts["merged"] == run.forecast.counts["saved"] == 1


def test_what_no_device_fits_fails_with_the_reason() -> None:
    run = Run({1: expected("a")})
    run.forecast.lease(LeaseRequest(1, "rule card", gpus(3)))
    run.forecast.run()
    assert "asks for cudax3; managed here: cuda:0" in str(run.errors[1])


def test_leases_wait_for_each_other() -> None:
    run = Run({})
    for number in (1, 2):
        run.forecast.lease(LeaseRequest(number, f"rule card {number}", gpus(1)))
    run.forecast.at(4.0, lambda: run.forecast.lease_ended(1))
    run.forecast.at(9.0, lambda: run.forecast.lease_ended(2))
    run.forecast.run()
    assert run.granted == [(1, 0.0), (2, pytest.approx(4.0))]


def test_a_factor_holds_for_all_that_processes_do() -> None:
    run = Run({1: expected("abcd")}, m=KNOWN)
    run.forecast._pace = Pace({"tool": START_S}, figures=run.forecast._pace.figures, factor=2.0)
    run.forecast.submit(request(1))
    run.forecast.run()
    assert run.done_s[1] == pytest.approx(2.0 * (START_S + READ_S + 3.0 + 4.0 + WRITE_S))
