"""Which messages of workers count: those that answer what their sender has in flight. Pure.

A worker runs other people's code, which can write anything into its channel. So a frame is looked
at twice before it may change anything: :mod:`~snakemake_executor_gpupool.wire.messages` sees that
it has the shape of its kind, and the gate that its sender was asked for it. What fails either way
is one :class:`ProtocolError`, and nothing has changed by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.scheduling.files.ahead import question
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorker
from snakemake_executor_gpupool.scheduling.job_state import JobPhase
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest, merged_of
from snakemake_executor_gpupool.scheduling.models.model_worker import Batch, ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.foreseen import Foreseen, Unforeseen
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile, are_in_memory
from snakemake_executor_gpupool.wire.messages import (
    Checked,
    ImportFailed,
    ItemsRead,
    Message,
    OutputPrinted,
    Published,
    ReadFailed,
    RemarkMade,
    StoreTroubleMet,
    ToolImported,
    Unpublished,
    WriteFailed,
    Written,
    message_of,
)
from snakemake_executor_gpupool.wire.model_messages import (
    BatchDone,
    Loaded,
    LoadFailed,
    Moved,
    MoveFailed,
    StageDone,
)

#: In which stage a model's worker may say what; one that is being stopped may still be at it.
_SAID_IN: dict[type[Message], Stage] = {
    ToolImported: Stage.STARTING,
    ImportFailed: Stage.STARTING,
    Loaded: Stage.LOADING,
    LoadFailed: Stage.LOADING,
    Checked: Stage.CHECKING,
    BatchDone: Stage.READY,
    StageDone: Stage.READY,
    Moved: Stage.MOVING,
    MoveFailed: Stage.MOVING,
}
#: What a file process may say of the job that it is at, by what it was asked to do with it.
_SAID_OF: dict[JobPhase, tuple[type[Message], ...]] = {
    JobPhase.READING: (RemarkMade, ItemsRead, ReadFailed),
    JobPhase.WRITING: (Written, WriteFailed),
    JobPhase.PUBLISHING: (Published, Unpublished),
}
#: In which stage a model's worker may have printed something at what.
_PRINTED_IN = {"import": Stage.STARTING, "load": Stage.LOADING, "run": Stage.READY}
#: What a file of the spool may be called.
_FILE_NAME = re.compile(r"\w[\w.-]{0,200}", re.ASCII)


class FrameGate:
    """Admits the frames of all workers, or refuses them; used by the run loop's thread alone.

    Parameters
    ----------
    scheduler
        Knows what each worker has in flight; only looked at.
    spools
        The only directories whose files a blob may name: what is in them is removed after use.
    """

    def __init__(self, scheduler: Scheduler, spools: Sequence[str]) -> None:
        self._scheduler = scheduler
        self._spools = frozenset(spools)

    def admit(self, worker_id: str, frame: Frame) -> Message:
        """Return what a frame says, now that it may be believed.

        Raises
        ------
        ProtocolError
            It makes no sense, or answers nothing that its sender was asked. Nothing has changed.
        """
        message = message_of(frame)
        self._check_files(frame.blobs)
        files, dispatch = self._scheduler.files, self._scheduler.dispatch
        if isinstance(message, StoreTroubleMet):
            _require(files.owns(worker_id) or dispatch.owns(worker_id), frame, message)
        elif files.owns(worker_id):
            _require(self._is_of_files(files.worker(worker_id), message), frame, message)
        elif dispatch.owns(worker_id):
            _require(_is_of_model(dispatch.worker(worker_id), message), frame, message)
        else:
            raise ProtocolError("it has ended")
        return message

    def _check_files(self, blobs: list[Blob]) -> None:
        """See that blobs lie in files of the spool, and none in a file that others lie in, too.

        A file is removed with the last of its blobs: neither too early then, nor never.
        """
        if are_in_memory(blobs):
            return
        files = [blob for blob in blobs if isinstance(blob, SpoolFile)]
        counts = Counter(blob.path for blob in files)
        for blob in files:
            directory, _, name = blob.path.rpartition("/")
            if directory not in self._spools or not _FILE_NAME.fullmatch(name):
                raise ProtocolError(f"a blob lies at {blob.path[:200]!r}, outside the spool")
            if blob.sharers != counts[blob.path]:
                wrong = f"{counts[blob.path]} blobs lie in {blob.path}, said to be {blob.sharers}"
                raise ProtocolError(wrong[:400])

    def _is_of_files(self, worker: FileWorker, message: Message) -> bool:
        """Tell whether a message is about the job that a file process is at."""
        match message:
            case ToolImported() | ImportFailed() | OutputPrinted(doing="import"):
                return not worker.ready
            case Checked() | Foreseen() | Unforeseen():
                return _is_ahead_of_jobs(worker, message)
            case OutputPrinted(doing="read" | "write", about=job_id):
                return bool(worker.in_flight) and worker.in_flight[0] == job_id
            case (
                RemarkMade(job_id=job_id)
                | ItemsRead(job_id=job_id)
                | ReadFailed(job_id=job_id)
                | Written(job_id=job_id)
                | WriteFailed(job_id=job_id)
                | Published(job_id=job_id)
                | Unpublished(job_id=job_id)
            ):
                if not worker.in_flight or worker.in_flight[0] != job_id:
                    return False
                job = self._scheduler.jobs.get(job_id)
                # A job that has failed meanwhile is no longer known: its answer changes nothing.
                return job is None or isinstance(message, _SAID_OF.get(job.phase, ()))
        return False


def _is_ahead_of_jobs(worker: FileWorker, message: Message) -> bool:
    """Tell whether a process was asked before there was a job, or whether it may have one."""
    if isinstance(message, Foreseen | Unforeseen):
        at = worker.in_flight[0] if worker.in_flight else 0
        return at < 0 and at == question(message.job_id)
    return worker.is_checked and worker.is_ahead


def _is_of_model(worker: ModelWorker, message: Message) -> bool:
    """Tell whether a message is about what a model's worker is at."""
    stage = _SAID_IN.get(type(message))
    if isinstance(message, OutputPrinted):
        stage = _PRINTED_IN.get(message.doing)
    if stage is None or worker.stage not in (stage, Stage.STOPPING):
        return False
    match message:
        case BatchDone():
            batch = _oldest(worker, message.batch_id)
            is_whole = batch is not None and len(batch.items) == message.items
            return is_whole and not worker.model.is_chain
        case StageDone():
            batch = _oldest(worker, message.batch_id)
            return batch is not None and worker.model.is_chain and is_next_stage(batch, message)
        case OutputPrinted(doing="run", about=batch_id):
            return _oldest(worker, batch_id) is not None
        case Moved():
            return worker.stage is not Stage.MOVING or worker.is_leaving == message.is_away
    return True


def _oldest(worker: ModelWorker, batch_id: int) -> Batch | None:
    """Return the micro-batch that a worker is at, if it has this number."""
    batch = worker.in_flight[0] if worker.in_flight else None
    return batch if batch is not None and batch.batch_id == batch_id else None


def is_next_stage(batch: Batch, message: StageDone) -> bool:
    """Tell whether a message is about the stage that a dispatch of merged runs is at."""
    chains = list(merged_of(batch.items))
    if chains[0].is_single or message.computed is not None:
        return chains[0].is_single and _is_step(chains, message)
    numbers = [request.number for request in message.requests]
    open_ones = [number for number, chain in enumerate(chains) if not chain.is_over]
    stage = chains[0].offset + batch.stages_done
    if message.stage != stage or not set(numbers) <= set(open_ones):
        return False
    is_last = not numbers or batch.stages_done + 1 == len(chains[0].stages)
    return (
        message.is_last == is_last
        and numbers == sorted(set(numbers))
        and all(_has_sound_keys(chains[each.number], each.keys) for each in message.requests)
    )


def _is_step(chains: Sequence[MergedRequest], message: StageDone) -> bool:
    """Tell whether a message is about the stage that requests go through by itself."""
    if message.computed is None or message.requests or not message.is_last:
        return False
    count, places = sum(len(each.parts) for each in chains), list(message.computed)
    is_sound = places == sorted({*places}) and all(place < count for place in places)
    return is_sound and message.stage == chains[0].offset


def _has_sound_keys(chain: MergedRequest, keys: Sequence[str]) -> bool:
    if chain.stages_done == 0:
        return list(keys) == chain.part_keys
    return len(set(keys)) == len(keys)


def _require(sense: bool, frame: Frame, message: Message) -> None:
    if not sense:
        job_id, batch_id = getattr(message, "job_id", None), getattr(message, "batch_id", None)
        about = f" of job {job_id}" if job_id is not None else ""
        about = f" of batch {batch_id}" if batch_id is not None else about
        raise ProtocolError(f"nothing asked for a {frame.type!r} frame{about}")
