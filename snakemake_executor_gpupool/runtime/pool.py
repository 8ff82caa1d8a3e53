"""The pool at work: one thread that steps the run loop, and what other threads may ask of it.

::

    submit, lease ─► inbox ─┐                      ┌─► host: processes, frames
    host: frames, deaths ───┼─► scheduler (pure) ──┼─► event log, progress, summary
    the clock ──────────────┘                      └─► reports, on a thread of their own

Reports have their own thread because their receiver may be slow: Snakemake holds its
lock while it looks after finished jobs, and a device must not wait for that.

Whatever fails, on whichever thread, goes through one door, :meth:`Pool.fail`: the first cause
is kept, workers end, every job in flight is reported as failed, and ``broken`` gets the cause.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from snakemake_executor_gpupool.devices.process_environment import own_environment
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.errors import PoolEnded, StoreUnusable
from snakemake_executor_gpupool.hosts.base import Host
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.records.profile import Profile, profile_path
from snakemake_executor_gpupool.records.result_store import ResultStore, bound_from, is_shared
from snakemake_executor_gpupool.runtime.carry_out import Callbacks, UserLines
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.elsewhere import News
from snakemake_executor_gpupool.runtime.inbox import Inbox
from snakemake_executor_gpupool.runtime.limits import allow_open_files
from snakemake_executor_gpupool.runtime.loop import RunLoop
from snakemake_executor_gpupool.runtime.recording import Recorder
from snakemake_executor_gpupool.runtime.reporter import Reporter
from snakemake_executor_gpupool.runtime.sharing import Sharing
from snakemake_executor_gpupool.runtime.summary import load_times
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.forecast import Forecast
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: How long the last reports may take once everything has ended.
FAREWELL_S = 10.0
#: With so many jobs in flight their reports are gathered for so long.
MANY_JOBS, GATHER_S = 64, 0.01


class Pool:
    """Serves jobs from warm workers until closed.

    Parameters
    ----------
    config
        Devices, limits, directories.
    callbacks
        Whom to tell.
    machines
        The run's directory and the machines that it runs on; None: this one.

    Raises
    ------
    ConfigError
        A directory that the run needs cannot be used, or a variable is malformed.
    """

    def __init__(
        self,
        config: PoolConfig,
        callbacks: Callbacks,
        machines: tuple[RunPaths, Host] | None = None,
    ) -> None:
        self.config = config
        self._callbacks = callbacks
        self._reporter = Reporter(self.fail, self._report_pause_s)
        #: Where results are kept across runs; None: nowhere.
        self.store: StoreAddress | None = None
        host = None
        if machines is None:
            self.paths = RunPaths(config.run_root, temporary=config.is_temporary)
        else:
            self.paths, host = machines
        with contextlib.ExitStack() as undo:
            undo.callback(self.paths.remove_staged)
            undo.callback(self.paths.remove_spools)
            self._open(host)
            undo.pop_all()
        self._closing = threading.Event()
        self._closed = False
        self._refusal = ""
        self._pid = os.getpid()
        self._guard = threading.Lock()
        #: Why the run ends before its time.
        self._cause: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gpupool", daemon=True)
        self._thread.start()
        self._reporter.start()

    def _open(self, host: Host | None) -> None:
        """Open all that the pool needs: first what may be refused, last what starts processes."""
        config, lines = self.config, UserLines(self._callbacks, self._reporter.put)
        warning = allow_open_files(len(config.devices) + len(config.expected))
        if warning:
            lines.warn(f"gpupool: {warning}")
        if host is None:
            self.paths.create()
        store = open_store(config, lines)
        self.store = store.address if store else None
        profile = Profile(profile_path(os.environ))
        if profile.warning:
            lines.warn(f"gpupool: {profile.warning}")
        setup = self._setup(profile)
        core = Core(setup)
        env = own_environment() | ({LEASE_VARIABLE: config.lease} if config.lease else {})
        self._sharing = Sharing(env, core.allocator, self._pids, lines.say)
        self._sharing.open(config.devices)
        self._host = self._this_machine() if host is None else host
        self._inbox = Inbox(self._host.wake)
        self._loop = RunLoop(
            config,
            self.paths,
            self._host,
            core=core,
            recorder=Recorder(self.paths.recording, setup) if config.is_recorded else None,
            sharing=self._sharing,
            inbox=self._inbox,
            callbacks=self._callbacks,
            put=self._reporter.put,
            store=store,
            profile=profile,
            now_s=time.monotonic(),
        )

    def _setup(self, profile: Profile) -> Setup:
        config, settings = self.config, self.config.device_settings
        return Setup(
            devices=config.devices,
            expected=config.expected,
            allow_multiple_per_device=settings.allow_multiple_per_device,
            offload_strategy=settings.offload_strategy,
            dispatch=config.dispatch,
            file_workers=config.file_workers,
            figures=profile.figures(),
            spools=tuple(self.paths.spools),
            processors=0 if config.nodes else config.cores,
        )

    def _report_pause_s(self) -> float:
        """Return for how long reports are gathered: not at all where few jobs are in flight."""
        is_busy = self._callbacks.gathers and len(self._loop.scheduler.jobs) >= MANY_JOBS
        return GATHER_S if is_busy and not self._closing.is_set() else 0.0

    def _pids(self) -> list[int]:
        return self._host.pids()

    def _this_machine(self) -> LocalHost:
        host = LocalHost(self.paths, self.config.worker_threads)
        host.launcher.lend = self._sharing.lend
        host.launcher.surroundings = self.config.surroundings
        host.launcher.early = self.config.early
        return host

    # -- called from any thread ----------------------------------------------------
    def submit(self, requests: Sequence[Request]) -> None:
        """Serve jobs. Returns at once.

        Raises
        ------
        PoolEnded
            The pool has been closed, or has failed; the message says why. So do ``submit_items``
            and ``lease``.
        """

        def act(now_s: float) -> None:
            for request in requests:
                self._loop.take(ev.JobReady(request), now_s)

        self._post_work(act)

    def foresee(self, forecast: Forecast, run: str = "") -> None:
        """Say which jobs are still to come; ``run``: of which of several. Returns at once."""
        event = ev.JobsForeseen(forecast, run)
        self._inbox.post_if_open(lambda now_s: self._loop.take(event, now_s))

    def handing_over(self, *, goes_on: bool) -> None:
        """Say that many jobs begin to be submitted, or that all of them were. Returns at once."""
        event = ev.HandingOver(goes_on)
        self._inbox.post_if_open(lambda now_s: self._loop.take(event, now_s))

    def run_left(self, run: str) -> None:
        """Say that none of a run's jobs is in flight, or will come. Returns at once."""
        self._inbox.post_if_open(lambda now_s: self._loop.take(ev.RunLeft(run), now_s))

    def renew_files(self, tool: ToolRef) -> None:
        """Have others take the place of the processes that read and write for a tool."""
        self._inbox.post_if_open(lambda now_s: self._loop.take(ev.FilesRenewed(tool), now_s))

    def submit_items(
        self, request: Request, info: ToolInfo, items: ItemsRead, to_come: int = 0
    ) -> None:
        """Serve items that are in memory; the report's details have the results.

        Parameters
        ----------
        to_come
            How many more there are: ``wants_items`` of the callbacks asks for the next of them.
        """
        event = ev.CallReady(request, info, items, to_come)
        self._post_work(lambda now_s: self._loop.take(event, now_s))

    def more_items(self, items: ItemsRead) -> None:
        """Serve the next items of a call, which were asked for."""
        event = ev.CallContinued(items)
        self._post_work(lambda now_s: self._loop.take(event, now_s))

    def tell_trouble(self, kind: str, why: str) -> None:
        """Say what a caller has met in the store that is not as it should be."""
        event = ev.StoreTroubleReported(kind, why)
        self._inbox.post_if_open(lambda now_s: self._loop.take(event, now_s))

    def _post_work(self, act: Callable[[float], None]) -> None:
        if self._refusal and self._cause is None:
            raise PoolEnded(self._refusal)
        self._inbox.post(act)

    #: Whether it takes a call's items bit by bit.
    takes_pieces: ClassVar[bool] = True

    @property
    def places(self) -> list[str]:
        """Directories that processes in containers must see beside those of the workflow."""
        return []

    @property
    def spools(self) -> list[str]:
        """The directories that items of calls are to be put into."""
        return self.paths.spools

    def take_news(self, news: Sequence[News]) -> None:
        """Write down what another process, which serves jobs for this run, says of them."""
        self._inbox.post_if_open(lambda now_s: self._loop.elsewhere.take_news(news, now_s))

    def forget_elsewhere(self, job_ids: Sequence[int]) -> None:
        """Leave jobs out of the progress of others' models: this pool does them after all."""
        self._inbox.post_if_open(lambda now_s: self._loop.elsewhere.models.forget(job_ids))

    def take_back(self, job_id: int) -> None:
        """Say that a call's results have been read."""
        self._inbox.post_if_open(lambda now_s: self._loop.take(ev.ResultsRead(job_id), now_s))

    def unwanted(self, job_id: int, reason: str | None) -> None:
        """Fail a job that nobody wants any longer; its report follows, if it has not ended.

        Without a reason it is withdrawn, but only if it has not begun.
        """
        event = ev.JobUnwanted(job_id, reason)
        self._inbox.post_if_open(lambda now_s: self._loop.take(event, now_s))

    def retire(self, tool: ToolRef) -> None:
        """Say that no more jobs of a tool will come: its processes end, and it is forgotten."""
        self._inbox.post_if_open(lambda now_s: self._loop.take(ev.ToolRetired(tool), now_s))

    def lease(self, request: LeaseRequest) -> None:
        """Ask for devices for a job that runs by itself. Returns at once."""
        self._post_work(lambda now_s: self._loop.take(ev.LeaseWanted(request), now_s))

    def lease_done(self, job_id: int, error: str | None = None) -> None:
        """Give a lease back; ``error`` says why its job has failed, if it has."""
        self._inbox.post_if_open(lambda now_s: self._loop.lease_done(job_id, now_s, error))

    def wind_down(self) -> None:
        """Start nothing new; finish what has begun. Returns at once."""
        self._inbox.post_if_open(lambda now_s: self._loop.take(ev.WindDownWanted(), now_s))

    def cancel(self, reason: str) -> None:
        """Fail every job that is served or waits for devices, end every worker, take no more."""
        self._refusal = f"the run was {reason}"
        self._inbox.post_if_open(lambda now_s: self._loop.cancel(reason, now_s))

    def watch_process(self, group: int, mark: str = "") -> None:
        """Have a process group killed should this process be; see :meth:`.Host.watch`."""
        self._inbox.post_if_open(lambda now_s: self._host.watch(group, mark))

    def forget_process(self, group: int) -> None:
        """A watched process group has ended."""
        self._inbox.post_if_open(lambda now_s: self._host.forget(group))

    @property
    def is_cut_short(self) -> bool:
        """Whether jobs fail because the pool was cancelled, or has failed; from any thread."""
        return bool(self._refusal) or self._cause is not None

    def fail(self, error: BaseException) -> None:
        """End the run: something that it cannot do without has failed. Returns at once."""
        with self._guard:
            if self._cause is not None:
                return
            self._cause = error
        self._inbox.close(f"the pool has failed: {printable(error) or type(error).__name__}")
        self._closing.set()
        self._host.wake()

    def begin_close(self) -> None:
        """Have every worker end, and wait for none; :meth:`close` does that."""
        if os.getpid() == self._pid and not self._closing.is_set():
            # What was posted before, such as the end of a lease, is still noted.
            self._inbox.ask(lambda: None)
            self._inbox.close("the pool is closed")
            self._closing.set()
            self._host.wake()

    def close(self) -> dict[str, object]:
        """End every worker, write the summary, say the closing line; return the summary.

        In a forked child nothing happens: all of it is the parent's.
        """
        if os.getpid() != self._pid:
            return {}
        if not self._closed:
            self._closed = True
            self.begin_close()
            self._thread.join()
            # Not before: jobs that were leased devices may have gone on after the pool had failed.
            self._sharing.close()
            self._reporter.close(FAREWELL_S)
        return self.summary()

    def summary(self) -> dict[str, object]:
        """Return the figures of the run so far, as ``summary.json`` has them."""
        return self._inbox.ask(lambda: self._loop.summary(time.monotonic()))

    def load_times(self) -> dict[ToolRef, float]:
        """Return what the slowest model of each tool takes to load, in seconds."""
        return self._inbox.ask(lambda: load_times(self._loop.scheduler.dispatch.models.values()))

    def allocation_map(self) -> dict[str, list[str]]:
        """Return who is on each device, by the device's name."""
        return self._inbox.ask(self._loop.allocator.allocation_map)

    # -- the loop's thread -------------------------------------------------------------
    def _run(self) -> None:
        loop = self._loop
        try:
            while not self._closing.is_set():
                loop.wait(time.monotonic())
                if (pause_s := loop.pause_s()) > 0.0:
                    time.sleep(pause_s)
                loop.step(time.monotonic())
        except BaseException as error:
            self.fail(error)
        try:
            self._end()
        finally:
            self._inbox.over()

    def _end(self) -> None:
        """Come to an end, whatever else fails on the way there."""
        loop = self._loop
        if self._cause is not None:
            self._attempt(functools.partial(loop.give_up, self._cause, time.monotonic()))
        self._attempt(loop.end_workers)
        self._attempt(loop.report_rest)
        self._attempt(lambda: loop.write_summary(time.monotonic()))
        self._attempt(loop.close_records)
        self._attempt(loop.remove_files)
        if self._cause is not None:
            self._reporter.put(functools.partial(self._callbacks.broken, self._cause))

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:
            self.fail(error)


def open_store(config: PoolConfig, lines: UserLines) -> ResultStore | None:
    """Open the directory of results kept across runs; None: there is none, or it is refused."""
    if config.cache is None:
        return None
    bound_bytes, shared = bound_from(os.environ), is_shared(os.environ)
    try:
        return ResultStore(config.cache, bound_bytes, shared=shared)
    except StoreUnusable as error:
        lines.warn(f"gpupool: results are neither kept nor reused: {error}")
        return None
