"""The pool at work: one thread that turns happenings into events and effects into action.

::

    submit, lease ─► inbox ─┐                      ┌─► host: processes, frames
    host: frames, deaths ───┼─► scheduler (pure) ──┼─► event log, progress, summary
    the clock ──────────────┘                      └─► reports, on a thread of their own

Reports have their own thread because whoever takes them may be slow: Snakemake holds its
lock while it looks after finished jobs, and a device must not wait for that.

Whatever fails, on whichever thread, goes through one door, :meth:`Pool.fail`: the first cause
is kept, workers end, every job in flight is reported as failed, and ``broken`` is told why.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.process_environment import own_environment
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.errors import ConfigError, PoolEnded, ProtocolError, StoreUnusable
from snakemake_executor_gpupool.hosts.base import (
    DevicesExpected,
    DevicesJoined,
    DevicesLeft,
    FrameArrived,
    Host,
    HostEvent,
    WorkerGone,
)
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.events import EventLog, write_summary
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.records.profile import Profile, profile_path
from snakemake_executor_gpupool.records.progress import Progress, closing_line
from snakemake_executor_gpupool.records.result_store import ResultStore, bound_from, is_shared
from snakemake_executor_gpupool.runtime.carry_out import Actions, Callbacks, holder_of
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.inbox import Inbox
from snakemake_executor_gpupool.runtime.limits import allow_open_files
from snakemake_executor_gpupool.runtime.reporter import Reporter
from snakemake_executor_gpupool.runtime.sharing import Sharing
from snakemake_executor_gpupool.runtime.summary import state_of, summarize
from snakemake_executor_gpupool.scheduling.demand import demand_of
from snakemake_executor_gpupool.scheduling.effects import Note, Report
from snakemake_executor_gpupool.scheduling.frame_gate import FrameGate
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.requests import Request
from snakemake_executor_gpupool.wire.spool import Discards, remove_file

#: How long the last reports may take once everything has ended.
FAREWELL_S = 10.0

#: Errors that say nothing of gpupool: no room, no more files or processes, no memory.
OUT_OF = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.ENOMEM,
)


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
        self._reporter = Reporter(self.fail)
        if machines is None:
            self.paths = RunPaths(config.run_root, temporary=config.is_temporary)
        else:
            self.paths, self._host = machines
        with contextlib.ExitStack() as undo:
            undo.callback(self.paths.remove_staged)
            undo.callback(self.paths.remove_spools)
            self._open(config, machines is None)
            undo.pop_all()
        self._closing = threading.Event()
        self._closed = False
        self._refusal = ""
        self._pid = os.getpid()
        self._guard = threading.Lock()
        #: Why the run ends before its time.
        self._cause: BaseException | None = None
        self._started_s = time.monotonic()
        self._progress = Progress(self._started_s)
        self._last_tick_s = self._started_s
        self._loop = threading.Thread(target=self._run, name="gpupool", daemon=True)
        self._note_start()
        if self._profile.warning:
            self._warn(f"gpupool: {self._profile.warning}")
        self._loop.start()
        self._reporter.start()

    def _open(self, config: PoolConfig, on_this_machine: bool) -> None:
        """Open all that the pool needs: first what may be refused, last what starts processes."""
        warning = allow_open_files(len(config.devices) + len(config.expected))
        if warning:
            self._warn(f"gpupool: {warning}")
        if on_this_machine:
            self.paths.create()
        self._store = self._open_store()
        settings = config.device_settings
        self._allocator = Allocator(
            config.devices,
            allow_multiple_per_device=settings.allow_multiple_per_device,
            offload_strategy=settings.offload_strategy,
        )
        self._allocator.expect(config.expected, 0.0)
        self._profile = Profile(profile_path(os.environ))
        self._scheduler = Scheduler(
            self._allocator,
            config.dispatch,
            config.file_workers,
            self._profile.__getitem__,
        )
        env = own_environment() | ({LEASE_VARIABLE: config.lease} if config.lease else {})
        self._sharing = Sharing(env, self._allocator, self._pids, self._say)
        self._sharing.open(config.devices)
        if on_this_machine:
            self._host = LocalHost(self.paths, config.worker_threads)
        # A network file system takes its time, which the run loop has not.
        self._discards = Discards(self._remove_later if self.paths.is_shared else remove_file)
        self._gate = FrameGate(self._scheduler, self.paths.spools, self._host.moved_away)
        if isinstance(self._host, LocalHost):
            self._host.lend = self._sharing.lend
        self._scheduler.dispatch.lifecycle.claim = self._sharing.claim
        self._scheduler.dispatch.lifecycle.time_left_s = self._host.time_left_s
        self._events = EventLog(self.paths.events)
        self._has_lost_events = False
        self._inbox = Inbox(self._host.wake)
        self._actions = Actions(
            self._host,
            self._events,
            self.store,
            self.paths.staged,
            self.paths.worker_log,
            self._callbacks,
            self._reporter.put,
        )
        self._actions.lends(self._sharing.lend, self._sharing.take_back)

    def _pids(self) -> list[int]:
        return self._host.pids()

    def _open_store(self) -> ResultStore | None:
        if self.config.cache is None:
            return None
        bound_bytes, shared = bound_from(os.environ), is_shared(os.environ)
        try:
            return ResultStore(self.config.cache, bound_bytes, shared=shared)
        except StoreUnusable as error:
            self._warn(f"gpupool: results are neither kept nor reused: {error}")
            return None

    def _note_start(self) -> None:
        names = [device.name for device in self.config.devices]
        simulated = any(device.simulated for device in self.config.devices)
        self._events.write("run_started", {"devices": names, "simulated": simulated})

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
                self._scheduler.submit(request, now_s)

        self._post_work(act)

    def submit_items(
        self, request: Request, info: dict[str, Any], meta: dict[str, Any], payloads: list[Blob]
    ) -> None:
        """Serve items that are in memory; the report's details have the results."""

        def act(now_s: float) -> None:
            self._scheduler.submit_items(request, info, meta, payloads, now_s)

        self._post_work(act)

    @property
    def store(self) -> StoreAddress | None:
        """Where results are kept across runs; None: nowhere."""
        return self._store.address if self._store else None

    def tell_trouble(self, kind: str, why: str) -> None:
        """Say what a caller has met in the store that is not as it should be."""
        self._inbox.post_if_open(lambda now_s: self._scheduler.store_trouble("", kind, why))

    def _post_work(self, act: Callable[[float], None]) -> None:
        if self._refusal and self._cause is None:
            raise PoolEnded(self._refusal)
        self._inbox.post(act)

    def take_back(self, job_id: int) -> None:
        """Say that a call's results have been read."""
        self._inbox.post_if_open(lambda now_s: self._scheduler.jobs.take_back(job_id))

    def lease(self, request: LeaseRequest) -> None:
        """Ask for devices for a job that runs by itself. Returns at once."""
        self._post_work(lambda now_s: self._scheduler.lease(request, now_s))

    def lease_done(self, job_id: int) -> None:
        """Give a lease back."""

        def act(now_s: float) -> None:
            self._sharing.take_back(holder_of(job_id))
            self._scheduler.lease_done(job_id, now_s)
            self._look_around(now_s)

        self._inbox.post_if_open(act)

    def wind_down(self) -> None:
        """Start nothing new; finish what has begun. Returns at once."""
        self._inbox.post_if_open(self._scheduler.wind_down)

    def cancel(self, reason: str) -> None:
        """Fail every job that is served or waits for devices, end every worker, take no more."""
        self._refusal = f"the run was {reason}"

        def act(now_s: float) -> None:
            self._scheduler.cancel(reason)
            self._host.stop_all(force=True)

        self._inbox.post_if_open(act)

    def watch_process(self, group: int) -> None:
        """Have a process group killed should this process be."""
        self._inbox.post_if_open(lambda now_s: self._host.watch(group))

    def forget_process(self, group: int) -> None:
        """A watched process group has ended."""
        self._inbox.post_if_open(lambda now_s: self._host.forget(group))

    def fail(self, error: BaseException) -> None:
        """End the run: something that it cannot do without has failed. Returns at once."""
        with self._guard:
            if self._cause is not None:
                return
            self._cause = error
        self._inbox.close(f"the pool has failed: {printable(error) or type(error).__name__}")
        self._closing.set()
        self._host.wake()

    def close(self) -> dict[str, Any]:
        """End every worker, write the summary, say the closing line; return the summary.

        In a forked child nothing happens: all of it is the parent's.
        """
        if os.getpid() != self._pid:
            return {}
        if not self._closed:
            self._closed = True
            self._inbox.close("the pool is closed")
            self._closing.set()
            self._host.wake()
            self._loop.join()
            # Not before: jobs that were leased devices may have gone on after the pool had failed.
            self._sharing.close()
            self._reporter.close(FAREWELL_S)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run so far, as ``summary.json`` has them."""
        return self._inbox.ask(self._summary)

    def allocation_map(self) -> dict[str, list[str]]:
        """Return who is on each device, by the device's name."""
        return self._inbox.ask(self._allocator.allocation_map)

    # -- the loop --------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._turn()
        except BaseException as error:
            self.fail(error)
        try:
            self._end()
        finally:
            self._inbox.over()

    def _turn(self) -> None:
        now_s = time.monotonic()
        for happening in self._host.poll(self._scheduler.next_wake_s(now_s) - now_s):
            self._happened(happening, time.monotonic())
        for act in self._inbox.take():
            act(time.monotonic())
        self._tick(time.monotonic())
        self._act()

    def _tick(self, now_s: float) -> None:
        if now_s >= self._scheduler.next_wake_s(self._last_tick_s):
            self._last_tick_s = now_s
            self._scheduler.tick(now_s)
            self._look_around(now_s)
            if self.config.expected:
                self._host.wants(demand_of(self._scheduler.dispatch, self._allocator, now_s))
            if self._progress.is_due(now_s):
                states = map(state_of, self._scheduler.dispatch.models.values())
                for line in self._progress.lines(states, now_s):
                    self._say(line)

    def _look_around(self, now_s: float) -> None:
        self._sharing.look_around(self._scheduler, now_s)

    def _happened(self, happening: HostEvent, now_s: float) -> None:
        if isinstance(happening, FrameArrived):
            if self._host.believes(happening.worker_id):
                self._frame(happening.worker_id, happening.frame, now_s)
        elif isinstance(happening, DevicesJoined):
            names = [device.name for device in happening.devices]
            self._events.write("devices_joined", {"devices": names})
            self._scheduler.devices_joined(happening.devices, now_s)
        elif isinstance(happening, DevicesLeft):
            fields = {"devices": list(happening.names), "why": happening.why}
            self._events.write("devices_left", fields)
            self._scheduler.devices_left(happening.names, now_s)
        elif isinstance(happening, DevicesExpected):
            self._scheduler.devices_expected(happening.devices, now_s)
        else:
            self._note_exit(happening)
            self._sharing.take_back(happening.worker_id)
            self._scheduler.died(
                happening.worker_id,
                happening.reason,
                now_s,
                expected=happening.expected,
                blameless=happening.blameless,
            )
            self._look_around(now_s)

    def _note_exit(self, end: WorkerGone) -> None:
        first_line = end.reason.partition("\n")[0]
        fields = {"worker": end.worker_id, "reason": first_line, "expected": end.expected}
        self._events.write("worker_ended", fields)

    def _frame(self, worker_id: str, frame: Frame, now_s: float) -> None:
        """Turn a frame into an event. One that makes no sense is its sender's end."""
        try:
            self._gate.take(worker_id, frame, now_s)
        except ProtocolError as error:
            self._host.reject(worker_id, str(error))

    # -- effects -----------------------------------------------------------------------
    def _act(self) -> None:
        for effect in self._scheduler.outbox.take():
            self._actions.carry_out(effect)
        self._host.flush()  # workers go on while the rest is done
        discarded, self._scheduler.ledger.discarded = self._scheduler.ledger.discarded, []
        for blob in discarded:
            self._discards.discard(blob)
        self._flush_events()

    def _remove_later(self, path: str) -> None:
        self._reporter.put(lambda: remove_file(path))

    def _flush_events(self) -> None:
        self._events.flush()
        if self._events.error is not None and not self._has_lost_events:
            self._has_lost_events = True
            why = self._events.error.strerror
            self._say(f"gpupool: {self.paths.events} is incomplete, the run goes on: {why}")

    def _say(self, line: str) -> None:
        text = printable(line)
        self._reporter.put(lambda: self._callbacks.log(text))

    def _warn(self, line: str) -> None:
        text = printable(line)
        self._reporter.put(lambda: self._callbacks.tell_warning(text))

    # -- the end ---------------------------------------------------------------------------
    def _end(self) -> None:
        """Come to an end, whatever else fails on the way there."""
        self._attempt(self._give_up)
        self._attempt(self._end_workers)
        self._attempt(self._report_rest)
        self._attempt(self._write_summary)
        self._attempt(self._events.close)
        self._attempt(self._remove_files)
        if self._cause is not None:
            error = self._cause
            self._reporter.put(lambda: self._callbacks.broken(error))

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:
            self.fail(error)

    def _give_up(self) -> None:
        """After a failure: report every job in flight, as far as there is still order."""
        if self._cause is None:
            return
        fields = {"error": repr(self._cause), "traceback": story_of(self._cause)}
        self._events.write("pool_failed", fields)
        self._host.stop_all(force=True)
        self._scheduler.cancel(what_broke(self._cause))

    def _end_workers(self) -> None:
        for worker in self._host.close(on_end=self._note_exit):
            self._say(f"gpupool: worker {worker} cannot be ended; its device may stay occupied")

    def _report_rest(self) -> None:
        """Carry out what has still to be told; there is nobody left to do anything else."""
        for effect in self._scheduler.outbox.take():
            if isinstance(effect, (Report, Note)):
                self._actions.carry_out(effect)
        self._flush_events()

    def _write_summary(self) -> None:
        summary = self._summary()
        self._events.write("run_ended", {"wall_s": summary["wall_s"]})
        try:
            write_summary(self.paths.summary, summary)
        except OSError as error:
            self._say(f"gpupool: {self.paths.summary} cannot be written: {error.strerror}")
        for model in self._scheduler.dispatch.models.values():
            self._profile.note(model.profile_key, model.figures())
        self._profile.save()
        if summary["jobs_served"] or summary["jobs_failed"]:
            self._say(closing_line(summary))

    def _remove_files(self) -> None:
        self.paths.remove_spools()
        self.paths.remove_staged()
        if self._store is not None:
            self._store.clean_up()

    def _summary(self) -> dict[str, Any]:
        wall_s = time.monotonic() - self._started_s
        return summarize(self._scheduler, self._allocator, self._host.carried, wall_s)


def what_broke(error: BaseException) -> str:
    """Say what ends a run before its time: a mistake in the set-up plainly, else a bug."""
    if isinstance(error, ConfigError):
        return printable(error)
    if isinstance(error, OSError) and error.errno in OUT_OF:
        return printable(f"the machine has run out of something that every run needs: {error}")
    return printable(f"gpupool itself failed, which is a bug: {error!r}")


def story_of(error: BaseException) -> str:
    """Return an error's traceback."""
    return "".join(traceback.format_exception(error))[-8000:]
