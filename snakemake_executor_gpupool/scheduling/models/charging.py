"""Charges jobs for what workers computed, and books the rest as overhead. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from snakemake_executor_gpupool.scheduling.effects import Fact, Outbox
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.stage import merged_of
from snakemake_executor_gpupool.scheduling.models.cost_shares import (
    OUT_OF_MEMORY,
    UNCLAIMED,
    DeviceTime,
    JobCost,
    Work,
    by_cost,
)
from snakemake_executor_gpupool.scheduling.models.model_worker import Batch, ModelWorker
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.model_messages import BatchDone, StagedRequest


class Charging:
    """Who pays for which micro-batch; see :mod:`~.cost_shares`.

    Attributes
    ----------
    time
        For how long devices computed, and for whom.
    """

    def __init__(self, jobs: JobTable, outbox: Outbox) -> None:
        self._jobs = jobs
        self._outbox = outbox
        self.time = DeviceTime()

    def batch_done(
        self,
        worker: ModelWorker,
        batch: Batch,
        message: BatchDone,
        again: Collection[int],
        work: Work,
    ) -> None:
        """Have the jobs that wait for a computed batch pay for it; nobody has its results yet.

        ``again`` are the positions of items that are tried once more.
        """
        paid = batch.items
        paid_s = by_cost(work.device_s, [item.cost for item in batch.items])
        if again:
            for position in sorted(again):
                work.overhead[OUT_OF_MEMORY] += paid_s[position]
            paid = [item for place, item in enumerate(paid) if place not in again]
            paid_s = [share_s for place, share_s in enumerate(paid_s) if place not in again]
        self._jobs.charge(paid, paid_s, work)
        self.book(worker, work)
        failed = len(message.errors) - len(again)
        self.note_batch(worker, batch, work, **({"failed": failed} if failed else {}))

    def book(self, worker: ModelWorker, work: Work) -> None:
        """Book what a worker has computed; what no job was charged for is nobody's."""
        work.overhead[UNCLAIMED] += work.rest_s()
        self.time.computed(worker.devices, work.seconds)
        self.time.charged(work)

    def stage_done(
        self, worker: ModelWorker, requests: Sequence[StagedRequest], work: Work
    ) -> dict[int, JobCost]:
        """Charge a stage to the jobs whose items it computed; return each merged's part of it.

        Later stages' jobs have not come yet, and pay when they do.
        """
        batch = worker.in_flight[0]
        chains = list(merged_of(batch.items))
        costs = [chains[each.number].cost for each in requests]
        if batch.stages_done > 1:  # what the items of later stages cost is not known here
            costs = [float(len(each.keys)) for each in requests]
        shares_s = by_cost(work.device_s, costs) if requests else []
        paid: list[tuple[WorkItem, float]] = []
        shares: dict[int, JobCost] = {}
        for each, share_s in zip(requests, shares_s, strict=True):
            parts = chains[each.number].parts if batch.stages_done == 1 else []
            undone = [item for item in parts if not item.is_done]
            paid += zip(undone, by_cost(share_s, [item.cost for item in undone]), strict=True)
            shares[each.number] = JobCost()
            shares[each.number].add(work, share_s)
        self._jobs.charge([item for item, _ in paid], [share_s for _, share_s in paid], work)
        self.book(worker, work)
        batch.work.add(work)
        return shares

    def note_batch(self, worker: ModelWorker, batch: Batch, work: Work, **more: int) -> None:
        """Write down what a batch took, and who was charged for it."""
        self._outbox.put(Fact("batch", {**members_of(worker, batch), "seconds": work.seconds}))
        self._outbox.note(
            "batch_done",
            batch=batch.batch_id,
            worker=worker.worker_id,
            seconds=round(work.seconds, 6),
            items=len(batch.items),
            **more,
            **work.fields(),
        )

    def lose(self, worker: ModelWorker, now_s: float) -> None:
        """Book what a dead worker was at as lost: its first batch; others had not begun."""
        for number, batch in enumerate(worker.in_flight):
            lost_s = max(now_s - batch.sent_s - batch.seconds, 0.0) if number == 0 else 0.0
            self.time.lost(worker.devices, lost_s)
            # Of a merged dispatch, stages that were done are paid for.
            done = {"seconds": round(batch.seconds, 6), **batch.work.fields()}
            self._outbox.note(
                "batch_lost",
                batch=batch.batch_id,
                worker=worker.worker_id,
                lost_s=round(lost_s * len(worker.devices), 6),
                **(done if batch.seconds else {}),
            )


def parts_of(worker: ModelWorker, items: list[WorkItem]) -> list[WorkItem]:
    """Return items; of merged requests the items of their first stage."""
    if not worker.model.is_chain:
        return items
    return [part for item in items for part in getattr(item, "parts", (item,))]


def is_of_one_stage(batch: Batch) -> bool:
    """Tell whether it is a dispatch of merged requests through one stage alone."""
    return getattr(batch.items[0], "is_single", False)


def members_of(worker: ModelWorker, batch: Batch) -> dict[str, object]:
    """Return where a micro-batch ran, its shape and its members' own keys."""
    members = parts_of(worker, batch.items)
    keys = [item.key for item in members if type(item.key) is tuple]
    # Of merged requests, members are the items of their first stage.
    head = keys[0] if keys else (None,) * 4
    return {
        "batch": batch.batch_id,
        "worker": worker.worker_id,
        "devices": [device.name for device in worker.devices],
        "merged": worker.model.is_chain and not is_of_one_stage(batch),
        "items": len(members),
        "model": head[-3],
        "group": head[-2],
        "keys": [str(key[-1]) for key in keys],
        "tokens": sum(batch.tokens),
        "padded_tokens": worker.model.batch_tokens(batch),
        "longest_tokens": max(batch.tokens, default=0),
    }


def work_of(
    worker: ModelWorker, seconds: float, peak_mib: int | None, energy_j: float | None
) -> Work:
    """Return what a worker has done, to be charged."""
    device_s = seconds * len(worker.devices)
    return Work(seconds, device_s, worker.model.spec.kind, peak_mib, energy_j)


def tried_again(worker: ModelWorker, message: BatchDone) -> Collection[int]:
    """Return which items did not fit, and are tried once more with the device to themselves."""
    return () if worker.is_alone else message.errors.keys() & message.out_of_memory
