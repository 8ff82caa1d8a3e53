"""Short requests through chains of models: in one dispatch, or not at all (M1-M5)."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.merging import staged_outputs
from snakemake_executor_gpupool.scheduling.models.work_queue import MAX_PASSED
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.tool_api.short_requests import (
    MAX_NF4_SHORT_INFERENCE_TOKENS,
    MAX_SHORT_INFERENCE_TOKENS,
    is_short,
    short_tokens,
)
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.describe import describe_item

STAGES = 3


@dataclass
class Pipeline(World):
    """Jobs in rows: each is made ready a moment after the one before it was reported."""

    release_s: float = 0.05
    fatal_chains: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows: dict[int, list[int]] = {}
        self.merges = True

    def row(self, number: int, items: Sequence[FakeItem | str], stages: int = STAGES) -> None:
        """Submit the first of a row of jobs; each reads what the one before it writes."""
        first = 100 * number
        self.rows[first] = list(range(first, first + stages))
        for stage, job_id in enumerate(self.rows[first]):
            made = [item if isinstance(item, FakeItem) else FakeItem(item) for item in items]
            at_stage = [
                FakeItem(f"{item.key}/{stage}", item.cost, item.tokens, f"g{stage}")
                for item in made
            ]
            self.declare(job_id, at_stage, model=f"m{stage}")
        self.release(first)

    def release(self, job_id: int) -> None:
        model, items = self._jobs[job_id]
        follow = self.rows[job_id - job_id % 100][job_id % 100 + 1 :] if self.merges else []
        self.submit(job_id, items, model=model, follow=follow)

    def _carry_out(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.LoadModel) and effect.more_params and self.fatal_chains:
            self.at(self.now_s + 0.5, lambda: self._die(effect.worker_id, "killed by SIGKILL"))
            return
        super()._carry_out(effect)
        if isinstance(effect, fx.Report) and effect.report.error is None:
            following = effect.report.job_id + 1
            if following in self._jobs:
                self.at(self.now_s + self.release_s, lambda: self.release(following))

    @property
    def dispatches(self) -> int:
        return len(self.effects(fx.RunBatch)) + len(self.effects(fx.RunMerged))

    @property
    def counts(self) -> Any:
        return self.scheduler.merges.counts


def pipeline(**options: Any) -> Pipeline:
    return Pipeline(
        **{"short_tokens": MAX_SHORT_INFERENCE_TOKENS, "seconds_per_cost": 0.1, **options}
    )


def all_succeeded(world: Pipeline) -> bool:
    ids = [job_id for row in world.rows.values() for job_id in row]
    own = {i: [f"result of {item.key}" for item in world._jobs[i][1]] for i in ids}
    return world.reports == dict.fromkeys(ids) and world.results == own


# -- what is short --------------------------------------------------------------------
def test_the_rule_of_thumb_is_the_one_of_petals() -> None:  # M1 M3
    assert (MAX_SHORT_INFERENCE_TOKENS, MAX_NF4_SHORT_INFERENCE_TOKENS) == (128, 1)
    assert is_short([64, 10], 128) and not is_short([65, 10], 128)
    assert is_short([128], 128) and not is_short([129], 128)
    assert is_short([1], 1) and not is_short([1, 1], 1)
    assert not is_short([], 128) and not is_short([1], 0)


def test_a_tool_sets_its_own_bound_for_all_precisions_or_for_some() -> None:  # M3
    class Plain(Tool):
        defaults: ClassVar = {"precision": "float32"}

    class Own(Plain):
        max_short_tokens = 16

    class Mapped(Plain):
        max_short_tokens: ClassVar = {"nf4": 4, "float32": 0}

    assert Plain().short_tokens() == 128
    assert Plain({"precision": "NF4"}).short_tokens() == 1
    assert Own({"precision": "nf4"}).short_tokens() == 16
    assert Mapped({"precision": "nf4"}).short_tokens() == 4
    assert (Mapped().short_tokens(), Mapped({"precision": "bf16"}).short_tokens()) == (0, 128)
    assert short_tokens(None, "") == 128


def test_an_item_above_its_tools_maximum_is_refused_by_name() -> None:  # M4
    class Bounded(Tool):
        max_batch_tokens = 10

        def tokens(self, item: str) -> int:
            return len(item)

        def name(self, item: str) -> str:
            return f"word {item[0]}"

    assert describe_item(Bounded(), "x" * 10, 0).tokens == 10
    with pytest.raises(InputError, match="item word x has 11 tokens; Bounded takes at most 10"):
        describe_item(Bounded(), "x" * 11, 0)


# -- one dispatch ------------------------------------------------------------------------
def test_a_short_row_is_one_dispatch() -> None:  # M1
    world = pipeline()
    world.row(1, ["a", "b"])
    world.run()
    assert all_succeeded(world)
    assert world.dispatches == 1
    assert world.counts == {"merged": 1, "saved": 2}
    assert len(world.effects(fx.LoadModel)) == 1
    (load,) = world.effects(fx.LoadModel)
    assert (load.params, load.more_params) == (b"m0", (b"m1", b"m2"))
    assert world.scheduler.ledger.guesses == world.scheduler.ledger.claimed == 4


def test_short_rows_that_come_together_share_dispatches() -> None:  # M1 P7
    world = pipeline(budget_tokens=8)
    for number in range(1, 9):
        world.row(number, [f"r{number}"])
    world.run()
    assert all_succeeded(world)
    assert len(world.effects(fx.RunBatch)) == 0 and world.dispatches <= 3
    assert len(world.computed) == len(set(world.computed))


@pytest.mark.parametrize(("tokens", "dispatches"), [(128, 1), (129, STAGES)])
def test_a_row_above_the_bound_goes_stage_by_stage(tokens: int, dispatches: int) -> None:  # M2
    world = pipeline(budget_tokens=1000)
    world.row(1, [FakeItem("a", 1.0, tokens)])
    world.run()
    assert all_succeeded(world)
    assert world.dispatches == dispatches


def test_a_job_that_comes_before_its_results_waits_for_them() -> None:  # M1
    world = pipeline(seconds_per_cost=10.0)
    world.row(1, ["a"])
    world.run()
    assert all_succeeded(world) and world.dispatches == 1
    assert len(world.computed) == STAGES


def test_jobs_that_messages_call_the_same_are_told_apart() -> None:  # M1
    """Wildcards may have in them what a title puts between two of them."""
    world = pipeline(seconds_per_cost=10.0)
    world.titles = {100 * row + stage: f"rule r{stage}" for row in (1, 2, 3) for stage in range(3)}
    for number in (1, 2, 3):
        world.row(number, [f"r{number}"])
    world.run(until_s=1e4)
    assert all_succeeded(world) and world.scheduler.is_quiet
    assert world.counts == {"merged": 3, "saved": 6}


def test_results_that_nobody_claims_are_counted() -> None:  # M1
    world = pipeline(release_s=1e12)
    world.row(1, ["a", "b"])
    world.run(until_s=1e6)
    ledger = world.scheduler.ledger
    assert (ledger.guesses, ledger.claimed) == (4, 0)
    assert world.scheduler.is_quiet


def test_what_was_staged_is_published_only_for_the_job_that_was_guessed() -> None:  # M1 M5
    world = pipeline(changed={101})
    world.row(1, ["a"])
    world.row(2, ["b"])
    world.at(1.0, lambda: world.other_params.add(202))
    world.run()
    assert all_succeeded(world)
    published = [effect.request.job_id for effect in world.effects(fx.PublishJob)]
    assert sorted(published) == [101, 102, 201], "101 is asked for, and its input has changed"
    assert len(world.effects(fx.Unstage)) == 2
    assert {effect.request.job_id for effect in world.effects(fx.WriteJob)} == {101, 202}
    assert len(world.computed) == len(set(world.computed)), "results are found by content"


def test_a_process_that_dies_while_it_publishes_costs_time_only() -> None:  # M5 W4
    world = pipeline(read_s=0.1)
    world.row(1, ["a"])
    for tick in range(1000):
        if not world.effects(fx.PublishJob):
            world.run(until_s=0.01 * tick)
    world.kill(world.effects(fx.PublishJob)[0].worker_id)
    world.run()
    assert all_succeeded(world)
    assert {effect.request.job_id for effect in world.effects(fx.WriteJob)} == {101}


def test_what_is_staged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:  # M1
    monkeypatch.setattr(staged_outputs, "MAX_STAGED", 3)
    world = pipeline(release_s=5.0)
    for number in range(1, 4):
        world.row(number, [f"r{number}"])
    world.run()
    assert all_succeeded(world)
    assert len(world.effects(fx.Unstage)) == 3
    assert world.counts == {"merged": 3, "saved": 6}


# -- not merged ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "info", [{"deterministic": False}, {"persistent": False}, {"gpus_per_instance": 2}]
)
def test_tools_that_cannot_be_merged_are_not(info: dict[str, Any]) -> None:  # M1
    world = pipeline(info=info)
    world.row(1, ["a"])
    world.run()
    assert all_succeeded(world)
    assert not world.effects(fx.RunMerged)


def test_models_that_do_not_fit_side_by_side_are_not_merged() -> None:  # M1 D9
    for need_mib, merged in ((300, 1), (600, 0)):
        world = pipeline(gpu_mib=1000, info={"vram_mib": need_mib})
        world.row(1, ["a"])
        world.run()
        assert all_succeeded(world)
        assert world.counts["merged"] == merged


def test_as_much_of_a_row_as_fits_is_merged() -> None:  # M1 D9
    world = pipeline(gpu_mib=1000, info={"vram_mib": 400})
    world.row(1, ["a"])
    world.run()
    assert all_succeeded(world)
    assert [len(e.requests[0].stages) for e in world.effects(fx.RunMerged)] == [2]


def test_a_chain_sends_nobody_away() -> None:  # M1
    world = pipeline(gpus=1)
    world.submit(1, [FakeItem("bulk", 100.0, 1000)], model="m0")
    world.at(3.0, lambda: world.row(1, ["a"]))
    world.run(until_s=8.0)
    assert not world.effects(fx.RunMerged)
    assert not world.notes("evicted")


def test_a_chain_is_not_loaded_beside_its_own_models() -> None:  # M1
    world = pipeline(gpus=4)
    world.row(1, [FakeItem("long", 1.0, 200)])
    world.at(60.0, lambda: world.row(2, ["short"]))
    world.run()
    assert all_succeeded(world)
    assert world.counts["merged"] == 0 and len(world.effects(fx.LoadModel)) == STAGES


# -- faults ------------------------------------------------------------------------------
def test_a_worker_that_dies_between_two_stages_loses_nothing() -> None:  # M5 W4
    world = pipeline(seconds_per_cost=1.0)
    world.row(1, ["a"])
    world.run(until_s=2.6)
    assert world.reports == {100: None}, "the first stage is done, and stands"
    (worker,) = {effect.worker_id for effect in world.effects(fx.RunMerged)}
    world.kill(worker)
    world.run()
    assert all_succeeded(world)
    assert world.computed.count("a/0") == 1


def test_an_item_that_another_merged_run_has_is_not_computed_apart_as_well() -> None:  # M5
    """Else its second result would take the place of one that jobs hold already."""
    world = pipeline(gpus=1, cpus=0, bad={"b/0"}, budget_tokens=100)
    world.row(1, ["a"])
    world.row(2, ["b", "a"])
    world.run()
    good = set(world.rows[100])
    assert {job_id for job_id, error in world.reports.items() if error is None} == good
    assert all(world.results[job_id] == [f"result of a/{job_id - 100}"] for job_id in good)
    assert len(world.effects(fx.RunMerged)) == 1
    apart = [item.name for effect in world.effects(fx.RunBatch) for item in effect.items]
    assert apart == ["b/0@0"], "a's result comes from the first row's run"


def test_the_merged_run_of_a_dropped_job_is_not_started() -> None:  # M5
    """What it would have computed is computed when somebody asks for it again."""
    world = pipeline(gpus=1, cpus=0, foreign={"cuda:0": 30.0})
    world.row(1, ["a"])
    world.at(5.0, lambda: world.take(ev.JobUnwanted(100, "its client has ended")))
    world.run(until_s=50.0)
    assert "its client has ended" in str(world.reports[100])
    assert not world.effects(fx.StartWorker)[1:], "no model is loaded for it"
    world.row(2, ["a"])
    world.run()
    assert [world.reports[job_id] for job_id in world.rows[200]] == [None] * STAGES


def live_through(
    merges: bool, rows: list[list[str]], kills_s: list[float], **options: Any
) -> dict[int, bool]:
    """Run rows to the end; return which jobs succeeded, all of them with their own results."""
    world = pipeline(**options)
    world.merges = merges
    for number, items in enumerate(rows, 1):
        world.at(0.3 * number, functools.partial(world.row, number, items))
    picks = random.Random(1)
    for time_s in kills_s:
        world.at(time_s, lambda: world.kill_one(picks.choice))
    return lived_to_the_end(world)


def lived_to_the_end(world: Pipeline) -> dict[int, bool]:
    """Run to the end; return which jobs succeeded, all of them with their own results."""
    world.run(until_s=50_000)
    assert world.scheduler.is_quiet
    for job_id, error in world.reports.items():
        own = [f"result of {item.key}" for item in world._jobs[job_id][1]]
        assert error is not None or world.results[job_id] == own
    return {job_id: error is None for job_id, error in world.reports.items()}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.floats(0.0, 6.0), max_size=2),
    st.sampled_from(["", "a/0", "b/1", "c/2"]),
    st.sampled_from(["bad", "deadly", "huge"]),
    st.integers(1, 2),
)
@example([["a"], ["a", "b"]], [], "a/0", "bad", 1)  # a fails while another merged run has it
def test_merged_or_not_every_job_ends_the_same_way(
    rows: list[list[str]], kills_s: list[float], culprit: str, harm: str, gpus: int
) -> None:  # M5
    harms = {harm: {culprit}} if culprit else {}
    ends = [
        live_through(merges, rows, [] if culprit else kills_s, gpus=gpus, **harms)
        for merges in (True, False)
    ]
    assert ends[0] == ends[1]


def test_a_chain_that_cannot_be_loaded_harms_its_first_stages_only_as_they_would_alone() -> None:
    # M5 W8
    world = pipeline(failing_loads={"m0"})
    world.row(1, ["a"])
    world.run()
    assert list(world.reports) == [100] and "no weights" in str(world.reports[100])


def test_a_chain_whose_workers_keep_dying_is_given_up() -> None:  # M5 W4
    world = pipeline(fatal_chains=True)
    for number in range(1, 4):
        world.at(5.0 * number, lambda n=number: world.row(n, [f"r{n}"]))
    world.run()
    assert all_succeeded(world)
    assert world.counts["merged"] == 0
    given_up = [note["model"] for note in world.notes("model_failed")]
    assert given_up == ["chain m0 + m1 + m2", "chain m1 + m2"], "each once"


# -- the queue ---------------------------------------------------------------------------
def test_short_goes_before_bulk_and_bulk_is_never_starved() -> None:  # M4
    """At most ``MAX_PASSED`` short micro-batches in a row pass a bulk one that waits."""
    world = World(gpus=1, budget_tokens=500, short_tokens=128, load_s=0.0, start_s=0.0)
    bulk = [FakeItem(f"bulk{number}", 1.0, 500) for number in range(6)]
    world.submit(1, bulk)
    for number in range(200):
        brief = FakeItem(f"s{number}", 1.0, 100)
        world.at(0.25 * number, functools.partial(world.submit, 10 + number, [brief]))
    world.run()
    kinds = ["bulk" if keys[0].startswith("bulk") else "short" for keys in world.batches]
    runs = [(kind, len(list(each))) for kind, each in itertools.groupby(kinds)]
    while runs and runs[-1][0] == "short":
        runs.pop()  # nothing waits behind the last ones
    assert max(length for kind, length in runs if kind == "short") == MAX_PASSED
    assert max(length for kind, length in runs[1:] if kind == "bulk") == 1
    assert set(world.reports.values()) == {None}


def test_priority_goes_before_shortness() -> None:  # M4
    world = World(gpus=1, budget_tokens=500, short_tokens=128, read_s=0.0)
    world.submit(1, [FakeItem("low and short", 1.0, 1)], priority=0)
    world.submit(2, [FakeItem("high and long", 1.0, 500)], priority=1)
    world.submit(3, [FakeItem("low and long", 1.0, 500)], priority=0)
    world.run()
    assert world.computed == ["high and long", "low and short", "low and long"]


def test_a_stream_of_short_requests_waits_less_than_two_bulk_batches() -> None:  # M4
    world = World(gpus=1, budget_tokens=512, short_tokens=128, seconds_per_cost=1.0)
    world.submit(1, [FakeItem(f"bulk{number}", 1.0, 512) for number in range(300)])
    arrivals = {10 + number: 5.0 + 2.9 * number for number in range(80)}
    for job_id, time_s in arrivals.items():
        item = FakeItem(f"s{job_id}", 0.05, 100)
        world.at(time_s, functools.partial(world.submit, job_id, [item]))
    world.run()
    waits_s = sorted(world.report_times[job_id] - arrivals[job_id] for job_id in arrivals)
    assert waits_s[int(0.95 * len(waits_s))] < 2.0
