"""Lines for the event log that say of a job or a process what nothing is decided by. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from snakemake_executor_gpupool.scheduling.effects import Fact, Outbox
from snakemake_executor_gpupool.scheduling.job_state import JobState
from snakemake_executor_gpupool.wire.messages import ItemsRead, OutputPrinted
from snakemake_executor_gpupool.wire.requests import Request, ToolRef


def note_submitted(outbox: Outbox, request: Request) -> None:
    """A served job, or a call, is ready."""
    is_retry = request.attempt > 1 and request.identity  # a call has none
    more: dict[str, object] = {"attempt": request.attempt} if is_retry else {}
    if request.timeout_s is not None:
        more["limit_s"] = request.timeout_s
    outbox.note(
        "job_submitted",
        job=request.title,
        job_id=request.job_id,
        tool=str(request.tool),
        **more,
        **request.facts.fields(),
    )


def note_read(outbox: Outbox, job: JobState, model_name: str) -> None:
    """All items of a job are known."""
    counts = {"duplicates": job.duplicates, "reused": job.reused}
    outbox.note(
        "job_read",
        job_id=job.request.job_id,
        items=job.item_count,
        missing=job.missing,
        **{name: count for name, count in counts.items() if count},
        model=model_name,
    )


def note_imported(
    outbox: Outbox, worker_id: str, seconds: float, versions: Mapping[str, str]
) -> None:
    """A process has imported its tool."""
    outbox.note(
        "tool_imported", worker=worker_id, seconds=round(seconds, 3), versions=dict(versions)
    )


def note_printed(outbox: Outbox, worker_id: str, message: OutputPrinted) -> None:
    """A tool has printed something."""
    number = {"run": "batch", "read": "job_id", "write": "job_id"}.get(message.doing)
    about = {number: message.about} if number is not None else {}
    place = {"start": message.start, "end": message.end}
    outbox.note("printed", worker=worker_id, doing=message.doing, **about, **place)


def note_models(outbox: Outbox, tool: ToolRef, message: ItemsRead) -> None:
    """A process has said what models were made of."""
    for model in (message.model, *(following.model for following in message.following)):
        if model.origin:
            names = {"model": model.model, "label": model.label, "software": tool.software}
            outbox.put(Fact("model", {**names, **model.origin}))
