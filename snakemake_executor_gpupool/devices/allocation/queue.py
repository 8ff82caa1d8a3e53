"""The requests that wait, in the order in which they are served. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.allocation.foresight import Foresight
from snakemake_executor_gpupool.devices.allocation.requests import DeviceRequest


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

    def join(self, waiting: WaitingRequest) -> None:
        """Add a request at the place that its priority and arrival give."""
        self._by_id[waiting.request_id] = waiting
        bisect.insort(self._sorted, waiting, key=lambda other: other.place)

    def leave(self, waiting: WaitingRequest) -> None:
        """Remove a request."""
        del self._by_id[waiting.request_id]
        del self._sorted[bisect.bisect_left(self._sorted, waiting.place, key=lambda w: w.place)]

    def in_order(self, foresight: Foresight) -> Sequence[WaitingRequest]:
        """Return all in the order in which they are served.

        Where it is known what is still to come, requests with a group change places with others of
        their priority that have one: those of lower rank go first. Leases keep their places.
        """
        served = list(self._sorted)
        if not foresight.is_known:
            return served
        places = [n for n, waiting in enumerate(served) if waiting.request.group is not None]
        ranked = sorted(
            (served[place] for place in places),
            key=lambda waiting: (
                -waiting.request.priority,
                foresight.rank(waiting.request.group),
                waiting.serial,
            ),
        )
        for place, waiting in zip(places, ranked, strict=True):
            served[place] = waiting
        return served
