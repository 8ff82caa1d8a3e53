"""Devices shared with other processes of this machine: claimed, polled, released."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership, Refusal
from snakemake_executor_gpupool.scheduling.events import DeviceGivenBack, Event, RoomWanted


class Sharing:
    """The devices that a run holds against other processes; used by the run loop's thread alone.

    Parameters
    ----------
    env
        The environment (``GPUPOOL_LOCK_DIR``).
    allocator
        Knows which of our workers is on which device.
    pids
        Returns the ids of our worker processes.
    say
        Called with a line for the user.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        allocator: Allocator,
        pids: Callable[[], list[int]],
        say: Callable[[str], None],
    ) -> None:
        self._ownership = DeviceOwnership(env)
        self._allocator = allocator
        self._pids = pids
        self._say = say
        self._refusals_said: set[str] = set()

    def open(self, devices: Iterable[Device]) -> None:
        """Check that the locks of this machine's devices can be used.

        Raises
        ------
        ConfigError
            They cannot be used; the message says how to fix it.
        """
        warning = self._ownership.open([device for device in devices if not device.host])
        if warning:
            self._say(f"gpupool: {warning}")

    def claim(self, devices: tuple[Device, ...], *, asks: bool = True) -> Refusal | None:
        """Lock devices of this machine; return a refusal if another process has them.

        ``asks``: that process is asked to make room.
        """
        # Devices of other machines are locked there, by their agents.
        here = [device for device in devices if not device.host]
        refusal = self._ownership.take(here, ours=self._pids(), asks=asks)
        if asks and refusal is not None and refusal.why not in self._refusals_said:
            self._refusals_said.add(refusal.why)
            self._say(f"gpupool: {refusal.why}; waiting for it")
        return refusal

    def lend(self, holder: str, devices: Iterable[Device]) -> dict[str, str]:
        """Let a job or a worker use devices; return the variables for its environment."""
        return self._ownership.lend(holder, devices)

    def take_back(self, holder: str, *, is_gone: bool = True) -> None:
        """End a loan."""
        self._ownership.take_back(holder, is_gone=is_gone)

    def look_around(self) -> list[Event]:
        """Release devices that we do not use; return what others have released or wait for."""
        seen: list[Event] = []
        on = self._allocator.allocation_map()
        self._ownership.keep_only(name for name, owners in on.items() if owners)
        waits = self._allocator.is_wanted_by_others(None)
        if not waits:
            self._ownership.forget_refused()
        if self._ownership.refused:
            free = self._ownership.given_back(ours=self._pids(), asks=waits)
            seen += map(DeviceGivenBack, free)
        return [*seen, *(RoomWanted(device.name) for device in self._ownership.wanted())]

    def close(self) -> None:
        """Release everything."""
        self._ownership.close()
