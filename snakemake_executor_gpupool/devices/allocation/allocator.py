"""Who holds which device, and who gets it next: state and decisions. Pure.

The run loop reports events to the :class:`Allocator` and carries out the effects that it
returns. One thread at a time may call it::

    request ──► Granted ──► busy ⇄ idle ──► Evict(RESTART) ──► gone
                 (busy)               └───► Evict(CPU) ──► offloaded ──► resume ──► Granted
                                                       └─► offload_failed ──► gone

A holder is busy from its grant on, until :meth:`Allocator.idle` is called.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

from snakemake_executor_gpupool.devices.allocation.effects import (
    AllocationEffect,
    Evict,
    Granted,
    Impossible,
    Snapshot,
    who_is_where,
)
from snakemake_executor_gpupool.devices.allocation.foresight import Foresight, with_next_uses
from snakemake_executor_gpupool.devices.allocation.holders import HolderTable
from snakemake_executor_gpupool.devices.allocation.inventory import DeviceInventory
from snakemake_executor_gpupool.devices.allocation.occupancy import Occupancy
from snakemake_executor_gpupool.devices.allocation.policy import find_placement
from snakemake_executor_gpupool.devices.allocation.queue import RequestQueue, WaitingRequest
from snakemake_executor_gpupool.devices.allocation.requests import (
    LEASE,
    WORKER,
    DeviceRequest,
    Holder,
    Phase,
    can_offload,
    suits,
    why_impossible,
)
from snakemake_executor_gpupool.devices.allocation.round import (
    Grant,
    Patience,
    Removal,
    may_press,
    plan_round,
    should_yield,
)
from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import is_gpu

__all__ = [
    "LEASE",
    "WORKER",
    "AllocationEffect",
    "Allocator",
    "DeviceRequest",
    "Evict",
    "Granted",
    "Impossible",
    "Phase",
    "Snapshot",
]


class Allocator(DeviceInventory):
    """Decides who holds which device.

    Every method that returns effects takes ``now_s``, seconds of one clock that never runs
    backwards. A ``KeyError`` means that there is no holder of the given id, a ``ValueError`` that
    the holder is in a phase in which the event cannot happen.

    Parameters
    ----------
    devices
        All devices that may ever be managed; managed until :meth:`configure` says otherwise. A
        request for ``cpu`` is served even if no CPU slot is among them, since the host is not a
        card that needs managing.
    allow_multiple_per_device
        Pack workers on GPUs as far as the known memory figures allow.
    offload_strategy
        What happens to evicted workers that can be offloaded.
    yield_after_s
        How long a request waits before a worker with work left makes room for it.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        allow_multiple_per_device: bool = False,
        offload_strategy: OffloadStrategy = OffloadStrategy.RESTART,
        yield_after_s: float = 30.0,
    ) -> None:
        super().__init__(devices)
        self._packing = allow_multiple_per_device
        self._strategy = offload_strategy
        self._yield_after_s = yield_after_s
        self._holders = HolderTable()
        self._queue = RequestQueue()
        self._all_claimed = False  # waiting requests have claimed every GPU
        self._given_at: dict[str, int] = {}
        self._serial = 0
        #: The names of usable devices with which every holder was on some of them.
        self._without_strays: frozenset[str] | None = None
        #: Knows what is still to come; to be replaced by who does.
        self.foresight = Foresight()

    # --- requests

    def request(self, request: DeviceRequest, now_s: float) -> list[AllocationEffect]:
        """Take in a request, and grant it devices as soon as there are some.

        A holder that has devices which satisfy the request keeps them: it is granted the same
        ones, and nothing moves.

        Raises
        ------
        ValueError
            The id is waiting already, or holds devices that do not satisfy the request.
        """
        if self._queue.get(request.request_id):
            raise ValueError(f"{request.request_id} is waiting already")
        if request.request_id in self._holders:
            return self._keep(request)
        return self._request(WaitingRequest(request, now_s, self._next_serial()), now_s)

    def _request(self, waiting: WaitingRequest, now_s: float) -> list[AllocationEffect]:
        reason = why_impossible(waiting.request, (*self._usable, *self._expected))
        if reason:
            return [Impossible(waiting.request_id, reason)]
        if not is_gpu(waiting.request.spec):
            return [self._grant_cpu(waiting)]
        self._queue.join(waiting)
        if self._all_claimed and waiting is self._queue.last:
            return []  # thousands of requests may come at once; each only joins the end
        return self._serve(now_s)

    def _keep(self, request: DeviceRequest) -> list[AllocationEffect]:
        holder = self._holders[request.request_id]
        there = self._devices_of(holder)
        satisfied = len(there) == request.spec.count and all(
            suits(request, device) for device in there
        )
        if not satisfied or holder.phase is Phase.LEAVING or self._is_stray(holder):
            raise ValueError(
                f"{request.request_id} holds {holder.device_names} ({holder.phase.name})"
            )
        self._holders.change(holder, phase=Phase.BUSY)
        return [Granted(request.request_id, there)]

    def _grant_cpu(self, waiting: WaitingRequest) -> Granted:
        """Grant CPU slots at once: any number of workers shares them, and nobody has to leave."""
        placement = find_placement(waiting.request, self._occupancy(Foresight()))
        assert placement is not None and not placement.in_the_way
        return self._grant(waiting, placement.devices)

    def withdraw(self, request_id: str, now_s: float) -> list[AllocationEffect]:
        """Give up waiting, or return a grant that was not used.

        A worker that waits to :meth:`resume` stays offloaded. Unknown ids are ignored.
        """
        waiting = self._queue.get(request_id)
        if waiting is None:
            return self.gone(request_id, now_s)
        self._queue.leave(waiting)
        return self._serve(now_s)

    def retry(self, request_id: str, now_s: float) -> list[AllocationEffect]:
        """Return a grant that could not be used, and wait again at the old place in the queue.

        For a device that another process turned out to hold, or that turned out to be broken:
        call :meth:`foreign` or :meth:`lost` first.
        """
        holder, waiting = self._holders[request_id], self._holders.granted_for(request_id)
        if holder.phase is not Phase.BUSY or not is_gpu(holder.request.spec):
            raise ValueError(f"{request_id} has no unused grant of a GPU")
        if waiting.is_returning:
            self._holders.change(holder, device_names=(), phase=Phase.OFFLOADED)
        else:
            self._holders.forget(request_id)
        self._queue.join(waiting)
        return self._refuse_impossible() + self._serve(now_s)

    def resume(
        self, holder_id: str, now_s: float, *, same_devices: bool = False
    ) -> list[AllocationEffect]:
        """Let an offloaded worker wait for devices again.

        With ``same_devices`` it waits for those that it had: its process may see no others.
        """
        holder = self._holders.expect(holder_id, Phase.OFFLOADED)
        request, home = holder.request, self._holders.last_devices(holder_id)
        if same_devices:
            request = replace(request, spec=DeviceSpec(request.spec.kind, len(home), home))
        return self._request(
            WaitingRequest(request, now_s, self._next_serial(), is_returning=True), now_s
        )

    # --- what holders do

    def busy(self, holder_id: str, now_s: float) -> None:
        """Note that a holder computes (or loads): it is not evicted until it is idle."""
        holder = self._holders.expect(holder_id, Phase.BUSY, Phase.IDLE)
        if holder.phase is not Phase.BUSY:  # it is told before each micro-batch
            self._holders.change(holder, phase=Phase.BUSY)

    def idle(self, holder_id: str, now_s: float) -> list[AllocationEffect]:
        """Note that nothing of a holder is in flight; it may be evicted for waiting requests."""
        holder = self._holders[holder_id]
        if holder.request.kind == LEASE:
            raise ValueError(f"{holder_id} is a lease: it ends, but is never idle")
        if holder.phase is Phase.BUSY:
            serial = self._next_serial()
            self._holders.change(holder, phase=Phase.IDLE, last_used_s=now_s, serial=serial)
        return self._serve(now_s)

    def wants_yield(
        self, holder_id: str, now_s: float, *, since_s: float = -math.inf, load_s: float = 0.0
    ) -> bool:
        """Tell whether a worker that has work left should stop here for another request.

        Called between two micro-batches. If it is True, the caller calls :meth:`idle` for the
        worker, which is then evicted. Only for a request of higher priority does a worker stop
        before it has computed for as long as it took to load.

        Parameters
        ----------
        since_s
            When its model was on its devices.
        load_s
            How long that had taken.
        """
        holder = self._holders[holder_id]
        if holder.request.kind == LEASE or holder.phase is not Phase.BUSY:
            return False
        if self._is_stray(holder):
            return True
        if not len(self._queue):
            return False
        patience = Patience(now_s, self._yield_after_s)
        has_paid = now_s - since_s >= max(self._yield_after_s, load_s)
        if not any(may_press(each, holder, patience, has_paid) for each in self._queue.firsts()):
            return False  # asked between any two batches, however many wait
        queue = list(self._queue.in_order(self.foresight))
        return should_yield(holder, queue, self._occupancy, patience, has_paid=has_paid)

    def is_wanted_by_others(self, group: Hashable) -> bool:
        """Tell whether a request of anybody but one group is waiting."""
        return any(
            waiting.request.group is None or waiting.request.group != group
            for waiting in self._queue
        )

    def leaves(self, holder_id: str) -> None:
        """Note that a holder was told to end: its devices are free soon, so nobody else need go."""
        holder = self._holders.get(holder_id)
        if holder is not None and holder.phase in (Phase.IDLE, Phase.BUSY):
            self._holders.change(holder, phase=Phase.LEAVING)

    def gone(self, holder_id: str, now_s: float) -> list[AllocationEffect]:
        """Note that a holder has ended, in whatever way, and its memory is free."""
        self._holders.forget(holder_id)
        if waiting := self._queue.get(holder_id):
            self._queue.leave(waiting)  # an offloaded worker that died waiting to return
        return self._serve(now_s)

    def offloaded(self, holder_id: str, now_s: float) -> list[AllocationEffect]:
        """Note that an evicted worker's weights are in host memory, and its devices are free."""
        holder = self._holders.expect(holder_id, Phase.LEAVING)
        self._holders.offload(holder)
        return self._serve(now_s)

    def offload_failed(self, holder_id: str, now_s: float) -> list[AllocationEffect]:
        """Note that an offload failed; the devices stay taken until the worker is :meth:`gone`."""
        self._holders.expect(holder_id, Phase.LEAVING)
        return [Evict(holder_id, OffloadStrategy.RESTART)]

    # --- what happens to devices

    def foreign(self, device_name: str, held: bool, now_s: float) -> list[AllocationEffect]:
        """Note that another process took or released a device."""
        (self._foreign.add if held else self._foreign.discard)(device_name)
        return self._serve(now_s)

    def lost(self, device_name: str, now_s: float) -> list[AllocationEffect]:
        """Note that a device is gone for good: it is never granted again."""
        self._lose(device_name)
        return self._refuse_impossible() + self._serve(now_s)

    def join(self, devices: Sequence[Device], now_s: float) -> list[AllocationEffect]:
        """Take in devices that were not there before, or are there again after they were lost."""
        self._take_in(devices)
        return self._serve(now_s)

    def expect(self, devices: Sequence[Device], now_s: float) -> list[AllocationEffect]:
        """Let requests wait for devices like these, which may :meth:`join` later, and no others.

        Requests that wait for what is no longer expected are refused.
        """
        self._expect_devices(devices)
        return self._refuse_impossible() + self._serve(now_s)

    def configure(
        self,
        managed: Sequence[Device] | None,
        now_s: float,
        *,
        allow_multiple_per_device: bool | None = None,
        offload_strategy: OffloadStrategy | None = None,
    ) -> list[AllocationEffect]:
        """Change which devices are managed (None: all again), and what else is given.

        Idle workers on devices that are no longer managed are ended, busy ones
        once they are idle; leases run to their end.
        """
        self._manage(managed)
        if allow_multiple_per_device is not None:
            self._packing = allow_multiple_per_device
        if offload_strategy is not None:
            self._strategy = offload_strategy
        return self._refuse_impossible() + self._serve(now_s)

    # --- the state

    def has_devices(self, holder_id: str) -> bool:
        """Tell whether there is such a holder, and it has devices."""
        holder = self._holders.get(holder_id)
        return holder is not None and bool(holder.device_names)

    def allocation_map(self) -> dict[str, list[str]]:
        """Return for each device who is on it, in the order of their grants."""
        return who_is_where(self._managed, self._holders)

    def snapshot(self) -> Snapshot:
        """Return the whole state."""
        waiting = [waiting.request for waiting in self._queue]
        return Snapshot.of(self._managed, self._holders, waiting, self._foreign, self._lost)

    # --- rounds

    def _serve(self, now_s: float) -> list[AllocationEffect]:
        """Plan a round, apply it, and return its effects."""
        effects = self._evict_strays()
        if not self._queue:
            self._all_claimed = False
            return effects  # most workers become idle when nothing waits
        occupancy = self._occupancy()
        patience = Patience(now_s, self._yield_after_s)
        queue = self._queue.in_order(self.foresight)
        moves = plan_round(occupancy, queue, patience, self._serial + 1)
        self._all_claimed = not occupancy.has_open_gpus
        return effects + [self._apply(move) for move in moves]

    def _apply(self, move: Grant | Removal) -> AllocationEffect:
        if isinstance(move, Removal):
            holder = self._holders[move.holder.holder_id]
            return self._evict(holder, wholly=move.waiting.request.alone)
        self._queue.leave(move.waiting)
        return self._grant(move.waiting, move.devices)

    def _grant(self, waiting: WaitingRequest, devices: tuple[Device, ...]) -> Granted:
        names = tuple(device.name for device in devices)
        serial = self._next_serial()
        self._holders.grant(waiting, names, serial)
        self._given_at.update(dict.fromkeys(names, serial))
        return Granted(waiting.request_id, devices)

    def _evict(self, holder: Holder, *, wholly: bool = False) -> Evict:
        self._holders.change(holder, phase=Phase.LEAVING)
        # Only what certainly works is offloaded, and only from devices that remain ours.
        stays = not wholly and not self._is_stray(holder)
        may_offload = stays and can_offload(holder.request, self._devices_of(holder))
        return Evict(holder.holder_id, self._strategy if may_offload else OffloadStrategy.RESTART)

    def _evict_strays(self) -> list[AllocationEffect]:
        """End idle workers on devices that are lost or no longer managed."""
        if self._usable_names is self._without_strays:
            return []
        strays = [holder for holder in self._holders if self._is_stray(holder)]
        if not strays:
            self._without_strays = self._usable_names
        return [self._evict(holder) for holder in strays if holder.phase is Phase.IDLE]

    def _is_stray(self, holder: Holder) -> bool:
        return not self._usable_names.issuperset(holder.device_names)

    def _refuse_impossible(self) -> list[AllocationEffect]:
        """Refuse the waiting requests that a change of the devices has made impossible."""
        reasons = self._queue.leave_impossible((*self._usable, *self._expected))
        return [Impossible(request_id, reason) for request_id, reason in reasons.items()]

    # --- small helpers

    def _occupancy(self, foresight: Foresight | None = None) -> Occupancy:
        there = [holder for holder in self._holders if holder.phase is not Phase.OFFLOADED]
        on_devices = with_next_uses(there, foresight or self.foresight)
        return Occupancy(self._usable, on_devices, self._foreign, self._packing, self._given_at)

    def _devices_of(self, holder: Holder) -> tuple[Device, ...]:
        return tuple(self._known[name] for name in holder.device_names)

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial
