"""Probes of params: one that changes results must tell models or items apart."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.compare import shown
from snakemake_executor_gpupool.frontends.commandline.check.computing import (
    needs_items,
    only_deterministic,
)
from snakemake_executor_gpupool.frontends.commandline.check.explain import said
from snakemake_executor_gpupool.frontends.commandline.check.finding import NotTested, Probe
from snakemake_executor_gpupool.frontends.commandline.check.trial import Item, Trial
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.describe import describe_item, describe_model
from snakemake_executor_gpupool.worker.loaded import for_files

#: Stands for a param that a job does not have.
ABSENT = object()
#: Params of ours, not of the tool.
NOT_VARIED = {"gpupool_tool"}


@dataclass(frozen=True)
class Variation:
    """Another value of a param, and where it comes from."""

    name: str
    value: Any
    origin: str


def param_probes(trial: Trial, needs: tuple[str, ...]) -> list[Probe]:
    """Return one probe for each param that does not choose the model, and for each --vary."""
    given = dict(trial.varied)
    names = [*trial.tool_class.defaults, *(name for job in trial.jobs for name in job.params)]
    names = [n for n in names if n not in {*trial.tool_class.reload_on, *NOT_VARIED}]
    return [_probe(trial, name, needs) for name in dict.fromkeys([*names, *given])]


def _probe(trial: Trial, name: str, needs: tuple[str, ...]) -> Probe:
    ask = functools.partial(_ask, name=name, variation=_variation(trial, name))
    return Probe(f"param:{name}", f"{name} changes results only if it is declared", ask, needs)


def _ask(trial: Trial, name: str, variation: Variation | None) -> Generator[str, None, str | None]:
    needs_items(trial)
    only_deterministic(trial)
    if variation is None:
        raise NotTested(f"no other value of {name} is known; give --vary {name}=VALUE")
    changes = {name: variation.value}
    items = _items_to_change(trial, variation)
    if not items:
        raise NotTested(f"no other value of {name} is known; give --vary {name}=VALUE")
    try:
        changed = trial.load(items[0].job, changes)
        results = trial.alone(changed, items, changes)
    except Exception as error:
        raise NotTested(
            f"the tool refuses {name}={shown(variation.value)} "
            f"({said(error, trial.tool_class)}); give --vary {name}=VALUE"
        ) from error
    head = f"{name}={shown(variation.value)} ({variation.origin})"
    if not trial.differing(results):
        return f"{head} changes no result"
    yield from _undeclared(trial, variation, items)
    yield from _kept_by_load(trial, variation, results)
    return f"{head} changes results, and is declared"


def _undeclared(trial: Trial, variation: Variation, items: list[Item]) -> Iterator[str]:
    name, job = variation.name, items[0].job

    def told_apart_by(tool: Tool) -> Any:
        return describe_model(tool), [describe_item(tool, i.value, i.place).key for i in items]

    changed = for_files(trial.tool_class, trial.load_params(job, {name: variation.value}))
    if told_apart_by(trial.reader(job)) == told_apart_by(changed):
        if name in trial.tool_class.write_params:
            place = "the param is in write_params, which are for read() and write() alone"
        else:
            place = f"the param is not in defaults: add it, defaults = {{..., {name!r}: ...}}"
        yield (
            f"{name}={shown(variation.value)} changes results, but {place}; until then items count "
            "as the same whatever its value"
        )


def _kept_by_load(trial: Trial, variation: Variation, fresh: Mapping[Item, Any]) -> Iterator[str]:
    name, value = variation.name, variation.value
    if name in trial.tool_class.reload_on:
        return
    for item, result in fresh.items():
        served = trial.call(trial.tool(item.job), [item], {name: value})[0]
        if not trial.same(served, result):
            yield (
                f"{item} gave {shown(result)} from a model loaded with {name}={shown(value)}, but "
                f"{shown(served)} from one loaded before; a param that load() uses belongs into "
                f"reload_on: reload_on = (..., {name!r})"
            )
            return


# -- other values --------------------------------------------------------------------
def _variation(trial: Trial, name: str) -> Variation | None:
    """Return another value of a param: given, another job's, the default, or a guess."""
    given = dict(trial.varied)
    if name in given:
        return Variation(name, given[name], "as given")
    values = [trial.run_params(job).get(name, ABSENT) for job in range(len(trial.jobs))]
    own = values[0]
    for value in values[1:]:
        if value is not ABSENT and value != own:
            return Variation(name, value, "another job's")
    default = trial.tool_class.defaults.get(name, own)
    if default != own:
        return Variation(name, default, "the default")
    guess = _guess(own)
    return None if guess is None else Variation(name, guess, "tried unasked")


def _guess(value: Any) -> Any:
    """Return a value near a number or truth value; None: none is safe to try."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 2 if value else 1.0
    return None


def _items_to_change(trial: Trial, variation: Variation) -> list[Item]:
    """Return the items of one model whose job has another value of the param."""
    items = [
        item
        for item in trial.sample
        if trial.run_params(item.job).get(variation.name, ABSENT) != variation.value
    ]
    return [item for item in items if trial.model(item.job) == trial.model(items[0].job)]
