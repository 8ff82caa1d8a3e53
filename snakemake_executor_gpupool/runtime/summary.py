"""The figures of a run."""

from __future__ import annotations

from collections.abc import Iterable

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.hosts.base import Carried
from snakemake_executor_gpupool.records.progress import ModelState
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import Stage
from snakemake_executor_gpupool.scheduling.retirement import tools_of
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.requests import ToolRef


def summarize(
    scheduler: Scheduler, allocator: Allocator, carried: Carried, wall_s: float
) -> dict[str, object]:
    """Return the figures of a run so far, as ``summary.json`` has them.

    Called by the run loop's thread, or by any once that has ended.
    """
    dispatch, ledger, merges = scheduler.dispatch, scheduler.ledger, scheduler.merges
    return {
        "jobs_served": scheduler.jobs.served,
        "jobs_failed": scheduler.jobs.failed,
        "jobs_withdrawn": scheduler.jobs.withdrawn,
        "items": ledger.items,
        "items_unique": ledger.unique,
        "items_computed": ledger.computed,
        "items_reused": ledger.reused,
        "model_loads": dispatch.counts["model_loads"],
        "chains_merged": merges.counts["merged"],
        "dispatches_saved": merges.counts["saved"],
        "guesses_unclaimed": ledger.guesses - ledger.claimed,
        "evictions": dispatch.counts["evictions"],
        "offloads": dispatch.counts["offloads"],
        "worker_crashes": dispatch.counts["worker_crashes"],
        "bytes_in_messages": carried.in_messages,
        "bytes_in_files": carried.in_files,
        "wall_s": round(wall_s, 3),
        "costs": dispatch.charging.time.figures(),
        "simulated": any(device.simulated for device in allocator.all_devices),
        "devices": {
            device.name: {"busy_s": round(dispatch.charging.time.busy_s[device.name], 6)}
            for device in allocator.all_devices
        },
    }


def load_times(models: Iterable[Model]) -> dict[ToolRef, float]:
    """Return what the slowest model of each tool takes to load; of those that were measured."""
    slowest_s: dict[ToolRef, float] = {}
    for model in models:
        if model.load_s is not None:
            for ref in tools_of(model):
                slowest_s[ref] = max(model.load_s, slowest_s.get(ref, 0.0))
    return slowest_s


def state_of(model: Model, now_s: float) -> ModelState:
    """Return the progress of a model. Called by the run loop's thread."""
    loading = [w.since_s for w in model.alive if w.stage in (Stage.STARTING, Stage.LOADING)]
    is_ready = any(worker.is_feedable for worker in model.alive)
    return ModelState(
        key=model.key,
        name=model.name,
        done=model.items_done,
        total=model.items_total,
        places=model.places,
        is_active=bool(model.waiting or model.in_flight),
        remaining_s=model.remaining_s(),
        devices=tuple(sorted({d.name for worker in model.alive for d in worker.devices})),
        loading_s=now_s - min(loading) if loading and not is_ready else None,
        last_load_s=model.last_load_s,
    )
