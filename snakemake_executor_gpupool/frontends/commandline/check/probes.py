"""One question each. A probe yields what is wrong, in words for the author of the tool."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.compare import shown
from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.describe import describe_item, describe_model
from snakemake_executor_gpupool.worker.memory import release_memory

Probe = Callable[[Trial], Iterator[str]]

#: Packages that take seconds to import.
HEAVY = ("torch", "tensorflow", "jax", "transformers", "esm", "onnxruntime", "sklearn", "pandas")
#: Device memory that a move may leave behind, in MiB: allocators round up.
MOST_LEFT_MIB = 1.0


def imports(trial: Trial) -> Iterator[str]:
    """Importing the tool is quick."""
    code = (
        "import sys; from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class; "
        "load_tool_class(sys.argv[1]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, trial.spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    loaded = sorted(set(HEAVY) & set(done.stdout.split()))
    if loaded:
        yield (
            f"importing the tool imports {', '.join(loaded)}; import inside load() and run(), so "
            "that processes that only read and write files start in milliseconds"
        )
    _note_new_syntax(trial)


def _note_new_syntax(trial: Trial) -> None:
    source = Path(inspect.getfile(trial.tool_class)).read_text(encoding="utf-8")
    try:
        ast.parse(source, feature_version=(3, 9))
    except SyntaxError as error:
        trial.notes.append(
            f"line {error.lineno} needs a newer Python than 3.9, so the tool cannot run in "
            "a rule's environment with that one"
        )


def reading(trial: Trial) -> Iterator[str]:
    """read() gives the same items each time, and they travel."""
    tool = trial.tool_class(trial.job.params)
    for place, item in enumerate(trial.items):
        try:
            copy = pickle.loads(pickle.dumps(item))
        except Exception as error:
            yield f"{trial.name(place)} cannot be pickled, so it cannot reach a worker: {error}"
            return
        if describe_item(tool, copy, place)["key"] != trial.metas[place]["key"]:
            yield (
                f"{trial.name(place)} has another key after travelling to a worker; key() must "
                "depend on the item's content alone"
            )
            return
    again = list(trial.tool_class(trial.job.params).read(trial.job))
    if [content_hash(item) for item in again] != [content_hash(item) for item in trial.items]:
        yield "read() gives other items when it is called again"
    if not trial.items:
        trial.notes.append("the input holds no items, so little could be checked")


def repeating(trial: Trial) -> Iterator[str]:
    """The same item gives the same result."""
    first, second = trial.alone(trial.tool), trial.alone(trial.tool)
    differing = [place for place in trial.sample if not trial.same(first[place], second[place])]
    if differing and trial.tool_class.deterministic:
        place = differing[0]
        yield (
            f"{trial.name(place)} gave {shown(first[place])}, then {shown(second[place])}; a tool "
            "that draws random numbers says deterministic = False, or takes a seed from its params"
        )
    elif not differing and trial.sample and not trial.tool_class.deterministic:
        trial.notes.append(
            "it says deterministic = False but gave the same results twice; if it is "
            "deterministic, duplicates need not be computed again"
        )


def reloading(trial: Trial) -> Iterator[str]:
    """Loading again gives the same model."""
    if not trial.tool_class.deterministic:
        return
    first, second = trial.alone(trial.tool), trial.alone(trial.load({}))
    for place in trial.sample:
        if not trial.same(first[place], second[place]):
            yield (
                f"{trial.name(place)} gave {shown(first[place])}, and {shown(second[place])} after "
                "loading again; every load() with the same params must give the same model"
            )
            return


def company(trial: Trial) -> Iterator[str]:
    """One result per item, in order, whatever else is in the batch."""
    if not trial.tool_class.deterministic:
        _ = trial.results  # they cannot be compared, but are counted
        return
    alone = trial.alone(trial.tool)
    together = trial.run(trial.tool, trial.sample)
    backwards = trial.run(trial.tool, trial.sample[::-1])[::-1]
    for what, results in (("together with others", together), ("in reverse order", backwards)):
        for place, result in zip(trial.sample, results, strict=True):
            if trial.same(alone[place], result):
                continue
            owners = [p for p in trial.sample if p != place and trial.same(alone[p], result)]
            if owners:
                yield (
                    f"run() changes the order: {what}, {trial.name(place)} got the result of "
                    f"{trial.name(owners[0])}; results must come in the order of the items"
                )
            else:
                yield (
                    f"{trial.name(place)} gave {shown(alone[place])} alone and {shown(result)} "
                    f"{what}; a result must not depend on the rest of its batch (is padding "
                    "masked, is the model in eval mode?)"
                )
            return


def keys(trial: Trial) -> Iterator[str]:
    """Items with one key have one result."""
    if not trial.tool_class.deterministic:
        return
    by_key: dict[str, dict[str, int]] = {}
    for place, item in enumerate(trial.items):
        by_key.setdefault(trial.metas[place]["key"], {}).setdefault(content_hash(item), place)
    for places in by_key.values():
        for one, other in combinations(list(places.values())[:3], 2):
            results = [trial.run(trial.tool, [place])[0] for place in (one, other)]
            if not trial.same(*results):
                yield (
                    f"key() is the same for {trial.name(one)} and {trial.name(other)}, but their "
                    f"results differ: {shown(results[0])} and {shown(results[1])}"
                )
                return


def params(trial: Trial) -> Iterator[str]:
    """A param that changes results tells models or items apart."""
    if not trial.tool_class.deterministic:
        return
    base = trial.alone(trial.tool)
    for name, value in trial.varied:
        changed = trial.load({name: value})
        results = trial.alone(changed)
        if all(trial.same(base[place], results[place]) for place in trial.sample):
            continue
        yield from _unseen(trial, name, value, changed)
        yield from _unloaded(trial, name, value, results)


def _unseen(trial: Trial, name: str, value: Any, changed: Tool) -> Iterator[str]:
    def told_apart_by(tool: Tool) -> Any:
        keys = [describe_item(tool, trial.items[p], p)["key"] for p in trial.sample]
        return describe_model(tool), keys

    if told_apart_by(trial.tool_class(trial.job.params)) == told_apart_by(changed):
        place = "is in write_params" if name in changed.write_params else "is not in defaults"
        yield (
            f"{name}={shown(value)} changes results, but the param {place}, so items count as "
            "duplicates whatever its value"
        )


def _unloaded(trial: Trial, name: str, value: Any, fresh: dict[int, Any]) -> Iterator[str]:
    if name in trial.tool_class.reload_on:
        return
    kept = trial.tool.params
    trial.tool.params = trial.with_params({name: value})
    try:
        served = trial.alone(trial.tool)
    finally:
        trial.tool.params = kept
    for place in trial.sample:
        if not trial.same(served[place], fresh[place]):
            yield (
                f"{trial.name(place)} gave {shown(fresh[place])} from a model loaded with "
                f"{name}={shown(value)}, but {shown(served[place])} from one loaded before; a "
                "param that load() uses belongs into reload_on"
            )
            return


def moving(trial: Trial) -> Iterator[str]:
    """to() takes the model along, all of it."""
    move = getattr(trial.tool, "to", None)
    if not callable(move) or not trial.tool_class.deterministic:
        return
    before = trial.alone(trial.tool)
    held_mib = device_memory_mib()
    move("cpu")
    trial.tool.device = "cpu"
    release_memory()
    left_mib = device_memory_mib()
    if held_mib and left_mib > MOST_LEFT_MIB:
        yield f"to('cpu') leaves {left_mib:.0f} of {held_mib:.0f} MiB on {trial.device}"
    move(trial.device)
    trial.tool.device = trial.device
    after = trial.alone(trial.tool)
    for place in trial.sample:
        if not trial.same(before[place], after[place]):
            yield (
                f"{trial.name(place)} gave {shown(before[place])}, and {shown(after[place])} after "
                "to() to the host and back"
            )
            return


def device_memory_mib() -> float:
    """Return how much device memory this process's tensors hold, in MiB."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_available():
        return 0.0
    return float(sum(cuda.memory_allocated(i) for i in range(cuda.device_count()))) / 2**20


def results(trial: Trial) -> Iterator[str]:
    """Results travel."""
    for place, result in enumerate(trial.results):
        if on_device(result):
            yield (
                f"the result of {trial.name(place)} is a tensor on {trial.device}; results must be "
                "on the CPU: .cpu()"
            )
            return
        try:
            copy = pickle.loads(pickle.dumps(result))
        except Exception as error:
            yield f"the result of {trial.name(place)} cannot be pickled: {error}"
            return
        if not trial.same(copy, result):
            yield f"the result of {trial.name(place)} is another one after travelling"
            return


def on_device(value: Any) -> bool:
    """Tell whether a result is, or holds, a tensor outside host memory."""
    if isinstance(value, dict):
        return any(on_device(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return any(on_device(part) for part in value)
    return bool(getattr(value, "is_cuda", False))
