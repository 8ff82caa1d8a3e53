"""Calls from Python that wait for the report of their job."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable

from snakemake_executor_gpupool.errors import JobFailed, PoolEnded
from snakemake_executor_gpupool.wire.requests import JobReport

#: What a call may hear: how its job ended, that there will be no report, or (None) that there is
#: room for more of its items.
_News = queue.SimpleQueue["JobReport | PoolEnded | None"]


class PendingCalls:
    """What the callers of a pool wait for, by the number of their job.

    Any thread may call, at the same time as others.

    Parameters
    ----------
    discard
        Called with the number of a job whose results nobody is going to read; it may have ended.
    """

    def __init__(self, discard: Callable[[int], None]) -> None:
        self._discard = discard
        self._ids = itertools.count(1)
        self._news: dict[int, _News] = {}

    def new_id(self) -> int:
        """Return a number for a job that no other job has."""
        return next(self._ids)

    def wait(
        self,
        job_id: int,
        tool: str,
        submit: Callable[[], None],
        go_on: Callable[[], None] = lambda: None,
    ) -> JobReport:
        """Submit a job and wait for its report.

        Parameters
        ----------
        go_on
            Called by this thread each time that there is room for more of the job's items.

        Raises
        ------
        JobFailed
            The report has an error.
        PoolEnded
            The pool has ended, and there will be no report.
        """
        news = self._news[job_id] = queue.SimpleQueue()
        try:
            submit()
            while (heard := news.get()) is None:
                go_on()
        except BaseException:
            self._news.pop(job_id, None)
            self._discard(job_id)
            raise
        if isinstance(heard, PoolEnded):
            raise heard
        if heard.error is not None:
            raise JobFailed(heard.error, tool)
        return heard

    def more(self, job_id: int) -> None:
        """There is room for more items of a job."""
        news = self._news.get(job_id)
        if news is not None:
            news.put(None)

    def report(self, report: JobReport) -> None:
        """Pass a report on to the call that waits for it."""
        news = self._news.pop(report.job_id, None)
        if news is None:
            self._discard(report.job_id)  # its call was interrupted
        else:
            news.put(report)

    def end(self, error: PoolEnded, cause: BaseException | None = None) -> None:
        """Raise ``error`` in every call that still waits: there will be no report."""
        error.__cause__ = cause
        for job_id in list(self._news):
            news = self._news.pop(job_id, None)
            if news is not None:
                news.put(error)

    def forget(self) -> None:
        """Drop all of them: they belong to the process that this one was forked from."""
        self._news = {}
