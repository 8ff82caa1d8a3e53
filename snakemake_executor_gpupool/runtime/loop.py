"""One turn of the pool's work: what has happened becomes events, effects become action.

The loop has neither a thread nor a clock: it is stepped with the time, over a host that it is
given. :class:`~snakemake_executor_gpupool.runtime.pool.Pool` steps it on a thread of its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.devices.probe import energy_j as read_energy_j
from snakemake_executor_gpupool.hosts.base import (
    DevicesExpected,
    DevicesJoined,
    DevicesLeft,
    FrameArrived,
    Host,
    HostEvent,
    WorkerForked,
    WorkerGone,
)
from snakemake_executor_gpupool.hosts.staged_leftovers import remove_staged_in
from snakemake_executor_gpupool.records.events import EventLog, write_summary
from snakemake_executor_gpupool.records.housekeeping import remove_old_runs
from snakemake_executor_gpupool.records.jobs_table import JobsTable
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.records.profile import Profile
from snakemake_executor_gpupool.records.progress import Progress, closing_line
from snakemake_executor_gpupool.records.provenance.recorder import ProvenanceRecorder
from snakemake_executor_gpupool.records.provenance.store import ProvenanceStore
from snakemake_executor_gpupool.records.result_store import ResultStore
from snakemake_executor_gpupool.runtime.broken import story_of, what_broke
from snakemake_executor_gpupool.runtime.carry_out import Actions, Callbacks, UserLines, holder_of
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.elsewhere import Elsewhere
from snakemake_executor_gpupool.runtime.energy import EnergyMeter
from snakemake_executor_gpupool.runtime.inbox import Inbox
from snakemake_executor_gpupool.runtime.recording import Recorder
from snakemake_executor_gpupool.runtime.sharing import Sharing
from snakemake_executor_gpupool.runtime.start import start_of
from snakemake_executor_gpupool.runtime.summary import state_of, summarize
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core
from snakemake_executor_gpupool.scheduling.demand import demand_of
from snakemake_executor_gpupool.scheduling.effects import (
    ClaimDevices,
    DiscardBlobs,
    Effect,
    Fact,
    Note,
    RejectWorker,
    Report,
    RunBatch,
    RunMerged,
)
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.spool import Discards, remove_file

#: Effects of which something is done before the end of the turn.
_AT_ONCE = frozenset({ClaimDevices, RejectWorker, RunBatch, RunMerged})


class RunLoop:
    """Owns decisions and host; used by one thread at a time, but for what it is constructed with.

    Parameters
    ----------
    config
        Devices, limits, directories.
    paths
        The run's files.
    host
        Where workers run.
    core, recorder
        Decides, and records inputs and decisions unless the recording is None.
    sharing
        What the run holds against others.
    inbox
        What other threads want done.
    callbacks, put
        Whom to report to, and what has the reporting thread do so.
    store
        Results kept across runs; None: there are none.
    profile
        What was measured in earlier runs.
    now_s
        When the run starts.
    """

    def __init__(
        self,
        config: PoolConfig,
        paths: RunPaths,
        host: Host,
        *,
        core: Core,
        recorder: Recorder | None = None,
        sharing: Sharing,
        inbox: Inbox,
        callbacks: Callbacks,
        put: Callable[[Callable[[], None]], None],
        store: ResultStore | None,
        profile: Profile,
        now_s: float,
    ) -> None:
        self.paths, self.host, self.sharing = paths, host, sharing
        self._core, self._recorder = core, recorder
        self.scheduler, self.allocator = core.scheduler, core.allocator
        #: Decided on, and still to be carried out.
        self._effects: deque[Effect] = deque()
        self._expects_devices = bool(config.expected)
        self._is_temporary, self._keep = config.is_temporary, config.keep
        self._inbox = inbox
        self.lines = UserLines(callbacks, put)
        self._store, self._profile = store, profile
        #: Where outputs were to be of jobs whose processes may have been killed.
        self._unwritten: set[Path] = set()
        # A network file system takes its time, which the run loop has not.
        remove = remove_file
        if paths.is_shared:
            remove = lambda path: put(lambda: remove_file(path))  # noqa: E731
        self._discards = Discards(remove)
        self._provenance = None
        if config.has_provenance and not config.is_temporary:
            kept = ProvenanceStore(paths.provenance)
            self._provenance = ProvenanceRecorder(kept, paths.run_id, __version__)
        # Not before something happens: Snakemake opens a pool, and ends, if nothing is to be done.
        table = JobsTable(paths.jobs_table)
        hearers = self._provenance, config.listener
        self.events = EventLog(
            paths.events, table, paths.point_latest, config.max_events_bytes, *hearers
        )
        #: Jobs that another process serves for this run.
        self.elsewhere = Elsewhere(self.events, self._provenance)
        self._has_lost_events = self._has_lost_provenance = False
        self._actions = Actions(
            host,
            self.events,
            store.address if store else None,
            paths.staged,
            paths.worker_log,
            callbacks,
            put,
            *hearers,
        )
        self._actions.lends(sharing.lend, sharing.take_back)
        self._energy = EnergyMeter(config.devices, read_energy_j)
        self.events.write("run_started", start_of(config))
        self._started_s = self._last_tick_s = now_s
        self._progress = Progress(now_s)
        #: What happened while the loop waited; None: it has not.
        self._polled: list[HostEvent] | None = None
        self._is_gathering = False

    # -- a turn ------------------------------------------------------------------------
    def wait(self, now_s: float) -> None:
        """Wait until something happens or is due."""
        self._polled = self.host.poll(self.scheduler.next_wake_s(now_s) - now_s)

    def pause_s(self) -> float:
        """Return for how long more may happen before the next step, at no cost to anybody."""
        polled = self._polled or []
        senders = [event.worker_id for event in polled if isinstance(event, FrameArrived)]
        is_all = len(senders) == len(polled)
        pause_s = self.scheduler.files.pause_s(senders) if is_all else 0.0
        self._is_gathering = pause_s > 0.0
        return pause_s

    def step(self, now_s: float) -> None:
        """Take what has happened and what is wanted and due, decide, act. Never waits."""
        events, self._polled = self._polled, None
        if events is None or self._is_gathering:
            events = [*(events or ()), *self.host.poll(0.0)]
        for event in events:
            self._happened(event, now_s)
        for act in self._inbox.take():
            act(now_s)
        self._tick(now_s)
        self._act()

    def _tick(self, now_s: float) -> None:
        if now_s >= self.scheduler.next_wake_s(self._last_tick_s):
            self._last_tick_s = now_s
            self.take(ev.TimePassed(), now_s)
            self.look_around(now_s)
            if self._expects_devices:
                self.host.wants(demand_of(self.scheduler.dispatch, self.allocator, now_s))
            if self._progress.is_due(now_s):
                models = self.scheduler.dispatch.models.values()
                states = [state_of(model, now_s) for model in models]
                states += self.elsewhere.models.states(now_s)
                for line in self._progress.lines(states, now_s):
                    self.lines.say(line)

    def look_around(self, now_s: float) -> None:
        """Release devices that no worker of this run is on; see what other runs release."""
        for event in self.sharing.look_around():
            self.take(event, now_s)

    def _happened(self, event: HostEvent, now_s: float) -> None:
        match event:
            case FrameArrived():
                if self.host.believes(event.worker_id):
                    self._frame(event.worker_id, event.frame, now_s)
            case DevicesJoined():
                names = [device.name for device in event.devices]
                self.events.write("devices_joined", {"devices": names})
                if self._provenance is not None:
                    self._provenance.joined(event.devices)
                ends_at_s = None if event.ends_at_s == math.inf else event.ends_at_s
                self.take(ev.DevicesAdded(event.devices, ends_at_s), now_s)
            case DevicesLeft():
                fields = {"devices": list(event.names), "why": event.why}
                self.events.write("devices_left", fields)
                self.take(ev.DevicesRemoved(event.names, event.at_once), now_s)
            case DevicesExpected():
                self.take(ev.DevicesForeseen(event.devices), now_s)
            case WorkerForked():
                forked = {"worker": event.worker_id, "pid": event.pid}
                self._effects.append(Note("worker_forked", forked))
            case WorkerGone():
                self._worker_gone(event, now_s)

    def _worker_gone(self, end: WorkerGone, now_s: float) -> None:
        self._note_exit(end)
        if not end.expected:
            self._note_unwritten()
        self._energy.gone(end.worker_id, now_s)
        self.sharing.take_back(end.worker_id)
        ended = ev.WorkerEnded(end.worker_id, end.reason, end.expected, end.blameless)
        self.take(ended, now_s)
        self.look_around(now_s)

    def _note_exit(self, end: WorkerGone) -> None:
        first_line = end.reason.partition("\n")[0]
        fields = {"worker": end.worker_id, "reason": first_line, "expected": end.expected}
        fields |= {} if end.exit_code is None else {"exit": end.exit_code}
        self._effects.append(Note("worker_ended", fields))

    def _frame(self, worker_id: str, frame: Frame, now_s: float) -> None:
        energy_j = None
        if frame.type in ("done", "stage"):
            is_over = frame.type == "done" or frame.meta.get("last") is True
            energy_j = self._energy.answered(worker_id, now_s, is_over=is_over)
        self.take(ev.FrameReceived(worker_id, frame.meta, frame.blobs, energy_j), now_s)

    def take(self, event: ev.Event, now_s: float) -> None:
        """Have an event decided on. What follows is carried out at the end of the turn.

        But for what later events depend on: whether this run owns devices, and which frames count.
        """
        events = deque([event])
        while events:
            for effect in self._decide(events.popleft(), now_s):
                if type(effect) not in _AT_ONCE:
                    self._effects.append(effect)
                elif isinstance(effect, ClaimDevices):
                    events.append(self._claim(effect))
                elif isinstance(effect, RejectWorker):
                    self.host.reject(effect.worker_id, effect.why)
                elif isinstance(effect, (RunBatch, RunMerged)):
                    self._effects.append(effect)
                    devices = self.scheduler.dispatch.worker(effect.worker_id).devices
                    self._energy.sent(effect.worker_id, devices, now_s)

    def _decide(self, event: ev.Event, now_s: float) -> list[Effect]:
        if self._recorder is None:
            return self._core.take(event, now_s)
        try:
            effects = self._core.take(event, now_s)
        except BaseException as error:
            self._recorder.failed(event, now_s, error)
            raise
        self._recorder.decided(event, now_s, effects)
        return effects

    def _claim(self, effect: ClaimDevices) -> ev.Event:
        """Take devices against other processes; return whether that went well."""
        refusal = self.sharing.claim(effect.devices, asks=not effect.is_ahead)
        if refusal is None:
            return ev.DevicesClaimed(effect.holder_id)
        return ev.DevicesRefused(
            effect.holder_id, refusal.device.name, refusal.why, lost=refusal.lost
        )

    def _act(self) -> None:
        discarded: list[Blob] = []
        while self._effects:
            effect = self._effects.popleft()
            if isinstance(effect, DiscardBlobs):
                discarded += effect.blobs
            else:
                self._actions.carry_out(effect)
        self.host.flush()  # workers go on while the rest is done
        for blob in discarded:
            self._discards.discard(blob)
        self._flush_events()

    def _flush_events(self) -> None:
        self.events.flush()
        if self.events.error is not None and not self._has_lost_events:
            self._has_lost_events = True
            why = self.events.error.strerror
            self.lines.say(f"gpupool: {self.paths.events} is incomplete, the run goes on: {why}")
        kept = self._provenance.store if self._provenance is not None else None
        if kept is not None and kept.error is not None and not self._has_lost_provenance:
            self._has_lost_provenance = True
            why = kept.error.strerror
            self.lines.warn(f"gpupool: {kept.path} is incomplete, the run goes on: {why}")
        if self._recorder is not None:
            self._recorder.flush()
            if self._recorder.error is not None:
                why = printable(self._recorder.error)
                path, self._recorder = self._recorder.path, None
                self.lines.say(f"gpupool: {path} ends here, the run goes on: {why}")

    # -- what other threads want -------------------------------------------------------
    def lease_done(self, job_id: int, now_s: float, error: str | None = None) -> None:
        """Take back what a job was leased; ``error`` says why it has failed, if it has."""
        self.sharing.take_back(holder_of(job_id))
        self.take(ev.LeaseEnded(job_id, error), now_s)
        self.look_around(now_s)

    def cancel(self, reason: str, now_s: float) -> None:
        """Fail every job, end every worker."""
        self._note_unwritten()
        self.take(ev.Cancelled(reason), now_s)
        self.host.stop_all(force=True)

    def summary(self, now_s: float) -> dict[str, object]:
        """Return the figures of the run so far, as ``summary.json`` has them."""
        wall_s = now_s - self._started_s
        summary = summarize(self.scheduler, self.allocator, self.host.carried, wall_s)
        return self.elsewhere.added_to(summary)

    # -- the end, in this order --------------------------------------------------------
    def give_up(self, cause: BaseException, now_s: float) -> None:
        """After a failure: report every job in flight, as far as the state still allows."""
        fields = {"error": repr(cause), "traceback": story_of(cause)}
        self.events.write("pool_failed", fields)
        self.host.stop_all(force=True)
        self._note_unwritten()
        self.take(ev.Cancelled(what_broke(cause)), now_s)

    def _note_unwritten(self) -> None:
        jobs = self.scheduler.jobs
        requests = [jobs[job_id].request for job_id in jobs.ids()]
        paths = (Path(r.cwd, path) for r in requests for path in r.facts.all_outputs)
        self._unwritten.update(path.parent for path in paths)

    def end_workers(self) -> None:
        """Wait for every worker's end, for as long as the host is patient."""
        for worker in self.host.close(on_end=self._note_exit):
            self.lines.say(
                f"gpupool: worker {worker} cannot be ended; its device may stay occupied"
            )

    def report_rest(self) -> None:
        """Carry out the reports and notes that are left; nothing else can be done any more."""
        self._effects += self.scheduler.outbox.take()  # of an event that failed, if one did
        while self._effects:
            effect = self._effects.popleft()
            if isinstance(effect, (Report, Note, Fact)):
                self._actions.carry_out(effect)
        self._flush_events()

    def write_summary(self, now_s: float) -> None:
        """Write the run's figures and its profile, and say the closing line."""
        self.scheduler.dispatch.book_lost(now_s)
        summary = self.summary(now_s)
        energy_j = self._energy.totals_j()
        energy = {"energy_j": energy_j} if energy_j else {}
        self.events.write("run_ended", {"wall_s": summary["wall_s"], **energy})
        try:
            if not self._is_temporary:
                write_summary(self.paths.summary, summary)
        except OSError as error:
            self.lines.say(f"gpupool: {self.paths.summary} cannot be written: {error.strerror}")
        models = self.scheduler.dispatch.models
        current = {model.profile_key: model.figures() for model in models.values()}
        for profile_key, figures in {**models.measured, **current}.items():
            self._profile.note(profile_key, figures)
        self._profile.save()
        if summary["jobs_served"] or summary["jobs_failed"]:
            self.lines.say(closing_line(summary))

    def close_records(self) -> None:
        """Close the files that are written line by line."""
        self.events.close()
        if self._recorder is not None:
            self._recorder.close()

    def remove_files(self) -> None:
        """Remove what only this run needed, and runs that are too old to be kept."""
        if not self._is_temporary:
            remove_old_runs(self.paths.root, self.paths.directory, self._keep)
        self.paths.remove_spools()
        self.paths.remove_staged()
        remove_staged_in(self._unwritten)
        if self._store is not None:
            self._store.clean_up()
