"""Who pays for the time of devices: jobs by the cost of their items, or a line of its own. Pure.

The time of a micro-batch, padding included, times the devices that it took, is divided among its
items by their cost. An item's part is divided evenly among the places that wait for its result
when it is there: two jobs that ask for the same item pay half each, a job that has it twice and
another that has it once pay two thirds and one. A place that comes later pays nothing.

What no place pays for is overhead, by cause::

    out_of_memory   items that did not fit and are tried again
    unclaimed       items that nobody waits for any more, and what a merged dispatch has computed
                    beforehand for a job that has not come (yet)
    lost            what a worker was at when it died

So the shares of all jobs and the overheads are the time that devices computed. Starts, loads,
moves and idle time are no part of that; they are spans of workers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

OUT_OF_MEMORY, UNCLAIMED, LOST = "out_of_memory", "unclaimed", "lost"


class Named(Protocol):
    """A device, as far as its time goes."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102


@dataclass(slots=True)
class JobCost:
    """What a job took of devices so far.

    Attributes
    ----------
    device_s
        Its share of the time of its batches, times the devices that each took.
    kind
        Of these devices; empty if there were none.
    peak_mib
        The most that the workers of its batches had held by then; None: unknown.
    energy_j
        Its share of the energy of its batches; None: of one of them it is unknown.
    saved_s
        Device seconds that it did not take, since others had asked for the same items.
    batches
        In how many micro-batches its items were.
    """

    device_s: float = 0.0
    kind: str = ""
    peak_mib: int | None = None
    energy_j: float | None = None
    saved_s: float = 0.0
    batches: int = 0

    def add(self, work: Work, device_s: float) -> None:
        """Take in a job's share of one batch."""
        self.device_s += device_s
        self.kind = work.kind
        if work.peak_mib is not None:
            self.peak_mib = max(work.peak_mib, self.peak_mib or 0)
        energy_j = work.energy_of(device_s)
        if energy_j is None or (self.batches and self.energy_j is None):
            self.energy_j = None
        else:
            self.energy_j = (self.energy_j or 0.0) + energy_j
        self.batches += 1

    def take(self, other: JobCost) -> None:
        """Take over what was kept of a job before it was ready."""
        energy_j = (self.energy_j or 0.0) + (other.energy_j or 0.0)
        is_known = (other.energy_j is not None) and (not self.batches or self.energy_j is not None)
        self.energy_j = energy_j if is_known else None
        self.device_s += other.device_s
        self.kind = other.kind or self.kind
        self.peak_mib = max(filter(None, (self.peak_mib, other.peak_mib)), default=None)
        self.batches += other.batches

    def fields(self) -> dict[str, object]:
        """Return what an event says of it."""
        fields: dict[str, object] = {"device_s": round(self.device_s, 9)}
        if self.kind:
            fields["device_kind"] = self.kind
        if self.peak_mib is not None:
            fields["peak_mib"] = self.peak_mib
        if self.energy_j is not None:
            fields["energy_j"] = round(self.energy_j, 3)
        if self.saved_s:
            fields["saved_s"] = round(self.saved_s, 9)
        return fields


@dataclass(slots=True)
class Work:
    """What one micro-batch, or a stage of a merged dispatch, took, and who is charged for it.

    Attributes
    ----------
    seconds, device_s
        What its worker says that it took; these, times its devices.
    energy_j, peak_mib
        As far as they are known.
    charged
        Device seconds of each job.
    overhead
        Device seconds of no job, by cause.
    """

    seconds: float = 0.0
    device_s: float = 0.0
    kind: str = ""
    peak_mib: int | None = None
    energy_j: float | None = None
    charged: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    overhead: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def fields(self) -> dict[str, object]:
        """Return what the event of a batch's end says of it; ``jobs`` and ``device_s`` match."""
        fields: dict[str, object] = {
            "jobs": list(self.charged),
            "device_s": [round(device_s, 9) for device_s in self.charged.values()],
        }
        if any(self.overhead.values()):
            fields["overhead_s"] = {name: round(s, 9) for name, s in self.overhead.items() if s}
        if self.peak_mib is not None:
            fields["peak_mib"] = self.peak_mib
        if self.energy_j is not None:
            fields["energy_j"] = round(self.energy_j, 3)
        return fields

    def rest_s(self) -> float:
        """Return the device seconds that have not been charged to anybody."""
        rest_s = self.device_s - math.fsum((*self.charged.values(), *self.overhead.values()))
        return rest_s if rest_s > 1e-12 * self.device_s else 0.0

    def add(self, stage: Work) -> None:
        """Take in one more stage of a merged dispatch."""
        is_first = not self.device_s
        energy_j = (self.energy_j or 0.0) + (stage.energy_j or 0.0)
        is_known = stage.energy_j is not None and (is_first or self.energy_j is not None)
        self.energy_j = energy_j if is_known else None
        self.seconds += stage.seconds
        self.device_s += stage.device_s
        self.peak_mib = max(filter(None, (self.peak_mib, stage.peak_mib)), default=None)
        for job_id, device_s in stage.charged.items():
            self.charged[job_id] += device_s
        for cause, device_s in stage.overhead.items():
            self.overhead[cause] += device_s

    def energy_of(self, device_s: float) -> float | None:
        """Return the energy of a share of it."""
        if self.energy_j is None:
            return None
        return self.energy_j * (device_s / self.device_s) if self.device_s else 0.0


def by_cost(total: float, costs: Sequence[float]) -> list[float]:
    """Divide a total by costs; evenly if they are all nothing."""
    sum_of_costs = math.fsum(costs)
    if not costs or not sum_of_costs:
        return [total / len(costs) for _ in costs]
    return [total * (cost / sum_of_costs) for cost in costs]


class DeviceTime:
    """For how long devices computed, and what of it no job has paid for.

    Attributes
    ----------
    busy_s
        By device.
    overhead_s
        Device seconds by cause.
    jobs_s
        Device seconds of jobs, those in flight included.
    """

    def __init__(self) -> None:
        self.busy_s: defaultdict[str, float] = defaultdict(float)
        self.overhead_s: defaultdict[str, float] = defaultdict(float)
        self.jobs_s = 0.0

    def computed(self, devices: Iterable[Named], seconds: float) -> None:
        """Devices have computed for so long."""
        for device in devices:
            self.busy_s[device.name] += seconds

    def charged(self, work: Work) -> None:
        """Jobs, and nobody, were charged for a piece of work."""
        self.jobs_s += math.fsum(work.charged.values())
        for cause, device_s in work.overhead.items():
            self.overhead_s[cause] += device_s

    def lost(self, devices: Sequence[Named], seconds: float) -> None:
        """Devices have computed for so long, to no end: their worker died."""
        self.computed(devices, seconds)
        self.overhead_s[LOST] += seconds * len(devices)

    def claimed(self, device_s: float) -> None:
        """A job has come that takes what was computed beforehand, and pays for it."""
        self.overhead_s[UNCLAIMED] -= device_s
        self.jobs_s += device_s

    def figures(self) -> dict[str, float]:
        """Return device seconds of jobs and of each cause of overhead, as the summary has them."""
        totals = {"jobs_s": self.jobs_s}
        totals |= {
            f"{cause}_s": self.overhead_s[cause] for cause in (OUT_OF_MEMORY, UNCLAIMED, LOST)
        }
        return {name: round(seconds, 6) + 0.0 for name, seconds in totals.items()}
