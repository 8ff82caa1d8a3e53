"""What follows when a process that reads and writes has died, or its tool cannot be had. Pure."""

from __future__ import annotations

from collections.abc import Callable

from snakemake_executor_gpupool.scheduling.blame import MIN_TRIAL_S, BlameTracker
from snakemake_executor_gpupool.scheduling.effects import Outbox, StopWorker
from snakemake_executor_gpupool.scheduling.files.ahead import AheadOfJobs
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorker, FileWorkerPool
from snakemake_executor_gpupool.scheduling.job_state import JobPhase, JobState, explain
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.wire.described import WorkerError

#: A process that is at one file, or at importing its tool, for so long counts as hung; at a
#: file sooner, if its job's runtime is less.
FILE_LIMIT_S = 900.0
#: Deaths of a process with the same job in flight before the job is given up.
MAX_DEATHS = 2
#: Deaths of a tool's process while it starts, one after the other, before the tool is given up.
MAX_START_DEATHS = 3


class FileDeaths:
    """Who is to blame, and what is done again.

    Parameters
    ----------
    give_up_staged
        Has a job read the ordinary way whose staged outputs are not there.
    """

    def __init__(
        self,
        jobs: JobTable,
        outbox: Outbox,
        blame_tracker: BlameTracker,
        ahead: AheadOfJobs,
        give_up_staged: Callable[[JobState, float], None],
    ) -> None:
        self._jobs = jobs
        self._outbox = outbox
        self._blame_tracker = blame_tracker
        self._ahead = ahead
        self._give_up_staged = give_up_staged

    def end_hung(self, tool: FileWorkerPool, now_s: float) -> None:
        """End processes that hang: on a pipe that nobody writes to, a file system that is gone."""
        for worker in tool.workers.values():
            silent_s = now_s - worker.active_s
            at_work = worker.in_flight or not worker.ready
            if at_work and not worker.hung and silent_s > self._limit_s(worker):
                worker.hung = True
                why = f"no answer for {silent_s:.0f} s"
                self._outbox.put(StopWorker(worker.worker_id, why, force=True))

    def forget_suspects(self) -> None:
        """Forget jobs that have ended otherwise since a process died with them."""
        for suspect in list(self._blame_tracker.suspects):
            if isinstance(suspect, JobState) and not self._jobs.has(suspect):
                self._blame_tracker.forget(suspect)

    def _limit_s(self, worker: FileWorker) -> float:
        job = self._jobs.get(worker.in_flight[0]) if worker.in_flight else None
        runtime_s = job.request.timeout_s if job is not None else None
        return min(runtime_s or FILE_LIMIT_S, FILE_LIMIT_S)

    def give_up(self, tool: FileWorkerPool, error: WorkerError, now_s: float) -> None:
        """Fail all jobs of a tool, the first with the whole story."""
        tool.error = error
        for number, job_id in enumerate(tool.take_waiting()):
            job = self._jobs.get(job_id)
            if job is not None and job.phase is JobPhase.PUBLISHING:
                self._give_up_staged(job, now_s)
            elif job is not None:
                shown = error if number == 0 else error.brief()
                self._jobs.fail(job, explain(job, shown, f"tool {tool.ref}"), error)

    def blame(self, tool: FileWorkerPool, worker: FileWorker, reason: str, now_s: float) -> None:
        """Suspect whoever a process may have died of: its tool, or the job that it was at."""
        if worker.is_ahead:
            self._ahead.bar(tool)
            return
        if not worker.ready:
            self._blame_tracker.died([tool], now_s)
            # Whatever this one's trouble was, others serve.
            is_served = any(other.ready for other in tool.workers.values())
            if not is_served and self._blame_tracker.is_guilty(
                tool, MAX_START_DEATHS, now_s, least_s=MIN_TRIAL_S
            ):
                error = crash_error(f"its process ended while starting: {reason}")
                self.give_up(tool, error, now_s)
            return
        first = self._jobs.get(worker.in_flight[0]) if worker.in_flight else None
        self._blame_tracker.died([first] if first is not None else [], now_s)

    def take_back(self, tool: FileWorkerPool, job: JobState, reason: str, now_s: float) -> None:
        """Have a job done again that a process has died with, unless it is to blame."""
        if job.unwanted:
            self._jobs.fail(job, f"{job.request.title}: {job.unwanted}")
            return
        if job.phase is JobPhase.PUBLISHING:
            self._give_up_staged(job, now_s)
            return
        was_reading = job.phase is JobPhase.READING
        if self._blame_tracker.is_guilty(job, MAX_DEATHS, now_s):
            doing = "reading its input" if was_reading else "writing its output"
            deaths = self._blame_tracker.deaths_alone(job)
            self._blame_tracker.forget(job)
            message = f"{deaths} processes died while {doing}: {reason}"
            self._jobs.fail(job, f"{job.request.title}: {message}")
            return
        if was_reading:
            self._jobs.forget_items(job)
        until_s = self._blame_tracker.next_try_s(job)
        if until_s > now_s:
            tool.resting.append((until_s, job.request.job_id))
        elif was_reading:
            tool.reads.appendleft(job.request.job_id, job.read_level)
        else:
            tool.to_write_first(job.request.job_id, job.home, job.write_level)

    def wake_resting(self, tool: FileWorkerPool, now_s: float) -> None:
        """Let jobs that have waited long enough be tried again."""
        due = [job_id for until_s, job_id in tool.resting if until_s <= now_s]
        tool.resting = [(until_s, n) for until_s, n in tool.resting if until_s > now_s]
        for job in filter(None, map(self._jobs.get, due)):
            if job.phase is JobPhase.WRITING:
                tool.to_write(job.request.job_id, job.home, job.write_level)
            else:
                tool.reads.append(job.request.job_id, job.read_level)


def crash_error(message: str) -> WorkerError:
    """Return an error that no tool raised, in the form of one that it did."""
    return WorkerError(message, type="WorkerDied")
