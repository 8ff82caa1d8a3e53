"""What the worker that holds a row of models is sent of merged requests."""

from __future__ import annotations

from snakemake_executor_gpupool.scheduling.effects import RunMerged
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest, MergedStage
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.messages_out import ChainRequest, run_chains, run_step


def chain_frame(
    effect: RunMerged, by: str, staged: str, store: StoreAddress | None, *, hashes: bool
) -> Frame:
    """Return what has requests taken through all stages from their first one on.

    Parameters
    ----------
    by, staged
        As for :func:`chain_request`.
    """
    return run_chains(
        effect.batch_id,
        [chain_request(merged, by, staged) for merged in effect.requests],
        store,
        offset=effect.requests[0].offset,
        hashes=hashes,
        item_limit_s=effect.item_limit_s,
    )


def step_frame(effect: RunMerged, store: StoreAddress | None) -> Frame:
    """Return what has the items of requests computed that go through one stage."""
    first = effect.requests[0]
    (stage,) = first.stages
    items = [part for merged in effect.requests for part in merged.parts]
    return run_step(
        effect.batch_id,
        first.offset,
        stage.request.params,
        [_blob_of(item) for item in items],
        [place for place, item in enumerate(items) if item.result is not None],
        [key for merged in effect.requests for key in merged.part_keys],
        _kept_head(stage),
        store,
        item_limit_s=effect.item_limit_s,
        loads_next=effect.loads_next,
    )


def chain_request(merged: MergedRequest, by: str, staged: str) -> ChainRequest:
    """Return what a worker must know of a short request.

    Parameters
    ----------
    by
        What logs say of the worker.
    staged
        Where outputs are staged, unless its run has a place of its own.
    """
    return ChainRequest(
        requests=[stage.request for stage in merged.stages],
        keys=merged.part_keys,
        items=[_blob_of(item) for item in merged.parts],
        is_known=[item.result is not None for item in merged.parts],
        order=merged.part_of_item,
        names=merged.item_names,
        by=by,
        models=[_kept_head(stage) for stage in merged.stages],
        staged=merged.request.staging or staged,
        is_lent=bool(merged.request.staging),
    )


def _blob_of(item: WorkItem) -> Blob:
    """Return an item, or its result if others have had it computed."""
    return item.payload if item.result is None else item.result


def _kept_head(stage: MergedStage) -> tuple[str, str, str]:
    """Return what the keys of a stage's results start with where they are kept across runs."""
    return (stage.request.kept_space, *stage.key_head[1:])
