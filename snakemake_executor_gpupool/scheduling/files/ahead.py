"""What file processes do before there is a job for them: say which model it will need. Pure.

A process that was started for that, or was asked, may have read what jobs have still to write. So
it gets a job only once it has said that this is still so (:mod:`~...worker.ahead`); else another
takes its place, and nothing is asked of the tool any more. Nothing that goes wrong before there is
a job counts: the job's own process will say it.
"""

from __future__ import annotations

from collections.abc import Iterable

from snakemake_executor_gpupool.scheduling.effects import (
    CheckWorker,
    DescribeModel,
    Outbox,
    StopWorker,
)
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorker, FileWorkerPool

#: Why a process is ended that was started ahead.
CHANGED = "what it has read before there was a job has changed"
#: So many questions are sent to one process at a time.
QUESTIONS_AHEAD = 2


class AheadOfJobs:
    """Sends questions to processes, and looks at those that were started for them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def ask(self, tool: FileWorkerPool, workers: Iterable[FileWorker], now_s: float) -> None:
        """Send the questions that wait to processes with nothing else to do."""
        for worker in workers if tool.questions and not tool.has_work else ():
            is_free = worker.ready and not (worker.is_ending or worker.is_stale)
            if not is_free or worker.is_checked or any(number >= 0 for number in worker.in_flight):
                continue
            while tool.questions and len(worker.in_flight) < QUESTIONS_AHEAD:
                number = next(iter(tool.questions))
                request = tool.questions.pop(number)
                worker.is_ahead = True
                worker.sent(question(number), 0, now_s)
                self._outbox.put(DescribeModel(worker.worker_id, number, request))

    def check(self, workers: Iterable[FileWorker]) -> None:
        """There is a job: ask those processes that have done something ahead of it."""
        for worker in workers:
            if worker.is_ahead and worker.ready and not (worker.is_checked or worker.is_ending):
                worker.is_checked = True
                self._outbox.put(CheckWorker(worker.worker_id))

    def checked(self, tool: FileWorkerPool, worker: FileWorker, *, holds: bool) -> None:
        """A process has said whether it is as good as one that begins now."""
        worker.is_ahead = worker.is_checked = False
        if not holds:
            self.bar(tool)
            worker.is_ending = True
            self._outbox.put(StopWorker(worker.worker_id, CHANGED))

    def bar(self, tool: FileWorkerPool) -> None:
        """Ask nothing of a tool any more: it came to nothing."""
        tool.is_barred_ahead = True
        tool.questions.clear()


def question(number: int) -> int:
    """Return what stands for a question among the numbers of jobs that a process has in flight."""
    return -number


def is_asked(tool: FileWorkerPool, number: int) -> bool:
    """Return whether a question waits, or an answer to it is awaited."""
    flying = (question(number) in worker.in_flight for worker in tool.workers.values())
    return number in tool.questions or any(flying)
