"""What workers say, handed to the part of the scheduler that it concerns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from snakemake_executor_gpupool.scheduling.frame_gate import FrameGate
from snakemake_executor_gpupool.scheduling.notes import note_printed
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.foreseen import Foreseen, Unforeseen
from snakemake_executor_gpupool.wire.frames import Frame
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
)
from snakemake_executor_gpupool.wire.model_messages import (
    BatchDone,
    Loaded,
    LoadFailed,
    Moved,
    MoveFailed,
    StageDone,
)


class Deliverer:
    """Hands what workers say to the scheduler, once the gate has admitted it.

    Parameters
    ----------
    scheduler
        Gets an event for every frame that makes sense.
    spools
        The directories whose files a blob may name.
    """

    def __init__(self, scheduler: Scheduler, spools: Sequence[str]) -> None:
        self._scheduler = scheduler
        self._gate = FrameGate(scheduler, spools)

    def take(
        self, worker_id: str, frame: Frame, now_s: float, energy_j: float | None = None
    ) -> None:
        """Believe a frame.

        Parameters
        ----------
        energy_j
            What the driver counted for what it answers, if it is a micro-batch; None: unknown.

        Raises
        ------
        ProtocolError
            It makes no sense, or answers nothing that its sender was asked. Nothing has changed.
        """
        leaving = self._scheduler.leaving
        if leaving.is_doubted(worker_id):
            return
        message = self._gate.admit(worker_id, frame)
        if leaving.doubts(worker_id, message):
            self._scheduler.ledger.discard(*frame.blobs)
        else:
            self._deliver(worker_id, message, now_s, energy_j)

    def _deliver(  # noqa: C901, PLR0912 - one case a kind
        self, worker_id: str, message: Message, now_s: float, energy_j: float | None
    ) -> None:
        scheduler, answers = self._scheduler, self._scheduler.answers
        models = scheduler.model_answers
        match message:
            case BatchDone():
                models.batch_done(worker_id, message, now_s, energy_j)
            case ItemsRead():
                answers.items_read(worker_id, message, now_s)
            case Written():
                answers.written(worker_id, message, now_s)
            case StageDone():
                models.stage_done(worker_id, message, now_s, energy_j)
            case Published():
                answers.published(worker_id, message, now_s)
            case Unpublished(job_id=job_id):
                answers.unpublished(worker_id, job_id, now_s)
            case ReadFailed(job_id=job_id, error=error):
                answers.read_failed(worker_id, job_id, error, now_s)
            case WriteFailed(job_id=job_id, error=error):
                answers.write_failed(worker_id, job_id, error, now_s)
            case RemarkMade(text=text):
                answers.remark(worker_id, text, now_s)
            case ToolImported():
                scheduler.process_ready(worker_id, message, now_s)
            case ImportFailed(error=error):
                scheduler.process_failed(worker_id, error, now_s)
            case Loaded():
                models.loaded(worker_id, message, now_s)
            case LoadFailed(error=error):
                models.load_failed(worker_id, error, now_s)
            case Moved(is_away=is_away):
                models.moved(worker_id, is_away, now_s)
            case MoveFailed(error=error):
                models.move_failed(worker_id, error, now_s)
            case Foreseen(job_id=number, model=model):
                scheduler.ahead.described(worker_id, number, model, now_s)
            case Unforeseen(job_id=number):
                scheduler.ahead.described(worker_id, number, None, now_s)
            case Checked(holds=holds):
                scheduler.ahead.checked(worker_id, holds=holds, now_s=now_s)
            case OutputPrinted():
                note_printed(scheduler.outbox, worker_id, message)
            case StoreTroubleMet(kind=kind, why=why):
                scheduler.store_trouble(worker_id, kind, why)
            case _:
                assert_never(message)
