"""A whole plan, from jobs to words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.frontends.commandline.plan.command import Plan
from snakemake_executor_gpupool.frontends.commandline.plan.flow import SnakemakesPace
from snakemake_executor_gpupool.frontends.commandline.plan.foresight import ForeseenJobs
from snakemake_executor_gpupool.frontends.commandline.plan.outcome import (
    EXIT_S,
    MEASURED_SPREAD,
    Outcome,
    foretell,
)
from snakemake_executor_gpupool.frontends.commandline.plan.words import as_json, as_text
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph, PlannedJob, Way
from snakemake_executor_gpupool.records.runs.history import History
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from tests.unit.test_plan_parts import FIGURES, answer, served
from tests.unit.test_planned_run import INFO, TOOL

OWN = SnakemakesPace()
ON_CPU = dataclasses.replace(INFO, devices=("cpu",))


def graph(*jobs: PlannedJob, **more: Any) -> Graph:
    config = PoolConfig((cpu_slot(0),), DeviceSettings(), 2, Path("/none"))
    return Graph(jobs, config, "/", built_s=1.5, **more)


def plain(number: int, *after: int, **more: Any) -> PlannedJob:
    job = PlannedJob(number, "plain", f"rule plain (i={number})", Way.PLAIN, after=after)
    return dataclasses.replace(job, **more)


def outcome(
    of: Graph, *answers: Any, figures: dict[str, Figures] | None = None, tools: bool = True
) -> Outcome:
    said = {each.job_id: each for each in answers}
    infos = {TOOL: ON_CPU} if tools else {}
    foresight = ForeseenJobs(said, set(said), infos, {TOOL: 0.25} if tools else {})
    return foretell(of, foresight, History(), FIGURES if figures is None else figures)


def as_plan(of: Graph, made: Outcome, **variants: Outcome) -> Plan:
    return Plan(of, ForeseenJobs(), History(), made, variants)


def test_a_plain_job_takes_what_it_took() -> None:
    made = outcome(graph(plain(1, ran_s=2.0)))
    around_s = 1.5 + EXIT_S
    run_s = OWN.opening_s + OWN.submit_s + 2.0 + OWN.turnaround_s + OWN.finish_s
    assert made.wall_s == pytest.approx(around_s + run_s)
    assert made.low_s == pytest.approx(MEASURED_SPREAD[0] * made.wall_s)
    assert made.high_s == pytest.approx(MEASURED_SPREAD[1] * made.wall_s)


def test_another_job_of_the_rule_says_how_long_one_takes() -> None:
    made = outcome(graph(plain(1), records_s={"plain": [1.0, 3.0, 5.0]}))
    assert made.rules[0].seconds == 3.0
    assert made.rules[0].time_source == "Snakemake's records"


def test_what_was_never_run_is_not_known() -> None:
    made = outcome(graph(plain(1)))
    assert made.wall_s is None
    assert made.unknown == ["no figure yet for rule plain: it has never been run"]


def test_served_jobs_share_a_model() -> None:
    jobs = served(1), served(2)
    made = outcome(graph(*jobs), answer(1, "ab"), answer(2, "bc"))
    [rule] = made.rules
    assert (rule.items, rule.computed, rule.tool) == (4, 3, "tool")
    [model] = made.models
    assert (model.loads, model.items, model.is_measured) == (1, 3, True)
    # A unit of cost takes 0.5 s, and each micro-batch 0.1 s more.
    assert model.busy_s == pytest.approx(3 * 2.0 * 0.5 + 0.1 * model.batches)


def test_a_model_without_figures_makes_the_time_unknown() -> None:
    made = outcome(graph(served(1)), answer(1, "ab"), figures={})
    assert made.wall_s is None
    assert made.unknown == ["no figure yet for tool (m) on cpu: it has never been seen there"]
    text = as_text(as_plan(graph(served(1)), made))
    assert "how long: not known" in text
    assert "run it once: the figures are kept for the next plan" in text


def test_what_cannot_be_done_is_left_out_with_what_waits_for_it() -> None:
    jobs = plain(1, refused="it asks for 9 GPUs"), plain(2, 1, ran_s=1.0, rule="next")
    jobs += (plain(3, ran_s=1.0, rule="other"),)
    of = graph(*jobs)
    made = outcome(of)
    assert made.wall_s is not None
    assert made.wall_s < 1.5 + EXIT_S + 1.0 + 0.5
    text = as_text(as_plan(of, made))
    assert "rule plain, 1 job: it asks for 9 GPUs" in text
    assert "1 job would wait for these in vain" in text


def test_a_tool_that_cannot_be_imported_is_said() -> None:
    of = graph(served(1))
    foresight = ForeseenJobs(errors={TOOL: "No module named 'torch'"})
    made = foretell(of, foresight, History(), FIGURES)
    assert list(made.rules[0].refused) == ["No module named 'torch'"]


def test_beyond_a_checkpoint_nothing_is_known() -> None:
    of = graph(plain(1, ran_s=2.0), checkpoints={"split": 1})
    made = outcome(of)
    assert made.wall_s is None
    assert made.known_s == pytest.approx(made.low_s / MEASURED_SPREAD[0])  # type: ignore[operator]
    assert "as far as the graph is known" in as_text(as_plan(of, made))
    assert json.loads(as_json(as_plan(of, made)))["until_checkpoint_s"] == round(
        made.known_s or 0, 3
    )


def test_the_object_and_the_words_say_the_same() -> None:
    of = graph(served(1), served(2), plain(3, 1, 2, ran_s=2.0))
    made = outcome(of, answer(1, "ab"), answer(2, "bc"))
    said = json.loads(as_json(as_plan(of, made, four=made)))
    assert said["ways"] == {"served": 2, "plain CPU": 1}
    assert said["wall_s"] == pytest.approx(made.wall_s, abs=1e-3)
    assert said["with_devices"]["four"]["wall_s"] == said["wall_s"]
    assert said["snakemake"]["turnaround_from"] == "guessed"
    text = as_text(as_plan(of, made, four=made))
    assert "3 jobs: 2 served, 1 plain CPU" in text
    assert "with --devices four: " in text
    assert "1.00 x the time" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_nothing_to_do_is_said() -> None:
    assert as_text(as_plan(graph(), outcome(graph()))) == "nothing to be done"


def test_no_name_obeys_a_terminal() -> None:
    of = graph(plain(1, rule="a\x1b[31mb", ran_s=1.0))
    assert "\x1b" not in as_text(as_plan(of, outcome(of)))
