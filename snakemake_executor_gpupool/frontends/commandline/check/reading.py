"""Probes of a tool's module, of read() and of the items."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.frontends.commandline.check.finding import NotTested
from snakemake_executor_gpupool.frontends.commandline.check.fresh import FreshFailure, packed
from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial, content_of
from snakemake_executor_gpupool.tool_api.class_checks import (
    remarks_on,
    why_unusable,
)
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.contract import items_of
from snakemake_executor_gpupool.tool_api.methods import missing_method
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import check_state
from snakemake_executor_gpupool.wire.payload import load_bytes
from snakemake_executor_gpupool.worker.describe import describe_item, tool_info
from snakemake_executor_gpupool.worker.named_files import ITEM, contents_of

#: Packages that take seconds to import.
HEAVY = ("torch", "tensorflow", "jax", "transformers", "esm", "onnxruntime", "sklearn", "pandas")


def well_formed(trial: Trial) -> Iterator[str]:
    """Look at the class alone: its attributes, its methods and their arguments."""
    kind: Any = trial.tool_class
    problem = why_unusable(kind) or missing_method(kind, Tool)
    if problem:
        yield problem
    for remark in remarks_on(kind):
        trial.remark(remark)


def keeping_state(trial: Trial) -> Iterator[str]:
    """Look in the source for what one method sets and another one, on another object, uses."""
    try:
        check_state(trial.tool_class)
    except UnknownTool as error:
        yield str(error)


def importing(trial: Trial) -> Iterator[str]:
    """Ask whether a process that only reads and writes files starts quickly."""
    tool_info(trial.tool_class)
    code = (
        "import sys; sys.path[:] = sys.argv[2:]; "
        "from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class; "
        "load_tool_class(sys.argv[1]); print(); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, trial.spec, *trial.search_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    loaded = sorted(set(HEAVY) & set(done.stdout.rpartition("\n\n")[2].split()))
    if done.returncode:
        yield f"a process of its own cannot import the tool: {done.stderr.strip()[-300:]}"
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
        trial.remark(
            f"line {error.lineno} needs a newer Python than 3.9, so the tool cannot run in "
            "a rule's environment with that one"
        )


def reading(trial: Trial) -> Iterator[str]:
    """Ask read() twice."""
    for number, job in enumerate(trial.jobs):
        first = trial.items_of(number)
        tool = trial.reader(number)
        again = [
            (content_of(value), describe_item(tool, value, place).key)
            for place, value in enumerate(items_of(trial.reader(number), job))
        ]
        if [content for content, _ in again] != [content_of(item.value) for item in first]:
            yield f"read() gives other items of {trial.titles[number]} when it is called again"
            return
        for item, (_, key) in zip(first, again, strict=True):
            if item.meta.key != key:
                yield (
                    f"{item} has another key when it is read again; key() must depend on the "
                    "item's content alone"
                )
                return
    _warn_of_paths(trial)
    if not trial.items:
        raise NotTested("the input holds no items; give another --input")


def reading_elsewhere(trial: Trial) -> Iterator[str]:
    """Ask read() in a process of its own."""
    if not trial.items:
        raise NotTested("the input holds no items; give another --input")
    try:
        there = trial.fresh.read(trial.jobs)
    except FreshFailure as failure:
        yield f"read() works here, but not in a process of its own: {failure}"
        return
    for number, answers in enumerate(there):
        items = trial.items_of(number)
        if [content for content, _ in answers] != [content_hash(item.value) for item in items]:
            yield (
                f"read() gives other items of {trial.titles[number]}, or another order, in another "
                "process (a set has no order; hash(), id() and the time differ)"
            )
            return
        for item, (_, key) in zip(items, answers, strict=True):
            if item.meta.key != key:
                yield (
                    f"{item} has another key in another process (hash() and id() differ there), so "
                    "it is never found again; key() must depend on the item's content alone"
                )
                return


def items_travel(trial: Trial) -> Iterator[str]:
    """Send items as they reach a worker."""
    if not trial.items:
        raise NotTested("the input holds no items; give another --input")
    for item in trial.items:
        try:
            copy = load_bytes(packed(item.value))
        except Exception as error:
            yield f"{item} cannot be pickled, so it cannot reach a worker: {error}"
            return
        if content_hash(copy) != content_hash(item.value):
            yield f"{item} is another one after travelling to a worker"
            return
        if describe_item(trial.reader(item.job), copy, item.place).key != item.meta.key:
            yield (
                f"{item} has another key after travelling to a worker; key() must depend on the "
                "item's content alone"
            )
            return


# -- items that are paths ------------------------------------------------------------
def _warn_of_paths(trial: Trial) -> None:
    for item in trial.items:
        paths = [path for path, _ in contents_of(item.value, ITEM)]
        if not paths:
            continue
        what = "what is in that file, which must not change while a job runs"
        if type(trial.reader(item.job)).key is not Tool.key:
            what = (
                "its key() alone: unless that is made of what is in the file, or is its path, a "
                "changed file counts as the same item"
            )
        trial.warnings.append(f"{item} holds the path {paths[0]}; it counts by {what}")
        return
