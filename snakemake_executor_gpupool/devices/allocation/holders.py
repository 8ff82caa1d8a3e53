"""All holders by id, and what is remembered of each for its return. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from snakemake_executor_gpupool.devices.allocation.queue import WaitingRequest
from snakemake_executor_gpupool.devices.allocation.requests import Holder, Phase


class HolderTable:
    """Who holds devices, or is offloaded and held some; iterated in the order of the grants."""

    def __init__(self) -> None:
        self._by_id: dict[str, Holder] = {}
        self._granted_for: dict[str, WaitingRequest] = {}
        self._last_devices: dict[str, tuple[str, ...]] = {}

    def __contains__(self, holder_id: str) -> bool:
        return holder_id in self._by_id

    def __iter__(self) -> Iterator[Holder]:
        return iter(self._by_id.values())

    def __getitem__(self, holder_id: str) -> Holder:
        return self._by_id[holder_id]

    def get(self, holder_id: str) -> Holder | None:
        """Return a holder; None: there is none of that id."""
        return self._by_id.get(holder_id)

    def expect(self, holder_id: str, *phases: Phase) -> Holder:
        """Return a holder that is in one of some phases.

        Raises
        ------
        KeyError
            There is no holder of that id.
        ValueError
            It is in another phase.
        """
        holder = self._by_id[holder_id]
        if holder.phase not in phases:
            raise ValueError(f"{holder_id} is {holder.phase.name}")
        return holder

    def grant(self, waiting: WaitingRequest, names: tuple[str, ...], serial: int) -> None:
        """Give devices to a request; an offloaded worker that returns keeps its first request."""
        before = self._by_id.pop(waiting.request_id, None)
        request = before.request if before else waiting.request
        self._by_id[waiting.request_id] = Holder(request, names, serial=serial)
        self._granted_for[waiting.request_id] = waiting

    def change(self, holder: Holder, **changes: Any) -> None:
        """Replace fields of a holder."""
        self._by_id[holder.holder_id] = replace(holder, **changes)

    def offload(self, holder: Holder) -> None:
        """Note that a worker's weights are in host memory; its devices are remembered."""
        self._last_devices[holder.holder_id] = holder.device_names
        self.change(holder, device_names=(), phase=Phase.OFFLOADED)

    def forget(self, holder_id: str) -> None:
        """Remove a holder and all that is remembered of it, if there is one."""
        for table in (self._by_id, self._granted_for, self._last_devices):
            table.pop(holder_id, None)

    def granted_for(self, holder_id: str) -> WaitingRequest:
        """Return the request for which a holder was granted its devices."""
        return self._granted_for[holder_id]

    def last_devices(self, holder_id: str) -> tuple[str, ...]:
        """Return the devices that an offloaded worker was on."""
        return self._last_devices[holder_id]
