"""What it takes to do a served job again, beside what is recorded of it anyway."""

from __future__ import annotations

import json
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.needs import CARD_RESOURCES, DEVICE_RESOURCES
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.requests import ToolRef, params_text

#: Resources that say where a job runs, not what it computes.
_OF_PLACE = ("tmpdir", "runtime", *DEVICE_RESOURCES, *CARD_RESOURCES)
MAX_RECIPE = 4000


def recipe_of(job: Job, tool: ToolRef, snakemake_job: Any, **flags: Any) -> str:
    """Return the recipe of a job as JSON; it says so if the job cannot be done again.

    Parameters
    ----------
    job
        As its tool gets it.
    flags
        ``touched``, the numbers of outputs that nobody writes; ``updates``, outputs whose old
        content counts.
    """
    recipe: dict[str, Any] = {
        "input_names": job.input._names,
        "output_names": job.output._names,
        "touched": flags["touched"],
        "resources": {
            name: value
            for name, value in job.resources.items()
            if isinstance(value, (str, int, float)) and not _is_of_place(name)
        },
        "python": tool.python if tool.environment and tool.container is None else "",
        "why_not": _why_not(job, snakemake_job, flags["updates"]),
    }
    text = json.dumps({name: value for name, value in recipe.items() if value})
    if len(text) > MAX_RECIPE:
        text = json.dumps({"why_not": "its names of files are too many to be recorded"})
    return text


def _is_of_place(name: str) -> bool:
    return name.startswith(("_", "gpupool")) or name in _OF_PLACE


def _why_not(job: Job, snakemake_job: Any, updates: Any) -> str:
    if updates:
        return "it updates outputs, and what they held before is gone"
    if snakemake_job.shadow_dir:
        return "it ran in a shadow directory, which is gone"
    is_recorded = not job.params or bool(params_text(job.params))
    if not is_recorded or not _is_of_json(dict(job.params)):
        return "it has params that JSON cannot hold, or very long ones, which were not recorded"
    return ""


def _is_of_json(value: Any) -> bool:
    """Return whether a value comes back from JSON as it is.

    What merely equals that does not count: a member of an enumeration, or a kind of dict. Arrays
    and tables are not even asked, as there is no one answer to whether they are equal.
    """
    kind = type(value)
    if kind is list:
        return all(map(_is_of_json, value))
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_of_json, value.values()))
    return kind in (str, int, float, bool, type(None))
