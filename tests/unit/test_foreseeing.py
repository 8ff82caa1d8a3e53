"""What the Snakemake frontend says of the jobs to come, over a stub workflow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.iocontainers import Params

from snakemake_executor_gpupool.frontends.snakemake import foreseeing as module
from snakemake_executor_gpupool.frontends.snakemake.foreseeing import Foreseeing
from snakemake_executor_gpupool.scheduling.forecast import Forecast, Need
from tests.unit.stub_workflow import StubJob, StubWorkflow


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubWorkflow]:
    """One simulated GPU; a graph is looked at whenever asked, and for any time."""
    monkeypatch.setenv("GPUPOOL_SIMULATE", "1x8GiB")
    monkeypatch.setenv("GPUPOOL_PROFILE", "off")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "MAX_EVALUATION_S", math.inf)
    monkeypatch.setattr(module, "EVALUATION_S_PER_JOB", math.inf)
    made = StubWorkflow(tmp_path, monkeypatch)
    yield made
    made.executor.shutdown()


def jobs_of(workflow: StubWorkflow, rule: str, number: int, **params: Any) -> list[StubJob]:
    """Make jobs of one rule, whose wildcard ``n`` counts them."""
    made = [workflow.served(rule) for _ in range(number)]
    for n, job in enumerate(made):
        job.rule.params = Params(fromdict=params)
        job.wildcards_dict = {"n": str(n)}
        job.wildcards = SimpleNamespace(n=str(n))
    return made


def jobs_of_waves(forecast: Forecast) -> list[int]:
    return sorted(wave.jobs for wave in forecast.waves)


def look(foreseeing: Foreseeing) -> Forecast:
    forecast = foreseeing.look()
    assert forecast is not None
    return forecast


def test_the_graph_is_told_once_and_again_when_it_has_changed(workflow: StubWorkflow) -> None:
    first = jobs_of(workflow, "embed", 3)
    for job, reader in zip(first, jobs_of(workflow, "score", 3, k="7"), strict=True):
        reader.reads(job)
    foreseeing = Foreseeing(workflow)

    forecast = look(foreseeing)
    embed, score = forecast.waves
    assert (embed.tool, embed.jobs, embed.after) == ("linear-head", 3, ())
    assert (score.jobs, score.after) == (3, (Need(embed.name, 1),))
    assert forecast.is_complete
    assert foreseeing.look() is None

    assert [foreseeing.wave_of(job) for job in first] == [embed.name] * 3
    workflow.dag.done.add(first[0])
    jobs_of(workflow, "late", 1)
    forecast = look(foreseeing)
    # Two are in flight, one is done: none of them is to come.
    assert {wave.name.partition("@")[2] for wave in forecast.waves} == {"0", "1"}
    assert sum(wave.jobs for wave in forecast.waves) == 4


def test_a_job_that_is_tried_again_is_of_the_same_wave(workflow: StubWorkflow) -> None:
    (job,) = jobs_of(workflow, "embed", 1)
    foreseeing = Foreseeing(workflow)
    look(foreseeing)
    assert foreseeing.wave_of(job) == foreseeing.wave_of(job) != ""


def test_what_waits_for_a_job_that_has_failed_never_comes(workflow: StubWorkflow) -> None:
    (a,), (b,), (c,) = (jobs_of(workflow, name, 1) for name in ("a", "b", "c"))
    b.reads(a)
    workflow.scheduler.failed.add(a)
    forecast = look(Foreseeing(workflow))
    assert [wave.jobs for wave in forecast.waves] == [1]
    assert look(Foreseeing(workflow)).is_complete
    assert c in workflow.jobs


def test_a_checkpoint_may_still_add_jobs(workflow: StubWorkflow) -> None:
    (job,) = jobs_of(workflow, "split", 1)
    job.is_checkpoint = True
    assert not look(Foreseeing(workflow)).is_complete


def test_jobs_that_need_the_same_model_are_of_one_kind(workflow: StubWorkflow) -> None:
    """In several rules, too; and whatever a function calls its wildcards."""
    jobs_of(workflow, "a", 4, model=lambda wc: f"m{int(wc.n) % 2}", layer=6)
    jobs_of(workflow, "b", 3, model="m{n}", layer=6)
    jobs_of(workflow, "c", 5, layer=6, model="m2")
    assert jobs_of_waves(look(Foreseeing(workflow))) == [3, 3, 6]


def test_a_whole_configuration_as_a_param_is_looked_at_once_and_not_for_each_job(
    workflow: StubWorkflow,
) -> None:
    table = [*range(1000)]
    jobs_of(workflow, "a", 2, table=table)
    jobs_of(workflow, "b", 4, table=lambda wildcards: table)
    jobs_of(workflow, "c", 1, table=[*table[1:], 0])
    foreseeing = Foreseeing(workflow)
    assert jobs_of_waves(look(foreseeing)) == [1, 6]
    texts = [text for rule in foreseeing._rules.values() if rule for _, text in rule.fixed]
    assert max(map(len, texts)) <= module.MAX_TEXT


def test_params_of_inputs_are_not_evaluated_before_these_are_there(workflow: StubWorkflow) -> None:
    jobs_of(workflow, "a", 4, model=lambda wildcards, input: input.crash)
    (wave,) = look(Foreseeing(workflow)).waves
    assert (wave.kind, wave.jobs) == ("a*", 4)


def test_params_that_fail_are_not_known(workflow: StubWorkflow) -> None:
    jobs_of(workflow, "a", 4, model=lambda wildcards: 1 // int(wildcards.n))
    forecast = look(Foreseeing(workflow))
    assert jobs_of_waves(forecast) == [1, 1, 2]
    assert {wave.kind: wave.jobs for wave in forecast.waves}["a*"] == 1


def test_a_param_that_is_another_one_for_each_job_chooses_no_model(workflow: StubWorkflow) -> None:
    jobs_of(workflow, "a", 300, title="sample {n}", model=lambda wildcards: int(wildcards.n) % 3)
    jobs_of(workflow, "b", 40, model=lambda wildcards: 10 + int(wildcards.n) // 2)
    assert jobs_of_waves(look(Foreseeing(workflow))) == [2] * 20 + [100] * 3


def test_a_rule_whose_tool_is_not_known_yet_may_bring_jobs(workflow: StubWorkflow) -> None:
    class Evaluable:
        def is_evaluable(self) -> bool:
            return True

    jobs_of(workflow, "a", 1)
    (job,) = jobs_of(workflow, "b", 1)
    job.rule.resources = {"gpupool_tool": Evaluable()}
    forecast = look(Foreseeing(workflow))
    assert [wave.jobs for wave in forecast.waves] == [1] and not forecast.is_complete


def test_a_graph_that_cannot_be_read_is_not_known(workflow: StubWorkflow) -> None:
    foreseeing = Foreseeing(workflow)
    (job,) = jobs_of(workflow, "a", 1)
    del workflow.dag.dependencies
    assert look(foreseeing) == Forecast()
    assert foreseeing.wave_of(job) == ""


def test_evaluating_params_is_given_up_where_it_takes_long(
    workflow: StubWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_EVALUATION_S", -1.0)
    jobs_of(workflow, "a", 10, model="{n}")
    assert jobs_of_waves(look(Foreseeing(workflow))) == [10]
