"""Jobs that run by themselves and need devices of their own meanwhile. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.allocation.allocator import (
    AllocationEffect,
    Allocator,
    DeviceRequest,
    Granted,
    Impossible,
)
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.effects import GrantLease, Outbox, Report
from snakemake_executor_gpupool.scheduling.jobs import NOT_STARTED
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.requests import JobFacts, JobReport


@dataclass(frozen=True)
class LeaseRequest:
    """A job that runs by itself and only needs devices of its own meanwhile.

    Attributes
    ----------
    goes_on
        It is the rest of something that has begun: it starts even if nothing new does.
    facts
        What the run's files say of it.
    """

    job_id: int
    title: str
    spec: DeviceSpec
    priority: int = 0
    vram_mib: int | None = None
    goes_on: bool = False
    facts: JobFacts = field(default=JobFacts(), compare=False)


class Leases:
    """The jobs that wait for devices, and those that have some."""

    def __init__(self, allocator: Allocator, lifecycle: WorkerLifecycle, outbox: Outbox) -> None:
        self._allocator = allocator
        self._lifecycle = lifecycle
        self._outbox = outbox
        self._requests: dict[str, LeaseRequest] = {}
        self._running: set[str] = set()
        self._is_winding_down = False

    def __len__(self) -> int:
        return len(self._requests)

    def request(self, request: LeaseRequest, now_s: float) -> None:
        """A job needs devices; ``GrantLease`` or a failed ``Report`` follows."""
        if self._is_winding_down and not request.goes_on:
            self._report_unstarted(request)
            return
        request_id = f"job{request.job_id}"
        self._requests[request_id] = request
        self._outbox.note(
            "lease_requested",
            job=request.title,
            job_id=request.job_id,
            wants=str(request.spec),
            **request.facts.fields(),
        )
        ask = DeviceRequest(
            request_id=request_id,
            spec=request.spec,
            kind="lease",
            owner=request.title,
            priority=request.priority,
            vram_mib=request.vram_mib,
        )
        self._lifecycle.apply(self._allocator.request(ask, now_s), now_s)

    def done(self, job_id: int, now_s: float, error: str | None = None) -> bool:
        """The leased job has ended, or failed with an error; return whether it was known."""
        request_id = f"job{job_id}"
        request = self._requests.pop(request_id, None)
        self._running.discard(request_id)
        if request is not None:
            details = {} if error is None else {"error": printable(error)}
            self._outbox.note("lease_released", job=request.title, job_id=job_id, **details)
            self._lifecycle.apply(self._allocator.gone(request_id, now_s), now_s)
        return request is not None

    def decided(self, effect: AllocationEffect) -> None:
        """The allocator has granted devices to a job, or none will ever do for it."""
        if isinstance(effect, Granted) and effect.request_id in self._requests:
            request = self._requests[effect.request_id]
            self._running.add(effect.request_id)
            names = [device.name for device in effect.devices]
            self._outbox.note(
                "lease_granted", job=request.title, job_id=request.job_id, devices=names
            )
            self._outbox.put(GrantLease(request.job_id, effect.devices))
        elif isinstance(effect, Impossible) and effect.request_id in self._requests:
            request = self._requests.pop(effect.request_id)
            self._report_failed(request, effect.reason)

    def cancel(self, reason: str) -> None:
        """Fail every job that waits for devices."""
        for request_id in self._waiting():
            request = self._requests.pop(request_id)
            self._report_failed(request, reason)

    def _report_failed(self, request: LeaseRequest, reason: str) -> None:
        message = printable(f"{request.title}: {reason}")
        self._outbox.note("lease_failed", job=request.title, job_id=request.job_id, error=message)
        self._outbox.put(Report(JobReport(request.job_id, message)))

    def wind_down(self, now_s: float) -> None:
        """Let no job have devices that does not have them, unless it goes on with something."""
        self._is_winding_down = True
        for request_id in self._waiting():
            if not self._requests[request_id].goes_on:
                self._report_unstarted(self._requests.pop(request_id))
                self._lifecycle.apply(self._allocator.withdraw(request_id, now_s), now_s)

    def _waiting(self) -> list[str]:
        return [request_id for request_id in self._requests if request_id not in self._running]

    def _report_unstarted(self, request: LeaseRequest) -> None:
        self._outbox.note("job_withdrawn", job=request.title, job_id=request.job_id)
        report = JobReport(request.job_id, f"{request.title}: {NOT_STARTED}", withdrawn=True)
        self._outbox.put(Report(report))
