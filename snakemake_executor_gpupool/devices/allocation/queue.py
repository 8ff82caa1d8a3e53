"""The requests that wait, in the order in which they are served. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.allocation.foresight import Foresight
from snakemake_executor_gpupool.devices.allocation.requests import DeviceRequest, why_impossible
from snakemake_executor_gpupool.devices.device import Device


@dataclass(frozen=True)
class WaitingRequest:
    """A request that waits, and since when (``since_s``)."""

    request: DeviceRequest
    since_s: float
    serial: int
    is_returning: bool = False
    """An offloaded worker that wants devices again."""

    @property
    def request_id(self) -> str:
        """The id of the request."""
        return self.request.request_id

    @property
    def place(self) -> tuple[int, int]:
        """Sort key: priority, then arrival."""
        return -self.request.priority, self.serial


class RequestQueue:
    """All waiting requests; iterated in the order in which they are served."""

    def __init__(self) -> None:
        self._sorted: list[WaitingRequest] = []
        self._by_id: dict[str, WaitingRequest] = {}
        #: Those that have a group.
        self._grouped: dict[str, WaitingRequest] = {}

    def __iter__(self) -> Iterator[WaitingRequest]:
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    def get(self, request_id: str) -> WaitingRequest | None:
        """Return the waiting request of an id; None: there is none."""
        return self._by_id.get(request_id)

    @property
    def last(self) -> WaitingRequest | None:
        """The request that is served last; None: nothing waits."""
        return self._sorted[-1] if self._sorted else None

    def firsts(self) -> Iterator[WaitingRequest]:
        """Yield of each priority the request that has waited for the longest."""
        place = 0
        while place < len(self._sorted):
            first = self._sorted[place]
            yield first
            after = -first.request.priority + 1, 0
            place = bisect.bisect_left(self._sorted, after, place, key=lambda each: each.place)

    def join(self, waiting: WaitingRequest) -> None:
        """Add a request at the place that its priority and arrival give."""
        self._by_id[waiting.request_id] = waiting
        if waiting.request.group is not None:
            self._grouped[waiting.request_id] = waiting
        bisect.insort(self._sorted, waiting, key=lambda other: other.place)

    def leave(self, waiting: WaitingRequest) -> None:
        """Remove a request."""
        del self._by_id[waiting.request_id]
        self._grouped.pop(waiting.request_id, None)
        del self._sorted[bisect.bisect_left(self._sorted, waiting.place, key=lambda w: w.place)]

    def leave_impossible(self, devices: Sequence[Device]) -> dict[str, str]:
        """Remove the requests that no amount of waiting could serve; return why, by their ids."""
        reasons: dict[str, str] = {}
        for waiting in list(self._sorted):
            reason = why_impossible(waiting.request, devices)
            if reason:
                self.leave(waiting)
                reasons[waiting.request_id] = reason
        return reasons

    def in_order(self, foresight: Foresight) -> Iterable[WaitingRequest]:
        """Return all in the order in which they are served.

        Where it is known what is still to come, requests with a group change places with others of
        their priority that have one: those of lower rank go first. Leases keep their places.

        To be iterated before anything changes: of thousands of leases few are looked at.
        """
        if not foresight.is_known or not self._grouped:
            return self._sorted
        ranked = sorted(
            self._grouped.values(),
            key=lambda waiting: (
                -waiting.request.priority,
                foresight.rank(waiting.request.group),
                waiting.serial,
            ),
        )
        return self._with_ranked(iter(ranked))

    def _with_ranked(self, ranked: Iterator[WaitingRequest]) -> Iterator[WaitingRequest]:
        for waiting in self._sorted:
            yield waiting if waiting.request.group is None else next(ranked)
