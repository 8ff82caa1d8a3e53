"""Checks of the workflow before anything runs; each problem is reported once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_gpupool.devices.allocation.requests import (
    LEASE,
    DeviceRequest,
    why_impossible,
    why_no_card,
)
from snakemake_executor_gpupool.devices.card_wish import ANY_CARD
from snakemake_executor_gpupool.devices.device import fit_one_process
from snakemake_executor_gpupool.devices.device_spec import gpus
from snakemake_executor_gpupool.devices.kinds import gpus_among, is_gpu
from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.frontends.snakemake.bundles import Bundle
from snakemake_executor_gpupool.frontends.snakemake.containers import pull_images
from snakemake_executor_gpupool.frontends.snakemake.groups import units_of
from snakemake_executor_gpupool.frontends.snakemake.name_checks import (
    misspelt_names,
    near_resources,
    near_variables,
)
from snakemake_executor_gpupool.frontends.snakemake.needs import (
    CARD_RESOURCES,
    DEVICE_RESOURCES,
    NeedNotKnown,
    Needs,
    go_without_gpus,
    needs_of,
)
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable
from snakemake_executor_gpupool.frontends.snakemake.tool_checks import check_tool
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    TOOL,
    is_served,
    tool_spec,
)
from snakemake_executor_gpupool.runtime.config import PoolConfig

BODILESS = (
    f"it names a tool in {TOOL}, but has no body, so Snakemake counts it as done without "
    "asking any executor. Give it a body that does the same without gpupool, such as "
    'script: "the_tool.py" or shell: "gpupool run ..."'
)


#: How to go on where there is no GPU at all.
WITHOUT_GPU = (
    "There is no GPU here. To go on without: --set-resources RULE:gpu=0 for a rule that works "
    "without one (for one with device=..., RULE:device=cpu), or --gpupool-without-gpu run for all "
    "of them, as under the local executor. To try the workflow with simulated GPUs: "
    "GPUPOOL_SIMULATE=1. Or start it on a node that has one"
)

#: How to go on where the wanted card is not there.
OTHER_CARD = (
    "Name one of these in gpu_model (several: separated by commas), leave it out to take any "
    "(--set-resources RULE:gpu_model=ANY), or start where such a card is"
)

#: With at least this many jobs at a time, batches are full for most models.
FEW_JOBS = 100


def check_start(workflow: Any, config: PoolConfig, logger: Any) -> dict[str, str]:
    """Check one job of each rule that will run.

    Returns
    -------
    dict of str to str
        The rules none of whose jobs may run, each with the reason: a resource is misspelt.

    Raises
    ------
    WorkflowError
        A rule names a tool or a device that does not exist. With ``--keep-going`` that is only
        logged, and that rule's jobs fail.
    """
    jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs()}
    local = local_rules(workflow.dag.needrun_jobs())
    pull_images(workflow, filter(is_served_safely, jobs.values()))
    misspelt = misspelt_names(workflow.rules)
    problems = [f"rule {name}: {problem}" for name, problem in misspelt.items()]
    problems += [
        f"rule {name}: {problem}"
        for name, job in jobs.items()
        if name not in local
        for problem in find_problems(workflow, job, config)
    ]
    bodiless = [f"rule {name}: {BODILESS}" for name, job in jobs.items() if is_bodiless(job)]
    problems += bodiless
    problems += find_bundle_problems(workflow.dag.needrun_jobs(), config)
    warn_of_throttles(workflow, jobs, logger)
    warn_of_local_rules({name: jobs[name] for name in jobs if name in local}, logger)
    warn_of_pipes(jobs, logger)
    warn_of_names(workflow, jobs, logger)
    if not problems:
        return misspelt
    text = "gpupool cannot run what this workflow asks for:\n" + "\n".join(
        f"  - {problem}" for problem in problems
    )
    if not has_gpus(config) and any(map(asks_safely, jobs.values())):
        text += f"\n{WITHOUT_GPU}"
    # A rule without a body has no job that could fail: Snakemake would take old outputs for new.
    if bodiless or not workflow.execution_settings.keep_going:
        raise WorkflowError(text)
    logger.error(text)
    return misspelt


def has_gpus(config: PoolConfig) -> bool:
    """Return whether the pool has a GPU, or may get one later."""
    return bool(config.gpus or gpus_among(config.expected))


def heed_missing_gpus(workflow: Any, config: PoolConfig, settings: Any) -> None:
    """Have rules that ask for GPUs run without, where there is none and the user chose that."""
    if settings.without_gpu == "run" and not has_gpus(config):
        go_without_gpus(workflow)


def asks_safely(job: Any) -> bool | None:
    """Return whether a job asks for GPUs; None while that is not known, or is malformed."""
    try:
        return needs_of(job).gpus > 0
    except Exception:
        return None


def rules_without_gpu(jobs: Iterable[Any]) -> str:
    """Return what the warning that there is no GPU adds: the rules that ask for one.

    No more jobs of a rule are looked at than it takes to know: to evaluate the resources of
    thousands of jobs takes as long as to start the pool.
    """
    asks: dict[str, bool] = {}
    for job in jobs:
        rule = job.rule
        if rule.name in asks or job.is_local:
            continue
        names = [n for n in (*DEVICE_RESOURCES, *CARD_RESOURCES) if n in rule.resources]
        if not names:
            asks[rule.name] = False
            continue
        is_asking = asks_safely(job)
        is_for_all = not any(rule.resources[name].is_evaluable() for name in names)
        if is_asking or (is_asking is not None and is_for_all):
            asks[rule.name] = is_asking
    rules = sorted(name for name, is_asking in asks.items() if is_asking)
    if not rules:
        return ""
    return f". Rules that ask for one: {', '.join(rules)}"


def is_bodiless(job: Any) -> bool:
    """Return whether a rule names a tool but has no body: no executor is asked to run it."""
    return (
        job.is_local
        and job.is_norun
        and any(asked.startswith(f"{TOOL}=") for asked in asks_for(job))
    )


def find_problems(workflow: Any, job: Any, config: PoolConfig) -> list[str]:
    """Return the problems that keep a rule from ever running; what is not known yet passes."""
    problems: list[str] = []
    try:
        refuse_services(job)
        needs = needs_of(job)
        served = is_served(job)
        if served:
            check_tool(workflow, job)
    except NeedNotKnown:
        return []
    except (Unservable, UnknownTool) as error:
        return [str(error)]
    except Exception:
        # Resources may depend on files that do not exist yet; the job itself reports problems.
        return []
    if served and needs.spec is None and needs.card:
        needs = dataclasses.replace(needs, spec=gpus(1, needs.card))
    if needs.spec is None or not is_gpu(needs.spec):
        return problems
    problem = device_problem(needs, config)
    # Many tools run on the CPU as well; which ones is known once they are imported.
    is_any = not needs.spec.names and needs.gpus == 1 and not needs.card
    may_run_on_cpu = served and not config.gpus and is_any
    if problem and not may_run_on_cpu:
        problems.append(problem)
    return problems


def find_bundle_problems(jobs: Iterable[Any], config: PoolConfig) -> list[str]:
    """Return the problems that keep jobs joined by a pipe or a service from running together."""
    problems: dict[tuple[str, ...], str] = {}
    for unit in units_of(job for job in jobs if job.pipe_group is not None):
        if any(job.is_local for job in unit):
            continue  # then Snakemake runs all of them
        rules = tuple(sorted({job.rule.name for job in unit}))
        try:
            joint = Bundle.of(unit, [*config.devices, *config.expected]).joint
        except Unservable as error:
            # Problems of one job by itself are reported elsewhere.
            problem = None if find_malformed(unit) else str(error)
        except Exception:
            problem = None  # not known yet
        else:
            problem = device_problem(joint, config) if joint.gpus else None
        if problem:
            problems[rules] = f"rules {', '.join(rules)}, which run together: {problem}"
    return list(problems.values())


def find_malformed(jobs: Iterable[Any]) -> list[str]:
    """Return the rules of the jobs whose resources are malformed."""
    malformed = []
    for job in jobs:
        try:
            needs_of(job)
        except Unservable:
            malformed.append(job.rule.name)
    return malformed


def device_problem(needs: Needs, config: PoolConfig) -> str | None:
    """Return why the managed devices can never satisfy a request for GPUs; None: they can."""
    spec = needs.spec
    assert spec is not None
    managed = [*config.gpus, *gpus_among(config.expected)]
    names = ", ".join(dict.fromkeys(device.name for device in managed))
    there = f"the pool manages {names or 'no GPU'}"
    known = {*(d.name for d in managed), *(d.local_name for d in managed)}
    missing = [name for name in spec.names if name not in known]
    if missing:
        return f"asks for {', '.join(missing)}, but {there}"
    if why := why_no_card(spec, managed):
        return f"asks for {asked_of(needs)}, but {why}" + (f". {OTHER_CARD}" if managed else "")
    if not fit_one_process(filter(spec.accepts, managed), spec.count):
        return f"asks for {spec.count} GPU{'s' * (spec.count > 1)}, but {there}"
    never = why_impossible(DeviceRequest("", spec, LEASE, "it", vram_mib=needs.vram_mib), managed)
    return None if never is None else never.removeprefix("it ")


def asked_of(needs: Needs) -> str:
    """Return which cards a job asks for, in the words of a rule."""
    spec, card = needs.spec, needs.card
    assert spec is not None
    words = {"gpu_model": ",".join(card.models), "gpu_manufacturer": ",".join(card.makers)}
    asked = [f'{name}="{value}"' for name, value in words.items() if value]
    many = f'device="{dataclasses.replace(spec, card=ANY_CARD)}"' if spec.names else spec.count
    return " and ".join([*asked, str(many) if spec.names else f"gpu={many}"])


def warn_of_throttles(workflow: Any, jobs: dict[str, Any], logger: Any) -> None:
    """Warn of limits of Snakemake's own that would keep batches small."""
    served = [name for name, job in jobs.items() if is_served_safely(job)]
    if not served:
        return
    limits = workflow.global_resources
    if "gpu" in limits and limits["gpu"].value is not None:
        logger.warning(
            f"gpupool: --resources gpu={limits['gpu'].value} lets Snakemake hand out only that "
            f"many jobs of {', '.join(served)} at a time, so they cannot be batched. gpupool "
            "assigns GPUs itself: leave that option out, or use --gpupool-devices"
        )
    waiting = sum(1 for job in workflow.dag.needrun_jobs() if job.rule.name in served)
    most = workflow.resource_settings.nodes
    if most is not None and most < min(waiting, FEW_JOBS):
        logger.warning(
            f"gpupool: --jobs {most} lets Snakemake hand out only {most} jobs at a time, so "
            f"a batch has items of at most {most} jobs, while {waiting} served jobs wait. Give "
            "--jobs unlimited: --cores bounds CPU work, and gpupool assigns devices"
        )
    rate = workflow.scheduling_settings.max_jobs_per_timespan
    if rate is not None and waiting > rate.max_jobs / max(rate.timespan, 1) * 2:
        logger.warning(
            f"gpupool: Snakemake hands out at most {rate.max_jobs} jobs per {rate.timespan} s; "
            f"{waiting} served jobs wait for that. Lift it with --max-jobs-per-timespan 100000/1s "
            "(or in a profile: max-jobs-per-timespan: 100000/1s)"
        )


def local_rules(jobs: Iterable[Any]) -> set[str]:
    """Return the rules whose jobs Snakemake runs itself: local ones, and jobs joined to them."""
    return {
        job.rule.name
        for unit in units_of(jobs)
        if any(member.is_local for member in unit)
        for job in unit
    }


def warn_of_local_rules(jobs: dict[str, Any], logger: Any) -> None:
    """Warn of rules that ask for a device but run without an executor."""
    for name, job in jobs.items():
        asked = [] if job.is_norun else asks_for(job)
        if asked:
            why, way_out = why_local(job)
            logger.warning(
                f"gpupool: rule {name} asks for {' and '.join(asked)}, but {why}: Snakemake runs "
                f"its jobs itself, without an executor, and they see no GPU. Let it run without "
                f"one, or {way_out}"
            )


def why_local(job: Any) -> tuple[str, str]:
    """Return why Snakemake runs a job itself, and what would change that."""
    if job.rule.is_handover:
        return "it has handover: True", "give these to a rule without it"
    if job.is_local:
        return "it is a local rule", "take it out of localrules:"
    return "a pipe or a service joins it to a local rule", "take that out of localrules:"


def refuse_services(job: Any) -> None:
    """Raise for a tool whose rule has a service() output.

    Raises
    ------
    Unservable
        A service runs until its consumers end; a tool ends when its outputs are written.
    """
    if job.is_service and tool_spec(job):
        raise Unservable(
            f"it has a service() output and {TOOL}={tool_spec(job)}. A service runs until its "
            "consumers have ended, and a tool only until its outputs are written: take "
            f"{TOOL} away, or service()"
        )


def warn_of_pipes(jobs: dict[str, Any], logger: Any) -> None:
    """Warn of rules that name a tool but whose own body runs, because a pipe joins their jobs."""
    joined = [name for name, job in jobs.items() if job.pipe_group is not None]
    for name in joined:
        if is_joined_tool(jobs[name]):
            logger.warning(
                f"gpupool: rule {name} reads or writes a pipe, so its job runs at the same time as "
                "the one at the other end: its own body runs, cold, instead of a warm worker"
            )


def is_joined_tool(job: Any) -> bool:
    """Return whether a job names a tool; False while its resources are not known."""
    try:
        return tool_spec(job) is not None
    except Exception:
        return False


def warn_of_names(workflow: Any, jobs: dict[str, Any], logger: Any) -> None:
    """Warn of resources and variables that mean nothing and resemble one that does."""
    limits = workflow.global_resources
    limited = [name for name in limits if limits[name].value is not None]
    for warning in near_resources(jobs, limited) + near_variables(os.environ):
        logger.warning(f"gpupool: {warning}")


def asks_for(job: Any) -> list[str]:
    """Return which of gpupool's resources a job sets, as far as they are known."""
    try:
        asked = {name: job.resources.get(name) for name in ("device", "gpu", "gpu_model")}
        asked[TOOL] = tool_spec(job)
    except Exception:
        return []
    return [f"{name}={value}" for name, value in asked.items() if value and value != "cpu"]


def is_served_safely(job: Any) -> bool:
    """Return whether a job is served; False while its resources are not known."""
    try:
        return is_served(job)
    except Exception:
        return False
