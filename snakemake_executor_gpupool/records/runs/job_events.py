"""What events say of served jobs, and of plain ones that have devices of their own."""

from __future__ import annotations

import re

from snakemake_executor_gpupool.records.runs.fields import (
    Event,
    count,
    names,
    number,
    number_or_none,
    texts,
    whole_or_none,
)
from snakemake_executor_gpupool.records.runs.states import JobState
from snakemake_executor_gpupool.records.runs.values import Cost, JobView, LeaseView, RunView

_TITLE = re.compile(r"rule (\S+)(?: \((.*)\))?", re.DOTALL)


class JobEvents:
    """Takes them into a view; called with an event and its time."""

    def __init__(self, run: RunView) -> None:
        self.run = run

    # -- served jobs -----------------------------------------------------------------
    def _on_job_submitted(self, event: Event, now_s: float) -> None:
        job_id, title = int(event["job_id"]), str(event["job"])
        rule, wildcards = named(event, title)
        job = JobView(job_id, title, rule, wildcards, submitted_at_s=now_s)
        job.tool = str(event.get("tool", ""))
        job.attempt = count(event.get("attempt", 1))
        job.threads = count(event.get("threads", 1))
        job.limit_s = number_or_none(event.get("limit_s"))
        take_files(job, event)
        self.run.jobs[job_id] = job

    def _on_job_read(self, event: Event, now_s: float) -> None:
        job = self.run.jobs[event["job_id"]]
        job.items, job.model = count(event["items"]), str(event["model"])

    def _on_job_done(self, event: Event, now_s: float) -> None:
        self._job_over(event, now_s, JobState.DONE)

    def _on_job_failed(self, event: Event, now_s: float) -> None:
        self._job_over(event, now_s, JobState.FAILED)
        self.run.jobs[event["job_id"]].error = str(event["error"])

    def _job_over(self, event: Event, now_s: float, state: JobState) -> None:
        job = self.run.jobs[event["job_id"]]
        job.state, job.done_at_s = state, now_s
        if "items" not in event:
            return
        job.items = count(event["items"])
        job.duplicates = count(event.get("duplicates", 0))
        job.reused = count(event.get("reused", 0))
        job.worked_s = number(event["worked_s"])
        job.cost = Cost(
            device_s=number(event["device_s"]),
            kind=str(event.get("device_kind", "")),
            peak_mib=whole_or_none(event.get("peak_mib")),
            energy_j=number_or_none(event.get("energy_j")),
            saved_s=number(event.get("saved_s", 0.0)),
        )

    def _on_job_withdrawn(self, event: Event, now_s: float) -> None:
        job_id = event["job_id"]
        job = self.run.jobs.get(job_id)
        if job is not None:
            self._job_over(event, now_s, JobState.WITHDRAWN)
            return
        lease = self._lease(event, now_s)
        lease.state, lease.released_at_s = JobState.WITHDRAWN, now_s

    def _on_dispatch_saved(self, event: Event, now_s: float) -> None:
        job, batch_id = self.run.jobs[event["job_id"]], whole_or_none(event.get("batch"))
        job.merged_into = batch_id
        batch = self.run.batches.get(batch_id) if batch_id is not None else None
        if batch is not None:
            job.batches.append(batch.batch_id)
            batch.jobs.setdefault(job.job_id, None)

    # -- leases ------------------------------------------------------------------------
    def _lease(self, event: Event, now_s: float) -> LeaseView:
        job_id, title = int(event["job_id"]), str(event["job"])
        lease = self.run.leases.get(job_id)
        if lease is None:
            rule, wildcards = named(event, title)
            lease = LeaseView(job_id, title, rule, wildcards, requested_at_s=now_s)
            self.run.leases[job_id] = lease
        return lease

    def _on_lease_requested(self, event: Event, now_s: float) -> None:
        lease = self._lease(event, now_s)
        lease.wants = str(event.get("wants", ""))
        take_files(lease, event)

    def _on_lease_granted(self, event: Event, now_s: float) -> None:
        lease = self._lease(event, now_s)
        lease.state, lease.granted_at_s = JobState.RUNNING, now_s
        lease.devices = names(event["devices"])

    def _on_lease_released(self, event: Event, now_s: float) -> None:
        lease = self._lease(event, now_s)
        lease.error = str(event.get("error") or "")
        lease.state = JobState.FAILED if lease.error else JobState.DONE
        lease.released_at_s = now_s

    def _on_lease_failed(self, event: Event, now_s: float) -> None:
        lease = self._lease(event, now_s)
        lease.state, lease.released_at_s = JobState.FAILED, now_s
        lease.error = str(event["error"])


def named(event: Event, title: str) -> tuple[str, dict[str, str]]:
    """Return a job's rule and wildcards; of an older version's, what its title says."""
    if "rule" in event:
        return str(event["rule"]), texts(event.get("wildcards"))
    parsed = _TITLE.fullmatch(title)
    if parsed is None:
        return title, {}
    pairs = (part.partition("=") for part in (parsed[2] or "").split(", ") if "=" in part)
    return parsed[1], {name: value for name, _, value in pairs}


def take_files(job: JobView | LeaseView, event: Event) -> None:
    """Take what an event says of a job's files."""
    job.inputs = names(event.get("inputs"))
    job.outputs = names(event.get("outputs"))
    job.logs = names(event.get("logs"))
    job.n_inputs = int(event.get("n_inputs", 0))
    job.n_outputs = int(event.get("n_outputs", 0))
