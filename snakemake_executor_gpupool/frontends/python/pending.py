"""Calls from Python that wait for the report of their job."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable

from snakemake_executor_gpupool.errors import JobFailed, PoolEnded
from snakemake_executor_gpupool.wire.requests import JobReport


class PendingCalls:
    """What the callers of a pool wait for, by the number of their job.

    Any thread may call, at the same time as others.

    Parameters
    ----------
    discard
        Called with the number of a job whose results nobody is going to read.
    """

    def __init__(self, discard: Callable[[int], None]) -> None:
        self._discard = discard
        self._ids = itertools.count(1)
        self._futures: dict[int, concurrent.futures.Future[JobReport]] = {}

    def new_id(self) -> int:
        """Return a number for a job that no other job has."""
        return next(self._ids)

    def wait(self, job_id: int, tool: str, submit: Callable[[], None]) -> JobReport:
        """Submit a job and wait for its report.

        Raises
        ------
        JobFailed
            The report has an error.
        PoolEnded
            The pool has ended, and there will be no report.
        """
        future = self._futures[job_id] = concurrent.futures.Future()
        try:
            submit()
            report = future.result()
        except BaseException:
            if self._futures.pop(job_id, None) is None:
                self._discard(job_id)  # it was reported before this call was interrupted
            raise
        if report.error is not None:
            raise JobFailed(report.error, tool)
        return report

    def report(self, report: JobReport) -> None:
        """Pass a report on to the call that waits for it."""
        future = self._futures.pop(report.job_id, None)
        if future is None:
            self._discard(report.job_id)  # its call was interrupted
        else:
            future.set_result(report)

    def end(self, error: PoolEnded, cause: BaseException | None = None) -> None:
        """Raise ``error`` in every call that still waits: there will be no report."""
        error.__cause__ = cause
        for job_id in list(self._futures):
            future = self._futures.pop(job_id, None)
            if future is not None:
                future.set_exception(error)

    def forget(self) -> None:
        """Drop all of them: they belong to the process that this one was forked from."""
        self._futures = {}
