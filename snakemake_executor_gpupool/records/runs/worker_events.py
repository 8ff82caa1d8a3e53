"""What events say of worker processes: what each was at, its micro-batches, its end."""

from __future__ import annotations

from collections import deque

from snakemake_executor_gpupool.records.runs.fields import (
    Event,
    count,
    names,
    number,
    number_or_none,
    texts,
    whole_or_none,
)
from snakemake_executor_gpupool.records.runs.states import Activity, JobState, Mark, Span
from snakemake_executor_gpupool.records.runs.values import BatchView, RunView, WorkerView


class WorkerEvents:
    """Takes them into a view; called with an event and its time."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        # By worker: what file processes were sent, and batches, that have not been answered.
        self._files: dict[str, deque[tuple[Activity, int]]] = {}
        self._in_flight: dict[str, deque[BatchView]] = {}

    # -- workers -------------------------------------------------------------------------
    def _worker(self, event: Event) -> WorkerView:
        worker_id = str(event["worker"])
        worker = self.run.workers.get(worker_id)
        if worker is None:
            worker = self.run.workers[worker_id] = WorkerView(worker_id)
            self._in_flight[worker_id] = deque()
            self._files[worker_id] = deque()
        return worker

    def _at(
        self, worker: WorkerView, activity: Activity, now_s: float, of: int | None = None
    ) -> None:
        """A worker is at something else from now on."""
        span = worker.open_span
        if span is not None:
            if span.activity is Activity.STOP:  # it only finishes what it had
                return
            if span.activity is not Activity.IDLE or now_s >= span.from_s + 1e-4:
                worker.spans.append(span._replace(to_s=now_s))
        worker.open_span = Span(activity, now_s, None, of)

    def _on_device_granted(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.devices = names(event["devices"])
        worker.granted_at_s = now_s
        worker.model = str(event.get("model", worker.model))

    def _on_worker_started(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.tool, worker.pid = str(event["tool"]), whole_or_none(event.get("pid"))
        worker.devices, worker.node = names(event["devices"]), str(event.get("node", ""))
        worker.started_at_s = now_s
        worker.log = f"workers/{worker.worker_id}.log"
        self._at(worker, Activity.START, now_s)

    def _on_worker_forked(self, event: Event, now_s: float) -> None:
        self._worker(event).pid = whole_or_none(event.get("pid"))

    def _on_worker_attached(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.tool, worker.pid = str(event["tool"]), whole_or_none(event.get("pid"))
        worker.devices, worker.node = names(event["devices"]), str(event.get("node", ""))
        worker.started_at_s = now_s
        worker.model = str(event.get("model", worker.model))
        worker.versions.update(texts(event.get("versions")))
        for name, version in worker.versions.items():
            self.run.versions.setdefault(name, version)
        self._at(worker, Activity.IDLE, now_s)

    def _on_tool_imported(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.import_s = number(event["seconds"])
        worker.versions.update(texts(event.get("versions")))
        span = worker.open_span
        if span is not None and span.activity is Activity.START:
            # The last part of its start was the import.
            from_s = max(now_s - worker.import_s, span.from_s)
            worker.spans.append(span._replace(to_s=from_s))
            worker.open_span = Span(Activity.IMPORT, from_s, None)
        self._at(worker, Activity.IDLE, now_s)

    def _on_load_sent(self, event: Event, now_s: float) -> None:
        self._at(self._worker(event), Activity.LOAD, now_s)

    def _on_model_loaded(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.model, worker.load_s = str(event["model"]), number(event["seconds"])
        worker.peak_mib = whole_or_none(event.get("peak_mib"))
        worker.versions.update(texts(event.get("versions")))
        for name, version in worker.versions.items():
            self.run.versions.setdefault(name, version)
        self._at(worker, Activity.IDLE, now_s)

    def _on_stage_loaded(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.load_s = (worker.load_s or 0.0) + number(event["seconds"])
        worker.versions.update(texts(event.get("versions")))
        for name, version in worker.versions.items():
            self.run.versions.setdefault(name, version)

    def _on_evicted(self, event: Event, now_s: float) -> None:
        self._mark_worker(event, now_s, "evicted", f"evicted ({event['how']})")

    def _mark_worker(self, event: Event, now_s: float, kind: str, text: str) -> None:
        worker = self._worker(event)
        worker.marks.append(Mark(now_s, kind, text, worker.devices))

    def _on_out_of_memory(self, event: Event, now_s: float) -> None:
        text = f"out of memory: at most {event['budget']} tokens a batch from now on"
        self._mark_worker(event, now_s, "out_of_memory", text)

    def _on_move_sent(self, event: Event, now_s: float) -> None:
        self._at(self._worker(event), Activity.MOVE, now_s)

    def _on_model_moved(self, event: Event, now_s: float) -> None:
        away = list(event["to"]) == ["cpu"]
        self._at(self._worker(event), Activity.AWAY if away else Activity.IDLE, now_s)

    def _on_move_failed(self, event: Event, now_s: float) -> None:
        self._mark_worker(event, now_s, "move_failed", str(event["error"]))

    def _on_worker_stopping(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        was_evicted = bool(worker.marks) and worker.marks[-1].kind == "evicted"
        if not (was_evicted and event["why"] == "evicted"):  # else it has been said
            self._mark_worker(event, now_s, "worker_stopping", str(event["why"]))
        if worker.started_at_s is not None:
            self._at(worker, Activity.STOP, now_s)

    def _on_worker_died(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        if not worker.is_crash:  # else its end has said so
            self._mark_worker(event, now_s, "worker_died", str(event["reason"]))
        worker.is_crash = True

    def _on_worker_ended(self, event: Event, now_s: float) -> None:
        worker = self._worker(event)
        worker.ended_at_s, worker.end_reason = now_s, str(event["reason"])
        if not event["expected"] and not worker.is_crash:
            worker.is_crash = True
            worker.marks.append(Mark(now_s, "worker_died", worker.end_reason, worker.devices))
        if worker.open_span is not None:
            worker.spans.append(worker.open_span._replace(to_s=now_s))
            worker.open_span = None
        for batch in self._in_flight[worker.worker_id]:
            self._lose(batch, now_s)
        self._in_flight[worker.worker_id].clear()
        self._files[worker.worker_id].clear()

    # -- files ---------------------------------------------------------------------------
    def _on_read_sent(self, event: Event, now_s: float) -> None:
        self._file_sent(event, now_s, Activity.READ)

    def _on_write_sent(self, event: Event, now_s: float) -> None:
        self._file_sent(event, now_s, Activity.WRITE)

    def _on_publish_sent(self, event: Event, now_s: float) -> None:
        self._file_sent(event, now_s, Activity.PUBLISH)

    def _file_sent(self, event: Event, now_s: float, activity: Activity) -> None:
        worker, job_id = self._worker(event), int(event["job_id"])
        waiting = self._files[worker.worker_id]
        if not waiting:
            self._at(worker, activity, now_s, job_id)
        waiting.append((activity, job_id))
        job = self.run.jobs[job_id]
        job.state = JobState.READING if activity is Activity.READ else JobState.WRITING
        if job.started_at_s is None:
            job.started_at_s = now_s

    def _on_file_done(self, event: Event, now_s: float) -> None:
        worker, job_id = self._worker(event), event["job_id"]
        waiting = self._files[worker.worker_id]
        activity, sent_id = waiting.popleft()
        if sent_id != job_id:
            raise ValueError("files are answered in order")
        span = worker.open_span
        from_s = span.from_s if span is not None and span.number == job_id else now_s
        job = self.run.jobs.get(job_id)
        if job is not None:
            job.file_spans.append((activity, from_s, now_s, worker.worker_id))
            if activity is Activity.READ and not job.state.is_over:
                job.state = JobState.RUNNING
        if waiting:
            self._at(worker, waiting[0][0], now_s, waiting[0][1])
        else:
            self._at(worker, Activity.IDLE, now_s)

    # -- batches -------------------------------------------------------------------------
    def _on_batch_sent(self, event: Event, now_s: float) -> None:
        worker, batch_id = self._worker(event), int(event["batch"])
        batch = BatchView(
            batch_id,
            worker.worker_id,
            now_s,
            now_s,
            items=count(event["items"]),
            tokens=count(event["tokens"]),
            padded_tokens=whole_or_none(event.get("padded_tokens")),
            longest_tokens=count(event["longest_tokens"]),
            jobs=dict.fromkeys(map(int, event.get("jobs", ()))),
        )
        self.run.batches[batch_id] = batch
        worker.batches.append(batch_id)
        waiting = self._in_flight[worker.worker_id]
        if not waiting:
            self._at(worker, Activity.BATCH, now_s, batch_id)
        waiting.append(batch)
        for job_id in batch.jobs:
            job = self.run.jobs.get(job_id)
            if job is not None:
                job.batches.append(batch_id)

    def _on_batch_done(self, event: Event, now_s: float) -> None:
        batch = self.run.batches[event["batch"]]
        batch.ended_at_s = now_s
        self._take_work(batch, event)
        worker = self._worker(event)
        if batch.peak_mib is not None:
            worker.peak_mib = max(batch.peak_mib, worker.peak_mib or 0)
        self._next_batch(worker, batch, now_s)

    def _take_work(self, batch: BatchView, event: Event) -> None:
        """Take what a batch took, and who was charged for it."""
        batch.seconds = number(event["seconds"])
        for job_id, device_s in zip(event.get("jobs", ()), event.get("device_s", ()), strict=True):
            if job_id not in batch.jobs and job_id in self.run.jobs:
                self.run.jobs[job_id].batches.append(batch.batch_id)
            batch.jobs[int(job_id)] = number(device_s)
        overhead_s = event.get("overhead_s") or {}
        batch.overhead_s = {str(cause): number(each) for cause, each in overhead_s.items()}
        batch.peak_mib = whole_or_none(event.get("peak_mib"))
        batch.energy_j = number_or_none(event.get("energy_j"))
        batch.failed_items = count(event.get("failed", 0))

    def _next_batch(self, worker: WorkerView, batch: BatchView, now_s: float) -> None:
        """A worker has finished a batch: it has begun the one that it was sent meanwhile."""
        waiting = self._in_flight[worker.worker_id]
        if batch in waiting:
            waiting.remove(batch)
        if waiting:
            waiting[0].started_at_s = now_s
            self._at(worker, Activity.BATCH, now_s, waiting[0].batch_id)
        elif worker.ended_at_s is None:
            self._at(worker, Activity.IDLE, now_s)

    def _on_batch_lost(self, event: Event, now_s: float) -> None:
        batch = self.run.batches[event["batch"]]
        self._lose(batch, now_s)
        if "seconds" in event:
            self._take_work(batch, event)
        batch.overhead_s["lost"] = number(event["lost_s"])

    def _lose(self, batch: BatchView, now_s: float) -> None:
        if batch.ended_at_s is None:
            batch.is_lost, batch.ended_at_s = True, now_s

    def _on_stage_done(self, event: Event, now_s: float) -> None:
        batch = self.run.batches.get(event.get("batch", -1))
        if batch is not None:
            batch.stages.append((now_s, str(event["job"])))
