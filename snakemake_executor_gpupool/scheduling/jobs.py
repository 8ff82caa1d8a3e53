"""The jobs in flight: which items each has, which results it still waits for. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.scheduling.domain_events import (
    DomainEvents,
    JobComputed,
    JobHasRoom,
)
from snakemake_executor_gpupool.scheduling.effects import Fact, Outbox, Report
from snakemake_executor_gpupool.scheduling.job_state import (
    JobPhase,
    JobState,
    explain,
)
from snakemake_executor_gpupool.scheduling.models.cost_shares import UNCLAIMED, Work
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.scheduling.packed import PackedItems
from snakemake_executor_gpupool.scheduling.provenance import Came
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

#: What is said of a job that nobody was given anything of, after another one has failed.
NOT_STARTED = "not started, since another job has failed and --keep-going is not set"


class JobTable:
    """All jobs in flight, and the one place where a job ends.

    Parameters
    ----------
    events
        Gets ``JobComputed`` when a job's last result is there.
    outlook
        Counts the jobs that come and end; None: nobody does.
    """

    def __init__(
        self,
        ledger: ResultLedger,
        outbox: Outbox,
        events: DomainEvents,
        outlook: Outlook | None = None,
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._events = events
        self._outlook = outlook or Outlook({})
        self._jobs: dict[int, JobState] = {}
        self._lent: dict[int, list[WorkItem]] = {}
        #: Jobs that had items which were not work yet, and may still have some.
        self._large: dict[int, None] = {}
        self.served = 0
        self.failed = 0
        self.withdrawn = 0
        #: Nothing new is to be started.
        self.is_winding_down = False

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, job_id: int) -> JobState:
        return self._jobs[job_id]

    def get(self, job_id: int) -> JobState | None:
        """Return a job; None if it has ended."""
        return self._jobs.get(job_id)

    def has(self, job: JobState) -> bool:
        """Tell whether a job is still in flight."""
        return self._jobs.get(job.request.job_id) is job

    def ids(self) -> list[int]:
        """Return the numbers of all jobs in flight."""
        return list(self._jobs)

    def tools(self) -> set[ToolRef]:
        """Return the tools that jobs in flight need, or the jobs that follow them."""
        staged = {job.staged.tool for job in self._jobs.values() if job.staged is not None}
        requests = [job.request for job in self._jobs.values()]
        later = {each.tool for request in requests for each in request.follow}
        return {request.tool for request in requests} | later | staged

    def soonest_done(self, waiting: Collection[WorkItem]) -> list[WorkItem]:
        """Return what the job lacks that is completed with the least work; all of it waits.

        Empty if there is no such job. Higher priority goes first.
        """
        large = [job for job in map(self._jobs.get, self._large) if job is not None]
        large = [job for job in large if job.backlog or job.later.to_come]
        last = min((-job.request.priority for job in large), default=math.inf)
        best: tuple[int, float, int] | None = None
        items: list[WorkItem] = []
        for job_id in dict.fromkeys(job_id for item in waiting for job_id in item.waiters):
            job = self._jobs.get(job_id)
            if job is None:
                continue
            undone = (item for item in job.items if not item.is_done)
            lacking = list(dict.fromkeys(undone)) if job.all_read else []
            if (
                not lacking
                or -job.request.priority > last
                or not all(item in waiting for item in lacking)
            ):
                continue
            work = (-job.request.priority, sum(item.cost for item in lacking), job_id)
            if best is None or work < best:
                best, items = work, sorted(lacking, key=lambda item: item.order)
        return items

    def add(self, request: Request) -> JobState:
        """Take a job in."""
        job = JobState(request)
        self._jobs[request.job_id] = job
        self._outlook.job_ready(request)
        return job

    # -- items -------------------------------------------------------------
    def place(self, job: JobState, items: Sequence[WorkItem]) -> list[WorkItem]:
        """Add the next items of a job; return those work items that have to be computed."""
        job_id = job.request.job_id
        placed_items, new = self._ledger.place_all(items, (job_id,))
        for item in new:
            item.job_id = job_id
        job.missing += len(new)
        if len(new) < len(items):
            self._take_known(job, items, placed_items)
        job.items += placed_items
        job.names += [item.name for item in items]
        if job.is_large:
            self._settle(job)
        return new

    @staticmethod
    def _take_known(job: JobState, items: Sequence[WorkItem], placed_items: list[WorkItem]) -> None:
        """Count those of a job's items that need not be computed for it alone."""
        job_id = job.request.job_id
        for item, placed in zip(items, placed_items, strict=True):
            if placed is not item:
                job.duplicates += 1
                placed.is_repeat = placed.is_repeat and placed.job_id == job_id
                job.cost.saved_s += placed.device_s
                job.missing += placed.result is None
            elif item.result is not None:
                item.job_id = job_id
                job.reused += 1

    def put_off(self, job: JobState, items: PackedItems | None = None) -> None:
        """Keep items of a large job that are not work yet; None: a call's caller has them."""
        if items is not None:
            job.backlog.append(items)
            job.later.packed_cost += items.cost
        self._large[job.request.job_id] = None

    def handed_out(self, items: Iterable[WorkItem]) -> None:
        """A worker is given items: the jobs that first asked for them have begun."""
        for job_id in dict.fromkeys([item.waiters[0] for item in items if item.waiters]):
            job = self._jobs.get(job_id)
            if job is not None:
                job.is_handed_out = True

    def forget_items(self, job: JobState) -> None:
        """Undo what was read of a job, so that it can be read again."""
        for item in job.items:
            self._awaits_no_more(item, job.request.job_id)
            self._ledger.release(item)
            item.is_repeat = False
        self._let_go_of_packed(job)
        job.items, job.names, job.missing, job.all_read = [], [], 0, False
        job.settled, job.done_items, job.came = [], 0, None
        job.backlog.clear()
        job.later.clear()
        job.cost_read = 0.0
        job.duplicates = job.reused = 0
        job.cost.saved_s = 0.0

    def let_go_of_staged(self, job: JobState) -> None:
        """A job has no use for what a merged run has made for it, or no longer."""
        if job.staged is not None:
            self._ledger.release(*job.staged.held)
        job.staged = None

    def _let_go_of_packed(self, job: JobState) -> None:
        for piece in job.settled:
            self._ledger.release_settled(piece)
        for items in job.backlog:
            self._ledger.discard(*items.payloads())

    def read_complete(self, job: JobState) -> None:
        """All items of the job are known."""
        job.all_read = True
        self.go_on(job)

    def go_on(self, job: JobState) -> None:
        """Have a job's items computed each by itself; its outputs follow."""
        job.phase = JobPhase.COMPUTING
        if job.is_computed:
            self._computed(job)

    def _computed(self, job: JobState) -> None:
        self._events.append(JobComputed(job.request.job_id))
        self._outlook.job_computed(job.request)

    def patience_s(self, items: Iterable[WorkItem]) -> float:
        """Return how long the most patient of the jobs that wait for the items will wait."""
        waiting = dict.fromkeys(job_id for item in items for job_id in item.waiters)
        # A job may have failed for another of its items, while a merged run still has it.
        jobs = filter(None, map(self._jobs.get, waiting))
        limits_s = (job.request.timeout_s for job in jobs)
        return max((limit_s or float("inf") for limit_s in limits_s), default=float("inf"))

    # -- results -----------------------------------------------------------
    def charge(self, items: Iterable[WorkItem], shares_s: Iterable[float], work: Work) -> None:
        """Divide the device seconds of computed items among the places that wait for them.

        To be called before these are handed their results.
        """
        jobs, charged = self._jobs, work.charged
        for item, device_s in zip(items, shares_s, strict=True):
            item.device_s = device_s
            waiting = item.waiters
            if len(waiting) == 1 and waiting[0] in jobs:
                charged[waiting[0]] += device_s
                continue
            waiting = tuple(job_id for job_id in waiting if job_id in jobs)
            if not waiting:
                work.overhead[UNCLAIMED] += device_s
                continue
            share_s = device_s / len(waiting)
            for job_id in waiting:
                charged[job_id] += share_s
                jobs[job_id].cost.saved_s += device_s - share_s
        for job_id, device_s in work.charged.items():
            self._jobs[job_id].cost.add(work, device_s)

    def worked(self, work: Work, devices: int) -> None:
        """Book the time of a micro-batch as that of the jobs that are charged for it.

        To be called before these are handed its results: whose items fail has ended then.
        """
        for job_id, device_s in work.charged.items():
            self._jobs[job_id].seconds += device_s / devices

    def items_done(
        self,
        items: Sequence[WorkItem],
        results: Sequence[Blob],
        worker_id: str,
        node: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Hand results of items to every place that waits for them.

        Parameters
        ----------
        node
            Of the worker, on a cluster.
        seconds
            What each took, as far as nobody was charged for it.
        """
        found: dict[int, int] = {}
        for item in items:
            waiters, item.waiters = item.waiters, ()
            for job_id in waiters:
                found[job_id] = found.get(job_id, 0) + 1
            if node or seconds:
                self._worked_on(item, waiters, node, seconds)
        self._ledger.finish_all(items, results)
        for job_id, count in found.items():
            job = self._jobs.get(job_id)
            if job is None:
                continue
            job.missing -= count
            job.most_in_batch = max(job.most_in_batch, count)
            job.workers.add(worker_id)
            if job.is_large:
                self._settle(job)
            if (job.backlog or job.asks) and job.has_room_for_next:
                self._events.append(JobHasRoom(job_id))
            if not job.missing and job.is_computed and job.phase is JobPhase.COMPUTING:
                self._computed(job)

    def _settle(self, job: JobState) -> None:
        """Put the first items of a large job into columns, if all of them are done."""
        items, size = job.items, packed.PIECE_ITEMS
        while job.may_settle:
            done, most = job.done_items, min(len(items), size)
            while done < most and items[done].result is not None:
                done += 1
            job.done_items = done
            if done < size:
                return
            some = items[:size]
            piece = self._ledger.settle(some, job.names[:size])
            if piece is None:
                job.has_files = True
                return
            if not job.wants_results:  # what a call gives back is not written down
                job.came = job.came or Came(job.request.job_id)
                job.came.add(some)
            if job.duplicates:
                piece.repeats = size - len({id(item) for item in some if not item.is_repeat})
            for item in some:
                item.is_repeat = item.is_repeat or item.job_id == job.request.job_id
            job.settled.append(piece)
            del items[:size], job.names[:size]
            job.done_items = 0

    def _worked_on(
        self, item: WorkItem, waiters: tuple[int, ...], node: str, seconds: float
    ) -> None:
        for job in filter(None, map(self._jobs.get, waiters)):
            job.seconds += seconds / len(waiters)
            if node:
                job.cost_on = job.cost_on or {}
                job.cost_on[node] = job.cost_on.get(node, 0.0) + item.cost

    def item_failed(self, item: WorkItem, error: WorkerError, where: str = "") -> None:
        """Fail every job that waits for the item, and no other.

        ``where`` says what failed, if it is not the item.
        """
        waiters, item.waiters = item.waiters, ()
        self._ledger.finish(item, None, error)
        for job in filter(None, map(self._jobs.get, dict.fromkeys(waiters))):
            self.fail(job, explain(job, error, where or f"item {job.name_of(item)}"), error)

    # -- ends --------------------------------------------------------------
    def succeed(self, job: JobState) -> None:
        """The job's outputs are in place, or its results are to be reported."""
        self.served += 1
        details: dict[str, object] = {}
        if job.wants_results:
            order, blobs = job.gather()
            details = {"order": order, "blobs": blobs, "settled": tuple(job.settled)}
        elif not job.request.loads_only:
            self._outbox.put(Fact("job", job.origin()))
        self._end(job, None, details)

    def fail(self, job: JobState, message: str, cause: WorkerError | None = None) -> None:
        """The job has failed: it no longer waits for the rest of its items."""
        self.failed += 1
        self._end(job, message, cause=cause)

    def withdraw(self, job: JobState) -> None:
        """Withdraw a job of which nothing has begun: it is reported as not started."""
        self.withdrawn += 1
        paid = job.account() if job.cost.batches else {}
        self._outbox.note("job_withdrawn", job=job.request.title, job_id=job.request.job_id, **paid)
        message = f"{job.request.title}: {NOT_STARTED}"
        self._forget(job)
        self._outbox.put(Report(JobReport(job.request.job_id, message, withdrawn=True)))

    def take_back(self, job_id: int) -> None:
        """The caller has read its results."""
        self._ledger.release(*self._lent.pop(job_id, []))

    def _end(
        self,
        job: JobState,
        error: str | None,
        details: dict[str, object] | None = None,
        cause: WorkerError | None = None,
    ) -> None:
        self._forget(job, is_lent=bool(details))
        error = None if error is None else printable(error)
        event = "job_done" if error is None else "job_failed"
        fields = job.account() if error is None else {**job.account(), "error": error}
        self._outbox.note(event, job=job.request.title, job_id=job.request.job_id, **fields)
        cost = job.cost.fields()
        ended = job.request.job_id, error, job.seconds, details or {}
        self._outbox.put(Report(JobReport(*ended, cause=cause, cost=cost)))

    def _forget(self, job: JobState, *, is_lent: bool = False) -> None:
        del self._jobs[job.request.job_id]
        self._large.pop(job.request.job_id, None)
        self._outlook.job_over(job.request)
        for item in job.items if job.missing else ():
            self._awaits_no_more(item, job.request.job_id)
        self._let_go_of_packed(job)
        if job.staged is not None:
            self._ledger.release(*job.staged.held)
        job.later.clear()
        if is_lent:
            self._lent[job.request.job_id] = job.items
        else:
            self._ledger.release(*job.items)

    @staticmethod
    def _awaits_no_more(item: WorkItem, job_id: int) -> None:
        waiting = item.waiters
        places = waiting.count(job_id)
        if places == 1:  # there may be thousands of others: they are copied, and not looked at
            place = waiting.index(job_id)
            item.waiters = waiting[:place] + waiting[place + 1 :]
        elif places:
            item.waiters = tuple(other for other in waiting if other != job_id)
