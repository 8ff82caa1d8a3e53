"""Probes of load() and run(): one result per item, the same one whenever and wherever."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.compare import is_finite, shown
from snakemake_executor_gpupool.frontends.commandline.check.finding import NotTested
from snakemake_executor_gpupool.frontends.commandline.check.fresh import FreshFailure, packed
from snakemake_executor_gpupool.frontends.commandline.check.trial import Item, Trial
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.contract import items_of
from snakemake_executor_gpupool.tool_api.memory import release_memory
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.payload import load_bytes

#: Device memory that a move may leave behind, in MiB: allocators round up.
MAX_LEFT_MIB = 1.0
#: What a tool may do whose results vary.
VARIES = (
    "a tool that draws random numbers says deterministic = False, or draws them from a seed in its "
    "params, anew for each item"
)
NOT_DETERMINISTIC = "the tool says deterministic = False, so its results cannot be compared"


#: How a device says that this process already has all there is of it.
NO_ROOM = re.compile("out of memory|busy or unavailable", re.IGNORECASE)
ON_SELF = "keep a model on self, not in a global or on the class"


def only_deterministic(trial: Trial) -> None:
    """Raise :class:`NotTested` for a tool whose results may differ each time."""
    if not trial.tool_class.deterministic:
        raise NotTested(NOT_DETERMINISTIC)


def needs_items(trial: Trial) -> None:
    """Raise :class:`NotTested` if there is nothing to compute."""
    if not trial.sample:
        raise NotTested("the input holds no items; give another --input")


def computing(trial: Trial) -> Iterator[str]:
    """Load, and compute each item by itself."""
    needs_items(trial)
    kinds = [device.partition(":")[0] for device in trial.tool_class.devices]
    if trial.device.partition(":")[0] not in kinds:
        trial.remark(
            f"the tool says devices = {tuple(kinds)} and was tried on {trial.device}; --device "
            "names another one"
        )
    _ = trial.base
    bad = next((item for item, result in trial.base.items() if not is_finite(result)), None)
    if bad:
        trial.warnings.append(
            f"the result of {bad} holds NaN or infinite numbers: {shown(trial.base[bad])}"
        )
    yield from ()


# -- the same again ------------------------------------------------------------------
def repeating(trial: Trial) -> Iterator[str]:
    """Compute each item again."""
    needs_items(trial)
    again = trial.twice[1]
    item = trial.differing(again)
    if not trial.tool_class.deterministic:
        if item is None:
            trial.remark(
                "it says deterministic = False but gave the same results twice; if it is "
                "deterministic, duplicates need not be computed again"
            )
        raise NotTested(NOT_DETERMINISTIC)
    if item is None:
        return
    gave = f"{item} gave {shown(trial.base[item])}, then {shown(again[item])}"
    if _is_reproduced(trial):
        yield (
            f"{gave}, and so it does in another process: run() keeps state from call to call (a "
            "counter, a cache, random numbers that go on, a model in train mode); a result must "
            "depend on its item alone"
        )
    else:
        yield f"{gave}; {VARIES}"


def _is_reproduced(trial: Trial) -> bool:
    """Tell whether a fresh process gives the results that the first calls here gave."""
    try:
        first = trial.sample_of(trial.models[0])
        return trial.differing(run_elsewhere(trial, first)) is None
    except FreshFailure:
        return False


def run_elsewhere(
    trial: Trial, items: list[Item], changes: Mapping[str, Any] | None = None
) -> dict[Item, Any]:
    """Compute items alone, in that order, in a process of its own, with some params changed."""
    calls = [
        (
            trial.model(item.job),
            trial.load_params(item.job, changes),
            trial.run_params(item.job, changes),
            [item.value],
        )
        for item in items
    ]
    try:
        answers = trial.fresh.run(trial.device, calls)
    except FreshFailure as failure:
        if trial.device != "cpu" and NO_ROOM.search(str(failure)):
            raise NotTested(
                f"{trial.device} does not take a second process ({failure}); check on the cpu, too"
            ) from failure
        raise
    for item, results in zip(items, answers, strict=True):
        if len(results) != 1:
            raise FreshFailure(f"run() returned {len(results)} results for {item}")
    return {item: results[0] for item, results in zip(items, answers, strict=True)}


def loading_again(trial: Trial) -> Iterator[str]:
    """Load a second instance, here; as cold, it has read its input before."""
    needs_items(trial)
    only_deterministic(trial)
    model = trial.models[0]
    items = trial.sample_of(model)
    other = trial.load(items[0].job)
    item = trial.differing(trial.alone(other, items))
    if item:
        yield (
            f"{item} gave another result after loading again: {shown(trial.base[item])}, then "
            f"{shown(trial.call(other, [item])[0])}; every load() with the same params must give "
            "the same model"
        )


def running_cold(trial: Trial) -> Iterator[str]:
    """Do it as gpupool run does: read, load and compute in one process."""
    needs_items(trial)
    only_deterministic(trial)
    job = trial.sample[0].job
    list(items_of(trial.reader(job), trial.jobs[job]))
    tool = trial.load(job)
    items = [item for item in trial.sample if item.job == job]
    results = trial.alone(tool, items)
    item = trial.differing(results)
    if item:
        yield (
            f"{item} gave {shown(trial.base[item])} before, and {shown(results[item])} from a "
            "model that was loaded once the input had been read again, as when it runs cold; "
            "what read() finds must be in the items"
        )


def running_elsewhere(trial: Trial) -> Iterator[str]:
    """Compute in a process of its own, in another order."""
    needs_items(trial)
    backwards = trial.sample_of(trial.models[0])[::-1]
    try:
        results = run_elsewhere(trial, backwards)
    except FreshFailure as failure:
        yield (
            f"load() and run() work here, but not in a process that has read no input: {failure}"
        )
        return
    only_deterministic(trial)
    item = trial.differing(results)
    if item is None:
        return
    gave = f"{item} gave {shown(trial.base[item])} here and {shown(results[item])}"
    if len(backwards) > 1 and _is_reproduced(trial):
        yield (
            f"{gave} when other items had been computed before it; run() keeps state from call to "
            "call (a cache under too short a key, a running mean); a result must depend on its "
            "item alone"
        )
    else:
        yield (
            f"{gave} in another process; a result must not depend on the process (hash(), id(), "
            "what read() or another job has left in a global, unseeded weights)"
        )


def models_side_by_side(trial: Trial) -> Iterator[str]:
    """Compute with a model again after another one was loaded beside it."""
    needs_items(trial)
    only_deterministic(trial)
    reload_on = set(trial.tool_class.reload_on)
    others = [{name: value} for name, value in trial.varied if name in reload_on]
    if len(trial.models) == 1 and not others:
        raise NotTested(
            "all jobs use one model; give --vary "
            f"{next(iter(trial.tool_class.reload_on), 'PARAM')}=ANOTHER, or jobs of another model"
        )
    alone = [(trial.sample_of(model), trial.base) for model in trial.models[1:]]
    first = trial.sample_of(trial.models[0])
    for changes in others:
        changed = trial.load(first[0].job, changes)
        yield from _not_as_alone(trial, first, trial.alone(changed, first, changes), changes)
    for items, results in alone:
        yield from _not_as_alone(trial, items, results, {})
    results = trial.alone(trial.tool_of(trial.models[0]), first)
    item = trial.differing(results)
    if item:
        yield (
            f"{item} gave {shown(trial.base[item])}, and {shown(results[item])} once another model "
            f"was loaded in the same process; {ON_SELF}"
        )


def _not_as_alone(
    trial: Trial, items: list[Item], here: Mapping[Item, Any], changes: Mapping[str, Any]
) -> Iterator[str]:
    """Compare a model that was loaded beside another one with itself in a process of its own."""
    try:
        there = run_elsewhere(trial, items, changes)
    except FreshFailure as failure:
        yield f"another model works here, but not in a process of its own: {failure}"
        return
    for item in items:
        if not trial.same(here[item], there[item]):
            yield (
                f"{item} gave {shown(here[item])} from a model that was loaded beside another one, "
                f"and {shown(there[item])} in a process of its own; {ON_SELF}"
            )
            return


# -- duplicates ----------------------------------------------------------------------
def keys(trial: Trial) -> Iterator[str]:
    """Compare results of items that count as duplicates of one another."""
    needs_items(trial)
    only_deterministic(trial)
    by_key: dict[Any, dict[str, Item]] = {}
    for item in trial.items:
        if trial.model(item.job) in trial.models:
            same_key = by_key.setdefault((trial.batchmates(item.job), item.meta.key), {})
            same_key.setdefault(content_hash(item.value), item)
    shared = [list(items.values())[:3] for items in by_key.values() if len(items) > 1]
    if not shared:
        if type(trial.reader(0)).key is Tool.key:
            return  # by content, so that no two different items can share one
        raise NotTested("no two different items have the same key; give an --input with some")
    for items in shared:
        for one, other in combinations(items, 2):
            results = [trial.call(trial.tool(item.job), [item])[0] for item in (one, other)]
            if not trial.same(*results):
                yield (
                    f"key() is the same for {one} and {other}, but their results differ: "
                    f"{shown(results[0])} and {shown(results[1])}"
                )
                return


# -- what run() leaves behind --------------------------------------------------------
def items_kept(trial: Trial) -> Iterator[str]:
    """Look whether run() has changed its items, which are computed again if a worker dies."""
    needs_items(trial)
    for item in trial.sample:
        value = load_bytes(item.data)
        trial.call_here(trial.tool(item.job), [item], [value])
        if content_hash(value) != content_hash(load_bytes(item.data)):
            yield (
                f"run() changes {item}; a batch that fails is computed again from the same items, "
                "so work on a copy"
            )
            return


def results_kept(trial: Trial) -> Iterator[str]:
    """Look whether a later call changes the results of an earlier one."""
    needs_items(trial)
    pairs = [
        (one, other)
        for one, other in zip(trial.sample, trial.sample[1:], strict=False)
        if trial.model(one.job) == trial.model(other.job)
    ]
    if not pairs:
        raise NotTested("one item; give another --input, or one with more items")
    for one, other in pairs:
        tool = trial.tool(one.job)
        result = trial.call_here(tool, [one], [load_bytes(one.data)])[0]
        before = load_bytes(packed(result))
        trial.call(tool, [other])
        if not trial.same(before, result):
            yield (
                f"the result of {one} was {shown(before)}, and {shown(result)} once {other} was "
                "computed; a result must not share memory with what run() uses again: .copy()"
            )
            return


def results_travel(trial: Trial) -> Iterator[str]:
    """Send results as they leave a worker."""
    needs_items(trial)
    for item in trial.sample:
        result = trial.call_here(trial.tool(item.job), [item], [load_bytes(item.data)])[0]
        if on_device(result):
            yield (
                f"the result of {item} is a tensor on {trial.device}; results must be on the CPU: "
                ".cpu()"
            )
            return
        try:
            copy = load_bytes(packed(result))
        except Exception as error:
            yield f"the result of {item} cannot be pickled, so it cannot leave a worker: {error}"
            return
        if not trial.same(copy, result):
            yield f"the result of {item} is another one after travelling"
            return


def on_device(value: Any) -> bool:
    """Tell whether a result is, or holds, a tensor outside host memory."""
    if isinstance(value, Mapping):
        return any(map(on_device, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(on_device, value))
    return bool(getattr(value, "is_cuda", False))


# -- moving --------------------------------------------------------------------------
def moving(trial: Trial) -> Iterator[str]:
    """Move the model to the host and back."""
    needs_items(trial)
    tool = trial.tool_of(trial.models[0])
    if not callable(getattr(tool, "to", None)):
        raise NotTested("the tool has no to(), so a model that gives way is loaded again")
    items = trial.sample_of(trial.models[0])
    held_mib = device_memory_mib()
    trial.move(tool, "cpu")
    release_memory()
    left_mib = device_memory_mib()
    if held_mib and left_mib > MAX_LEFT_MIB:
        yield f"to('cpu') leaves {left_mib:.0f} of {held_mib:.0f} MiB on {trial.device}"
    trial.move(tool, trial.device)
    results = trial.alone(tool, items)
    only_deterministic(trial)
    item = trial.differing(results)
    if item:
        yield (
            f"{item} gave {shown(trial.base[item])}, and {shown(results[item])} after to() to the "
            "host and back"
        )


def device_memory_mib() -> float:
    """Return how much device memory this process's tensors hold, in MiB."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_available():
        return 0.0
    return float(sum(cuda.memory_allocated(i) for i in range(cuda.device_count()))) / 2**20
