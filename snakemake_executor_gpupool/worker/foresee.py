"""What a job will ask of its model, without a model: for ``gpupool plan``, and ahead of jobs.

::

    coordinator → worker                              worker → coordinator
    foresee {job, cwd, device, reads, most, store,     foreseen {job, model, model_label, group,
             space} [job]                                      short_tokens, batch_tokens, keys,
                                                                costs, tokens, kept, count, whole}
                                                       | unforeseen {job, error}

Without a ``device`` only the model is asked for. ``reads``: read the job's inputs, which are
there. Of its items up to ``most`` are described, and
the others counted for a while; ``whole`` says whether all were. ``kept`` is how many of those
described have a result in the ``store`` of results kept across runs.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.class_checks import refuse_missing
from snakemake_executor_gpupool.tool_api.contract import items_of
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.payload import load_payload
from snakemake_executor_gpupool.worker.describe import batch_budget, describe_item, describe_model
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.output_capture import tell_error

#: Characters of keys that one answer may have.
MAX_KEYS_TEXT = 4_000_000
#: How long items beyond those that are described are counted, in seconds.
COUNTING_S = 2.0


def foresee(
    frame: Frame,
    tool_of: Callable[[Job], Tool],
    is_kept: Callable[[Tool, dict[str, Any], str], bool],
) -> dict[str, Any]:
    """Return the answer to one frame.

    Parameters
    ----------
    tool_of
        Makes the tool's object for a job's files.
    is_kept
        Tells whether an item's result was kept by an earlier run.
    """
    job: Job = load_payload(frame.blobs[0])
    try:
        os.chdir(frame.meta["cwd"])
        tool = tool_of(job)
        answer: dict[str, Any] = {"type": "foreseen", "job": frame.meta["job"]}
        answer.update(describe_model(tool, job.output))
        answer["batch_tokens"] = _budget(tool, frame.meta["device"])
        answer.update(_items(tool, job, frame, answer, is_kept))
    except Exception as error:
        return {"type": "unforeseen", "job": frame.meta["job"], "error": tell_error(error)}
    return answer


def _budget(tool: Tool, device: str) -> int | None:
    """Return the token budget of a micro-batch; None: only a loaded model knows it."""
    with contextlib.suppress(Exception):
        return batch_budget(tool, device) if device else None
    return None


def _items(
    tool: Tool,
    job: Job,
    frame: Frame,
    head: dict[str, Any],
    is_kept: Callable[[Tool, dict[str, Any], str], bool],
) -> dict[str, Any]:
    keys: list[str] = []
    costs: list[float] = []
    tokens: list[int] = []
    kept = count = characters = 0
    is_whole = True
    if frame.meta["reads"]:
        refuse_missing(type(tool))
        late_s = None
        with explained_inputs(job):
            for position, item in enumerate(items_of(tool, job)):
                count += 1
                if len(keys) < frame.meta["most"] and characters < MAX_KEYS_TEXT:
                    each = describe_item(tool, item, position)
                    kept += is_kept(tool, head, each.key)
                    keys.append(each.key)
                    costs.append(each.cost)
                    tokens.append(each.tokens)
                    characters += len(each.key)
                    continue
                late_s = late_s or time.monotonic() + COUNTING_S
                if time.monotonic() > late_s:
                    is_whole = False
                    break
    columns = {"keys": keys, "costs": costs, "tokens": tokens}
    return {**columns, "kept": kept, "count": count, "whole": is_whole}
