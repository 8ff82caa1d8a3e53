"""How much energy micro-batches took, as far as drivers count it.

A driver counts for a whole card. So a card is read whenever a worker on it begins or ends
computing, and what it has used since the last time is divided evenly among the workers that
computed meanwhile. What it used while none did is in its total only.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import DeviceLost

#: Returns the joules that a device has used since some moment; None: unknown.
Read = Callable[[Device], float | None]
#: A device is not read more often: drivers bring their counters up to date more rarely.
MIN_INTERVAL_S = 0.01


class EnergyMeter:
    """Reads devices of this machine; used by the run loop's thread alone.

    Parameters
    ----------
    devices
        Those of the run. One whose energy cannot be read when the run starts is not read again.
    read
        Reads one; may raise :class:`DeviceLost`.
    """

    def __init__(self, devices: Iterable[Device], read: Read) -> None:
        self._read_device = read
        self._devices: dict[str, Device] = {}
        self._last_j: dict[str, float] = {}
        self._first_j: dict[str, float] = {}
        #: By device, the workers that compute on it.
        self._at_work: defaultdict[str, list[str]] = defaultdict(list)
        self._on: dict[str, tuple[str, ...]] = {}
        self._outstanding: Counter[str] = Counter()
        self._used_j: defaultdict[str, float] = defaultdict(float)
        self._read_at_s: dict[str, float] = {}
        for device in devices:
            joules = None if device.host else self._try(device)
            if joules is not None:
                self._devices[device.name] = device
                self._first_j[device.name] = self._last_j[device.name] = joules

    def _is_fresh(self, name: str, now_s: float) -> bool:
        return now_s - self._read_at_s.get(name, -math.inf) < MIN_INTERVAL_S

    def _try(self, device: Device) -> float | None:
        try:
            return self._read_device(device)
        except DeviceLost:
            return None

    def sent(self, worker_id: str, devices: Sequence[Device], now_s: float) -> None:
        """A worker was sent a micro-batch."""
        if not self._first_j:
            return
        self._outstanding[worker_id] += 1
        if self._outstanding[worker_id] == 1:
            self._on[worker_id] = tuple(device.name for device in devices)
            for name in self._on[worker_id]:
                self._read(name, now_s)
                self._at_work[name].append(worker_id)

    def answered(self, worker_id: str, now_s: float, *, is_over: bool) -> float | None:
        """Return the joules since it was sent, or last answered; None: not known.

        ``is_over``: it has finished a micro-batch, and not only one of its stages.
        """
        names = self._on.get(worker_id, ())
        for name in names:
            self._read(name, now_s)
        joules = self._used_j.pop(worker_id, 0.0)
        if is_over and worker_id in self._on:
            self._outstanding[worker_id] -= 1
            if not self._outstanding[worker_id]:
                self.gone(worker_id, now_s)
        is_known = bool(names) and all(name in self._devices for name in names)
        return joules if is_known else None

    def gone(self, worker_id: str, now_s: float) -> None:
        """A worker computes no longer: it has nothing in flight, or has died."""
        for name in self._on.pop(worker_id, ()):
            self._read(name, now_s)
            self._at_work[name].remove(worker_id)
        self._outstanding.pop(worker_id, None)
        self._used_j.pop(worker_id, None)

    def _read(self, name: str, now_s: float) -> None:
        """Divide what a device has used since the last time among who computed meanwhile."""
        device = self._devices.get(name)
        if device is None or self._is_fresh(name, now_s):
            return
        self._read_at_s[name] = now_s
        joules = self._try(device)
        if joules is None:
            del self._devices[name]
            return
        used_j, self._last_j[name] = joules - self._last_j[name], joules
        for worker_id in self._at_work[name]:
            self._used_j[worker_id] += used_j / len(self._at_work[name])

    def totals_j(self) -> dict[str, float]:
        """Return what each device has used since the run started, as far as it could be read."""
        for name in list(self._devices):
            self._read(name, math.inf)
        return {n: round(self._last_j[n] - self._first_j[n], 3) for n in self._devices}
