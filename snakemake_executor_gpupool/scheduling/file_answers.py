"""What processes that read and write files answer. Pure decisions."""

from __future__ import annotations

from collections.abc import Callable

from snakemake_executor_gpupool.scheduling.effects import Outbox, Remark
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.intake import Intake
from snakemake_executor_gpupool.scheduling.job_state import JobState, explain
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.run import MergedRuns
from snakemake_executor_gpupool.scheduling.results import ResultLedger
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.messages import ItemsRead, Published, Written

#: No run has more to say beside its errors.
MAX_REMARKS = 100


class FileAnswers:
    """One method for each answer.

    Parameters
    ----------
    settle
        The last step of each: the scheduler reacts to what its parts have appended.
    """

    def __init__(
        self,
        jobs: JobTable,
        files: FileScheduler,
        intake: Intake,
        merges: MergedRuns,
        ledger: ResultLedger,
        outbox: Outbox,
        settle: Callable[[float], None],
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._intake = intake
        self._merges = merges
        self._ledger = ledger
        self._outbox = outbox
        self._settle = settle
        self._remarks: set[str] = set()

    def items_read(self, worker_id: str, message: ItemsRead, now_s: float) -> None:
        """Some items of a job have been read, or all."""
        self._files.heard_of(worker_id, now_s)
        job = self._jobs.get(message.job_id)
        tool = self._files.tool_of(worker_id)
        if message.is_last:
            self._files.answered(worker_id, message.job_id, now_s)
        if job is not None:
            self._intake.take(job, tool, message, now_s)
        else:
            self._ledger.discard(*message.payloads)
        self._files.send_more(tool, now_s)
        self._settle(now_s)

    def remark(self, worker_id: str, text: str, now_s: float) -> None:
        """A process has something to say of its tool, or of a rule: once is enough."""
        self._files.heard_of(worker_id, now_s)
        if text not in self._remarks and len(self._remarks) < MAX_REMARKS:
            self._remarks.add(text)
            self._outbox.note("remark", worker=worker_id, text=text)
            self._outbox.put(Remark(text))

    def read_failed(self, worker_id: str, job_id: int, error: WorkerError, now_s: float) -> None:
        """A job's input cannot be read."""
        self._files_done(worker_id, job_id, lambda job: self._file_failed(job, error), now_s)

    def write_failed(self, worker_id: str, job_id: int, error: WorkerError, now_s: float) -> None:
        """A job's outputs cannot be written."""
        self._files_done(worker_id, job_id, lambda job: self._file_failed(job, error), now_s)

    def _file_failed(self, job: JobState, error: WorkerError) -> None:
        self._jobs.fail(job, explain(job, error), error)

    def written(self, worker_id: str, message: Written, now_s: float) -> None:
        """A job's outputs are in place."""

        def act(job: JobState) -> None:
            job.output_hashes = message.outputs
            self._jobs.succeed(job)

        self._files_done(worker_id, message.job_id, act, now_s, message.seconds)

    def published(self, worker_id: str, message: Published, now_s: float) -> None:
        """A job's outputs, which a merged run had staged, are in place."""

        def act(job: JobState) -> None:
            job.input_hashes, job.output_hashes = message.inputs, message.outputs
            self._merges.published(job)

        self._files_done(worker_id, message.job_id, act, now_s, message.seconds)

    def unpublished(self, worker_id: str, job_id: int, now_s: float) -> None:
        """What a merged run had staged for a job is not its own: it goes the ordinary way."""

        def act(job: JobState) -> None:
            self._files.give_up_staged(job, now_s)

        self._files_done(worker_id, job_id, act, now_s)

    def _files_done(
        self,
        worker_id: str,
        job_id: int,
        act: Callable[[JobState], None],
        now_s: float,
        seconds: float = 0.0,
    ) -> None:
        """A process has finished with a job's files: act on that, unless the job has ended."""
        tool = self._files.answered(worker_id, job_id, now_s)
        job = self._jobs.get(job_id)
        if job is not None:
            job.seconds += seconds
            act(job)
        self._files.send_more(tool, now_s)
        self._settle(now_s)
