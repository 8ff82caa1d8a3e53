"""Machines that were told to end: what their processes are at is finished, the rest goes to others.

Unlike a machine whose time is nearly up, one that was told to end may be switched off at any
moment, so nothing is begun there and what was sent ahead is taken back. Pure decisions.
"""

from __future__ import annotations

from collections.abc import Iterable

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling.effects import Outbox, StopWorker
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.lifecycle import GONE
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.wire.messages import ImportFailed, Message, ReadFailed, WriteFailed
from snakemake_executor_gpupool.wire.model_messages import BatchDone, LoadFailed, MoveFailed

#: Why a process is ended that reports a failure after its machine was told to end.
DOUBTED = "its machine was told to end, which may be why it failed"
#: What is not begun anew elsewhere if it is cut off.
_BEFORE_WORK = (Stage.STARTING, Stage.LOADING, Stage.CHECKING, Stage.MOVING)


class LeavingMachines:
    """The machines that were told to end, and the processes on them."""

    def __init__(self, dispatch: Dispatch, files: FileScheduler, outbox: Outbox) -> None:
        self._dispatch = dispatch
        self._files = files
        self._outbox = outbox
        self._hosts: set[str] = set()
        self._doubted: set[str] = set()
        #: The micro-batch that each worker was at when its machine was told to end.
        self._last_batch: dict[str, int] = {}

    def told(self, names: Iterable[str]) -> None:
        """The machines of these devices were told to end."""
        hosts = {name.rpartition("/")[0] for name in names} - self._hosts
        self._hosts |= hosts
        for worker in self._dispatch.lifecycle.workers.values():
            if worker.node in hosts and worker.in_flight:
                self._last_batch[worker.worker_id] = worker.in_flight[0].batch_id
        self.settle()

    def joined(self, devices: Iterable[Device]) -> None:
        """Machines have joined, perhaps again."""
        self._hosts.difference_update(device.host for device in devices)

    def settle(self) -> None:
        """End the processes that have finished what they were at; called after each event."""
        if not self._hosts:
            return
        lifecycle = self._dispatch.lifecycle
        for worker in list(lifecycle.workers.values()):
            if worker.node not in self._hosts or worker.stage is Stage.STOPPING:
                continue
            if worker.stage in _BEFORE_WORK or self._has_answered(worker):
                lifecycle.stop(worker, GONE, force=True)
        for file_worker in self._files.on_hosts(self._hosts):
            self._files.end_idle(file_worker, GONE)

    def _has_answered(self, worker: ModelWorker) -> bool:
        """Whether all that a worker has in flight was only sent ahead."""
        if not worker.in_flight:
            return False
        return worker.in_flight[0].batch_id != self._last_batch.get(worker.worker_id)

    def is_doubted(self, worker_id: str) -> bool:
        """Whether nothing counts any longer that a process says: it is being ended."""
        return worker_id in self._doubted

    def doubts(self, worker_id: str, message: Message) -> bool:
        """Return whether a message does not count: what failed there is tried elsewhere.

        A signal to all processes of a machine may have ended one that a tool has started, and
        nothing but an error tells of it. The process is ended; what it was at goes to others.
        """
        if not self._hosts or not _is_failure(message):
            return False
        if self._files.owns(worker_id):
            file_worker = self._files.worker(worker_id)
            if file_worker.node not in self._hosts:
                return False
            file_worker.is_ending = True
            self._outbox.put(StopWorker(worker_id, DOUBTED, force=True))
        else:
            worker = self._dispatch.worker(worker_id)
            if worker.node not in self._hosts:
                return False
            self._dispatch.lifecycle.stop(worker, DOUBTED, force=True)
        self._doubted.add(worker_id)
        return True


def _is_failure(message: Message) -> bool:
    if isinstance(message, BatchDone):
        return bool(message.errors)
    return isinstance(message, ImportFailed | ReadFailed | WriteFailed | LoadFailed | MoveFailed)
