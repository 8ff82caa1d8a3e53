"""Carries out what the scheduler decided: frames to workers, lines to the log, word to callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import tool_device
from snakemake_executor_gpupool.devices.lent_locks import lent_by, new_token
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE, visible_env
from snakemake_executor_gpupool.hosts.base import Host
from snakemake_executor_gpupool.records.events import EventLog, Listener
from snakemake_executor_gpupool.records.provenance.recorder import ProvenanceRecorder
from snakemake_executor_gpupool.runtime.keeping import Keeping
from snakemake_executor_gpupool.runtime.merged_frames import chain_frame, step_frame
from snakemake_executor_gpupool.scheduling.effects import (
    CheckWorker,
    DescribeModel,
    Effect,
    Fact,
    GrantLease,
    LoadModel,
    MoveModel,
    Note,
    PublishJob,
    ReadJob,
    Remark,
    Report,
    RunBatch,
    RunMerged,
    StartWorker,
    StopWorker,
    StoreTrouble,
    Unstage,
    WantItems,
    WriteJob,
)
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import StagedOutputs
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.files import remove
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.job_log import computed_by, log_line
from snakemake_executor_gpupool.wire.kept import (
    DAMAGED,
    REFUSED,
    UNCOVERED,
    UNREADABLE,
    UNSAFE,
    UNWRITTEN,
    StoreAddress,
)
from snakemake_executor_gpupool.wire.messages_out import (
    Guessed,
    Results,
    check_process,
    describe_model,
    load_model,
    move_model,
    publish_job,
    read_job,
    results_of,
    run_batch,
    write_job,
)
from snakemake_executor_gpupool.wire.requests import JobReport, Request

#: So many names of logs are remembered.
MAX_SHOWN_LOGS = 1000
#: What the user hears of results kept across runs, by kind.
_TROUBLES = {
    DAMAGED: "a kept result is not as it was written; such are removed and computed again",
    UNSAFE: "kept results that others could have written are not used; chmod go-w mends that "
    "where the owner is you",
    UNREADABLE: "kept results cannot be read, and are computed again",
    UNWRITTEN: "results are not kept for later runs",
    UNCOVERED: "a tool does what kept results cannot cover: change its version, or remove the "
    "cache, when what it depends on has changed",
    REFUSED: "results of a tool are not kept for later runs",
}


@dataclass(frozen=True)
class Callbacks:
    """Whom the pool tells, on its reporting thread.

    Attributes
    ----------
    report
        A job has ended.
    leased
        A job may run: its number, its devices and what its environment must say of them.
    broken
        The pool itself failed; every job that is still in flight is lost.
    log, warn
        A line for the user; one that says that something is not as it should be (None: as any).
    started
        Items of these jobs are being computed; a job may be told of many times. None: untold.
    wants_items
        There is room for more items of a call, of which he is told the number.
    gathers
        Whoever is told does better if he is told of many jobs together, a few milliseconds later.
    """

    report: Callable[[JobReport], None]
    leased: Callable[[int, tuple[Device, ...], dict[str, str]], None]
    broken: Callable[[BaseException], None]
    log: Callable[[str], None]
    warn: Callable[[str], None] | None = None
    started: Callable[[list[int]], None] | None = None
    wants_items: Callable[[int], None] = lambda job_id: None
    gathers: bool = False

    def tell_warning(self, line: str) -> None:
        """Tell the user what is not as it should be."""
        (self.warn or self.log)(line)


class UserLines:
    """Lines for the user, said by the reporting thread; callable from any thread."""

    def __init__(self, callbacks: Callbacks, put: Callable[[Callable[[], None]], None]) -> None:
        self._callbacks, self._put = callbacks, put

    def say(self, line: str) -> None:
        """Say a line."""
        text = printable(line)
        self._put(lambda: self._callbacks.log(text))

    def warn(self, line: str) -> None:
        """Say what is not as it should be."""
        text = printable(line)
        self._put(lambda: self._callbacks.tell_warning(text))


class Actions:
    """The effects, put into action; used by the run loop's thread alone.

    Parameters
    ----------
    host
        Where workers run.
    events
        Gets every note.
    store
        Where results are kept across runs; None: nowhere.
    staged
        Where merged runs stage outputs.
    log_of
        Returns the file that a worker prints to.
    callbacks, tell
        Whom to tell, and what has the reporting thread do so.
    provenance
        Gets every fact.
    listener
        Gets every fact, too. With neither, no file is looked at for them.
    """

    def __init__(
        self,
        host: Host,
        events: EventLog,
        store: StoreAddress | None,
        staged: str,
        log_of: Callable[[str], Path],
        callbacks: Callbacks,
        tell: Callable[[Callable[[], None]], None],
        provenance: ProvenanceRecorder | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._fact_takers = [each for each in (provenance, listener) if each is not None]
        self._host = host
        self._events = events
        self._keeping = Keeping(store)
        self._staged = staged
        self._log_of = log_of
        self._callbacks = callbacks
        self._tell = tell
        self._troubles_told: set[str] = set()
        self._shown_logs: dict[str, str] = {}
        #: By kind, since there are a dozen effects a job; of others see :meth:`_see_to_worker`.
        self._acts: dict[type, Callable[..., None]] = {
            Note: self._note,
            Fact: self._take_fact,
            RunBatch: self._send_batch,
            RunMerged: self._send_merged,
            ReadJob: self._send_read,
            WriteJob: self._send_write,
            PublishJob: self._send_publish,
            Unstage: self._unstage,
            Report: self._report,
            Remark: self._remark,
            WantItems: self._ask_for_items,
            GrantLease: self._grant,
            StoreTrouble: self._tell_trouble,
        }
        self.lends(lambda holder, devices: {}, lambda holder, is_gone=True: None)

    def lends(
        self,
        lend: Callable[[str, Iterable[Device]], dict[str, str]],
        take_back: Callable[..., None],
    ) -> None:
        """Say by what jobs and workers are let use the locks of their devices."""
        self._lend, self._take_back = lend, take_back

    def carry_out(self, effect: Effect) -> None:
        """Do what one effect says."""
        self._acts.get(type(effect), self._see_to_worker)(effect)

    def _note(self, note: Note) -> None:
        self._events.write(note.event, note.fields)
        if note.event == "batch_sent":
            started, jobs = self._callbacks.started, note.fields.get("jobs")
            if started is not None and isinstance(jobs, list):
                self._tell(lambda: started(jobs))

    def _take_fact(self, fact: Fact) -> None:
        for taker in self._fact_takers:
            taker.fact(fact.kind, fact.fields)

    def _report(self, effect: Report) -> None:
        self._keeping.forget(effect.report.job_id)
        self._tell(lambda: self._callbacks.report(effect.report))

    def _ask_for_items(self, effect: WantItems) -> None:
        self._tell(lambda: self._callbacks.wants_items(effect.job_id))

    def _remark(self, effect: Remark) -> None:
        self._tell(lambda: self._callbacks.tell_warning(f"gpupool: {effect.text}"))

    def _unstage(self, effect: Unstage) -> None:
        self._tell(lambda: remove(self._where(effect.paths, effect.root)))

    def _see_to_worker(self, effect: Effect) -> None:
        match effect:
            case DescribeModel(worker, number, request):
                self._send(worker, describe_model(replace(request, job_id=number)))
            case CheckWorker(worker, params, model):
                self._send(worker, check_process(model, params))
            case StartWorker():
                self._start(effect)
            case StopWorker():
                fields = {"worker": effect.worker_id, "why": effect.why}
                self._events.write("worker_stopping", fields)
                complaint = effect.why if effect.force else ""
                self._host.stop(effect.worker_id, force=effect.force, complaint=complaint)
            case LoadModel():
                self._events.write("load_sent", {"worker": effect.worker_id})
                params = effect.params, *effect.more_params
                device = tool_device(effect.devices)
                self._send(effect.worker_id, load_model(device, effect.model, params))
            case MoveModel():
                names = [device.name for device in effect.devices] or ["cpu"]
                self._events.write("move_sent", {"worker": effect.worker_id, "to": names})
                if effect.devices:
                    self._lend(effect.worker_id, effect.devices)
                else:
                    self._take_back(effect.worker_id, is_gone=False)
                device, is_away = tool_device(effect.devices), not effect.devices
                self._send(effect.worker_id, move_model(device, is_away=is_away))

    def _send(self, worker_id: str, frame: Frame) -> None:
        self._host.send(worker_id, *frame)

    def _start(self, effect: StartWorker) -> None:
        where = effect.devices, effect.node
        pid = self._host.start(effect.worker_id, effect.tool, *where, is_ahead=effect.is_ahead)
        names = [device.name for device in effect.devices]
        node = effect.devices[0].host if effect.devices else effect.node or ""
        fields = {"worker": effect.worker_id, "tool": str(effect.tool), "devices": names}
        fields |= {"node": node, **({"stamp": effect.tool.stamp} if effect.tool.stamp else {})}
        self._events.write("worker_started", {**fields, "pid": pid})

    def _send_batch(self, effect: RunBatch) -> None:
        items = [item.payload for item in effect.items]
        keys, store = self._keeping.of_batch(effect.items)
        frame = run_batch(effect.batch_id, effect.params, items, keys, store)
        self._send(effect.worker_id, frame)

    def _send_merged(self, effect: RunMerged) -> None:
        first = effect.requests[0]
        store = self._keeping.store_of(first.request)
        if first.is_single:
            self._send(effect.worker_id, step_frame(effect, store))
            return
        by = self._by([effect.worker_id])
        hashes = any(self._wants_hashes(merged.request) for merged in effect.requests)
        frame = chain_frame(effect, by, self._staged, store, hashes=hashes)
        self._send(effect.worker_id, frame)

    def _send_read(self, effect: ReadJob) -> None:
        request, worker = effect.request, effect.worker_id
        self._events.write("read_sent", {"worker": worker, "job_id": request.job_id})
        self._keeping.note(request)
        store, hashes = self._keeping.store_of(request), self._wants_hashes(request)
        self._send(worker, read_job(request, store, hashes=hashes))

    def _send_write(self, effect: WriteJob) -> None:
        request, settled = effect.request, 0
        fields = {"worker": effect.worker_id, "job_id": request.job_id}
        self._events.write("write_sent", fields)
        for piece in effect.settled:
            results = results_of(request.job_id, piece.names(), piece.results())
            self._send(effect.worker_id, results)
            settled += len(piece)
        text = log_line(settled + len(effect.order), effect.distinct, self._by(effect.workers))
        parts, hashes = (effect.order, effect.names, effect.blobs), self._wants_hashes(request)
        frame = write_job(request, *parts, text, settled=settled, hashes=hashes)
        self._send(effect.worker_id, frame)

    def _send_publish(self, effect: PublishJob) -> None:
        request, staged = effect.request, effect.staged
        fields = {"worker": effect.worker_id, "job_id": request.job_id}
        self._events.write("publish_sent", fields)
        root = staged.guess.staging
        places = self._where(staged.outputs, root), self._where(staged.logs, root)
        hashes = self._wants_hashes(request)
        results, tool = self._results_of(staged), staged.guess.tool
        other = None if tool == staged.tool else tool
        guessed = Guessed(staged.digests, staged.model, other)
        frame = publish_job(request, guessed, *places, hashes=hashes, results=results)
        self._send(effect.worker_id, frame)

    def _results_of(self, staged: StagedOutputs) -> Results | None:
        unwritten = staged.unwritten
        if unwritten is None:
            return None
        text = log_line(staged.items, len(unwritten.results), self._by([unwritten.worker_id]))
        return Results(unwritten.order, unwritten.names, unwritten.blobs, text)

    def _wants_hashes(self, request: Request) -> bool:
        return bool(self._fact_takers) and request.has_provenance

    def _by(self, workers: Sequence[str]) -> str:
        return computed_by(workers, [self._shown_log(worker) for worker in workers])

    def _shown_log(self, worker: str) -> str:
        if worker not in self._shown_logs:
            if len(self._shown_logs) >= MAX_SHOWN_LOGS:
                self._shown_logs.clear()
            log, here = self._log_of(worker), Path.cwd()
            shown = log.relative_to(here) if log.is_relative_to(here) else log
            self._shown_logs[worker] = str(shown)
        return self._shown_logs[worker]

    def _where(self, paths: Iterable[str], root: str) -> list[str]:
        return [f"{root or self._staged}/{path}" for path in paths]

    def _tell_trouble(self, effect: StoreTrouble) -> None:
        fields = {"worker": effect.worker_id, "kind": effect.kind, "why": effect.why}
        self._events.write("store_trouble", fields)
        if effect.kind not in self._troubles_told:
            self._troubles_told.add(effect.kind)
            line = trouble_line(effect.kind, effect.why)
            self._tell(lambda: self._callbacks.tell_warning(line))

    def _grant(self, effect: GrantLease) -> None:
        environment = visible_env(effect.devices)
        if effect.devices[0].host:
            # Its node holds the locks, and puts the token there when the job arrives.
            environment[LEASE_VARIABLE] = str(lent_by(new_token(), effect.devices))
        else:
            environment |= self._lend(holder_of(effect.job_id), effect.devices)
        self._tell(lambda: self._callbacks.leased(effect.job_id, effect.devices, environment))


def trouble_line(kind: str, why: str) -> str:
    """Return what a user reads of trouble with kept results."""
    return f"gpupool: {_TROUBLES[kind]} (said once): {printable(why)}"


def holder_of(job_id: int) -> str:
    """Return who holds what a job was leased, beside all workers."""
    return f"job{job_id}"
