"""One job, cold: what a rule's own body does under any executor.

The same tool code as in the pool, in one process: load, read, run in
micro-batches, write under temporary names, rename. Standard library only.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.tool_api.class_checks import refuse_missing, remarks_on
from snakemake_executor_gpupool.tool_api.contract import all_items, checked_run
from snakemake_executor_gpupool.tool_api.known_params import likely_misspelt
from snakemake_executor_gpupool.tool_api.memory import is_out_of_memory, release_memory
from snakemake_executor_gpupool.tool_api.micro_batches import halves
from snakemake_executor_gpupool.tool_api.reproducible import mode_here, refuse_unable
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import check_state
from snakemake_executor_gpupool.tool_api.values import Job, Named, Params
from snakemake_executor_gpupool.worker import numerics
from snakemake_executor_gpupool.worker.describe import item_name
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files
from snakemake_executor_gpupool.worker.output_capture import job_log
from snakemake_executor_gpupool.worker.outputs import (
    Content,
    files_that_are_there,
    staged_outputs,
    what_is_there,
)
from snakemake_executor_gpupool.worker.same_bits import SameBits
from snakemake_executor_gpupool.worker.written import Expected


def run_script(tool_class: type[Tool], snakemake: Any) -> None:
    """Do the job of a Snakemake ``script:``, on the device that ``GPUPOOL_DEVICE`` names if any."""
    if mode_here().is_reproducible and numerics.prepare():
        numerics.start_again()
    device = os.environ.get("GPUPOOL_DEVICE")
    job = job_from_snakemake(snakemake)
    run_cold(tool_class, job, device, content=what_is_there, is_script=True)


def job_from_snakemake(snakemake: Any) -> Job:
    """Turn the ``snakemake`` object of a script into a :class:`Job`."""
    return Job(
        rule=snakemake.rule,
        wildcards=dict(snakemake.wildcards.items()),
        input=named_from_namedlist(snakemake.input),
        output=named_from_namedlist(snakemake.output),
        params={k: v for k, v in snakemake.params.items() if k != "gpupool_tool"},
        log=named_from_namedlist(snakemake.log),
        threads=snakemake.threads,
        resources={k: v for k, v in snakemake.resources.items() if not k.startswith("_")},
    )


def named_from_namedlist(files: Any) -> Named:
    """Copy a Snakemake ``Namedlist`` of paths, names kept, into plain strings."""
    names = {}
    for name, (start, stop) in files._names.items():
        names[name] = start if stop is None else (start, stop)
    return Named([str(file) for file in files], names)


def run_cold(
    tool_class: type[Tool],
    job: Job,
    device: str | None = None,
    content: Content = files_that_are_there,
    *,
    is_script: bool = False,
) -> None:
    """Do one job with one tool in this process; what it prints goes to the job's first log file.

    Parameters
    ----------
    tool_class
        The tool.
    job
        The job; its outputs appear under their names only when complete.
    device
        ``"cpu"``, ``"cuda:0"``, ...; None: the first of the tool's ``devices``
        that this machine has.
    content
        Returns an output's content before it is written.
    is_script
        Whether it is a script's job. A script is not told which outputs are ``touch()``, so
        missing ones are allowed; misspelt params give a warning.

    Raises
    ------
    InputError
        The input or a param is wrong.
    """
    with job_log(job):
        if is_script:
            kind: Any = tool_class
            for text in (*remarks_on(kind), *likely_misspelt(kind, job.params)):
                print(f"gpupool: warning: {text}", file=sys.stderr)
        expected = Expected(tool_class.__name__, is_certain=not is_script)
        _run(tool_class, job, device, content, expected)


def _run(
    tool_class: type[Tool], job: Job, device: str | None, content: Content, expected: Expected
) -> None:
    check_state(tool_class)
    if mode_here().is_reproducible:
        refuse_unable(tool_class)
    refuse_missing(tool_class, ("read", "write"))
    reader = for_files(tool_class, job.params)
    with explained_inputs(job, pipes=True):
        items = all_items(reader, job)
    names = [item_name(reader, item, position) for position, item in enumerate(items)]
    results = compute(reader, job.params, items, device)
    writer = for_files(tool_class, job.params)
    with staged_outputs(job.output, content, expected) as staged:
        writer.write(
            job.replace(output=staged, item_names=names, params=Params(writer.params)), results
        )


def compute(
    reader: Tool, params: Mapping[str, Any], items: Sequence[Any], device: str | None = None
) -> list[Any]:
    """Load a model in this process and return one result per item, in order.

    Parameters
    ----------
    reader
        The tool's object for files, which knows the tokens of items.
    params
        What it was made with; the object that holds the model is another one.
    """
    results: list[Any] = [None] * len(items)
    if items:
        device = device or pick_device(reader)
        loaded = LoadedTool(type(reader), params, serves_many=False)
        loaded.load(device)
        tool = loaded.show(params)
        if loaded.same_bits is not None:
            return reproducible_results(tool, loaded.same_bits, items)
        for batch in reader.micro_batches(items, tool.batch_tokens(device)):
            for index, result in zip(batch, run_halving(tool, [items[i] for i in batch])):
                results[index] = result
    return results


def reproducible_results(tool: Tool, same_bits: SameBits, items: Sequence[Any]) -> list[Any]:
    """Compute one result per item, as workers of a reproducible run do; raises the first error."""
    same_bits.test(tool, items)
    groups, errors = same_bits.groups(tool, items)
    for place in sorted(errors):
        raise errors[place]
    results: dict[int, Any] = {}
    for places, shape in groups:
        some = [items[place] for place in places]
        results.update(zip(places, same_bits.run(tool, some, shape)))
    return [results[place] for place in range(len(items))]


def run_halving(tool: Tool, items: Sequence[Any]) -> list[Any]:
    """Compute one result per item; a batch that does not fit into memory is halved."""
    try:
        return checked_run(tool, list(items))
    except Exception as error:
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    # Outside the handler: the traceback would keep the failed call's arrays alive.
    release_memory()
    first, second = halves(items)
    return run_halving(tool, first) + run_halving(tool, second)


def pick_device(tool: Tool) -> str:
    """Return the first of the tool's devices that this machine has."""
    for kind in tool.devices:
        if kind == "cpu":
            return "cpu"
        if kind == "cuda" and _cuda_available():
            return "cuda:0"
    raise RuntimeError(
        f"{type(tool).__name__} runs on {', '.join(tool.devices)}; this machine has none of these"
    )


def _cuda_available() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        # Importing torch takes seconds, and would give the same answer.
        return False
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
