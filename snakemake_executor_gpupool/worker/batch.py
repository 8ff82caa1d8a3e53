"""Run a micro-batch so that one bad item costs its batch-mates nothing.

If ``run`` raises for several items, the batch is halved until the guilty ones
stand alone; the others get their results. Out of memory is treated separately:
halving is then the cure, and the size that fitted is reported to the coordinator.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from snakemake_executor_gpupool.errors import CONTRACT, ContractError, UndeclaredParam
from snakemake_executor_gpupool.tool_api.contract import checked_run
from snakemake_executor_gpupool.tool_api.memory import is_out_of_memory, release_memory
from snakemake_executor_gpupool.tool_api.micro_batches import halves
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import shortened
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile
from snakemake_executor_gpupool.wire.payload import load_payloads
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.channel import latency_of
from snakemake_executor_gpupool.worker.late_files import wait_for_blobs
from snakemake_executor_gpupool.worker.output_capture import tell_error
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.same_bits import SameBits
from snakemake_executor_gpupool.worker.travel import Unreadable, packed_result, unpacked_items

#: Bytes that the errors of one batch may take in its frame; further ones have no traceback.
ERRORS_BYTES = 4 * 1024**2
#: Characters of the message of such an error.
SHORT_MESSAGE = 200


class Outcome(NamedTuple):
    """The result or error of one item."""

    result: Any
    error: dict[str, Any] | None = None
    #: The item's batch was halved because memory ran out.
    out_of_memory: bool = False


def run_batch(tool: Tool, items: Sequence[Any], same_bits: SameBits | None = None) -> list[Outcome]:
    """Return one outcome per item, in order; never raises for a tool's error.

    ``same_bits`` is that of a reproducible run, which chooses its own batches.
    """
    if same_bits is None:
        return _outcomes(items, lambda some: checked_run(tool, list(some)))
    try:
        same_bits.test(tool, items)
        groups, errors = same_bits.groups(tool, items)
    except Exception as error:
        return [Outcome(None, tell_error(error))] * len(items)
    outcomes = {place: Outcome(None, tell_error(error)) for place, error in errors.items()}
    for places, shape in groups:
        run = functools.partial(same_bits.run, tool, shape=shape)
        whole = [items[place] for place in places]
        computed = _outcomes(whole, run, halves_memory=shape is None)
        refused = [each for each in computed if each.error and each.error["kind"] == CONTRACT]
        if refused:
            return refused[:1] * len(items)  # no item is to blame, and no other does better
        outcomes.update(zip(places, computed))
    return [outcomes[place] for place in range(len(items))]


def _outcomes(
    items: Sequence[Any], run: Callable[[Sequence[Any]], list[Any]], *, halves_memory: bool = True
) -> list[Outcome]:
    """Return one outcome per item of a call of ``run``, halved until errors stand alone.

    ``halves_memory``: a batch for which memory is not enough is halved, too.
    """
    error = None
    try:
        return [Outcome(result) for result in run(items)]
    except (ContractError, UndeclaredParam) as caught:  # no item's fault
        return [Outcome(None, tell_error(caught))] * len(items)
    except Exception as caught:
        # The traceback keeps the failed call's arrays alive: report it, then drop it.
        exhausted = is_out_of_memory(caught)
        error = tell_error(caught)
    if exhausted:
        release_memory()
    if len(items) == 1 or (exhausted and not halves_memory):
        return [Outcome(None, error, exhausted)] * len(items)
    first, second = halves(items)
    again = functools.partial(_outcomes, run=run, halves_memory=halves_memory)
    outcomes = again(first) + again(second)
    return [each._replace(out_of_memory=each.out_of_memory or exhausted) for each in outcomes]


def run_payloads(
    tool: Tool,
    payloads: Sequence[Blob],
    wait_s: float,
    same_bits: SameBits | None = None,
    ready: list[Any] | None = None,
) -> list[Outcome]:
    """Return one outcome per item; one whose file does not appear here in time fails alone.

    ``ready`` are the items, if they have been unpacked.
    """
    if ready is not None:
        return run_batch(tool, ready, same_bits)
    late = wait_for_blobs(payloads, wait_s) if wait_s else {}
    errors = [late.get(blob.path) if isinstance(blob, SpoolFile) else None for blob in payloads]
    there = [blob for blob, error in zip(payloads, errors) if error is None]
    read = iter(unpacked_items(tool, there))
    items = [next(read) if error is None else Unreadable(tell_error(error)) for error in errors]
    whole = [item for item in items if not isinstance(item, Unreadable)]
    computed = iter(run_batch(tool, whole, same_bits) if whole else [])
    return [
        Outcome(None, item.error) if isinstance(item, Unreadable) else next(computed)
        for item in items
    ]


def items_ahead(frame: Frame) -> list[Any] | None:
    """Return the items of a batch that is to be run next; None: they are unpacked in their turn.

    So they are where results are kept, as what unpacking reads then belongs to the run; where
    files may be late; and where one cannot be unpacked, which is found out item by item.
    """
    is_plain = frame.type == "run" and not latency_of(frame)
    if not is_plain or any(key is not None for key in frame.meta["keys"]):
        return None
    try:
        return load_payloads(frame.blobs[1:])
    except Exception:
        return None


def pack_outcomes(
    tool: Tool,
    outcomes: Sequence[Outcome],
    keys: Sequence[Sequence[str] | None],
    kept: KeptResults | None,
    spool: Spool,
) -> tuple[list[dict[str, Any]], list[Blob]]:
    """Return the report on each item, and the packed results of those that have one.

    Parameters
    ----------
    keys
        The key of each result that is to be kept across runs; None: it is not.
    kept
        The store; None: no result is kept.
    """
    notes: list[dict[str, Any]] = []
    with spool.bundle() as bundle:
        for outcome, key in zip(outcomes, keys):
            note = {"error": outcome.error, "oom": outcome.out_of_memory}
            try:
                if outcome.error is None:
                    parts = packed_result(tool, outcome.result)
                    if kept is not None and key is not None:
                        kept.keep(key, parts)
                    bundle.add(parts)
            except Exception as error:  # a result that cannot be pickled, or no room for it
                note = {"error": tell_error(error), "oom": False}
            notes.append(note)
        notes = of_one_item(notes)
        try:
            return within_bounds(notes), bundle.take()
        except OSError as error:  # not enough room for all of them
            failed = {"error": tell_error(error), "oom": False}
            failures = [failed if note["error"] is None else note for note in notes]
            return within_bounds(failures), []


def outcome_fields(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the reports on items as fields of a ``done`` frame; most items need none."""
    failed = [position for position, note in enumerate(notes) if note["error"] is not None]
    return {
        "items": len(notes),
        "failed": failed,
        "errors": [notes[position]["error"] for position in failed],
        "out_of_memory": [position for position, note in enumerate(notes) if note["oom"]],
    }


def of_one_item(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the reports on items: if only some results cannot be sent, blame those items.

    If no result of the batch can be sent, the tool is to blame.
    """
    if all(note["error"] is not None for note in notes):
        return notes
    return [
        {**note, "error": {**note["error"], "kind": "input"}}
        if note["error"] is not None and note["error"]["kind"] == CONTRACT
        else note
        for note in notes
    ]


def within_bounds(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the reports on items, with errors shortened to what a frame may hold."""
    bounded, size_bytes = [], 0
    for note in notes:
        error = note["error"]
        size_bytes += 0 if error is None else len(json.dumps(error))
        if error is None or size_bytes <= ERRORS_BYTES:
            bounded.append(note)
        else:
            message = shortened(error["message"], SHORT_MESSAGE)
            bounded.append({**note, "error": {**error, "message": message, "traceback": ""}})
    return bounded
