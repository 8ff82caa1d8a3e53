"""Who holds which device, and who gets it next: pure state and decisions.

The run loop tells the :class:`Allocator` what happened and does what the
returned effects say. There are no threads, clocks, files, locks or logs in
here; one caller at a time::

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
    Effect,
    Evict,
    Granted,
    Impossible,
    Snapshot,
    who_is_where,
)
from snakemake_executor_gpupool.devices.allocation.inventory import DeviceInventory
from snakemake_executor_gpupool.devices.allocation.occupancy import (
    LEASE,
    WORKER,
    DeviceRequest,
    Holder,
    Occupancy,
    Phase,
    suits,
    why_impossible,
)
from snakemake_executor_gpupool.devices.allocation.policy import find_placement
from snakemake_executor_gpupool.devices.allocation.round import (
    Grant,
    Line,
    Removal,
    Waiter,
    plan_round,
    presses,
)
from snakemake_executor_gpupool.devices.device import (
    Device,
    OffloadStrategy,
)
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, sorted_names
from snakemake_executor_gpupool.devices.kinds import is_gpu

__all__ = [
    "LEASE",
    "WORKER",
    "Allocator",
    "DeviceRequest",
    "Effect",
    "Evict",
    "Granted",
    "Impossible",
    "Phase",
    "Snapshot",
]


class Allocator(DeviceInventory):
    """Decides who holds which device.

    Parameters
    ----------
    devices
        All devices that may ever be managed; managed until :meth:`configure`
        says otherwise. A request for ``cpu`` is served even if no CPU slot is
        among them: the host is no card that needs managing.
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
        self._holders: dict[str, Holder] = {}
        self._tickets: dict[str, Waiter] = {}  # where each holder once stood in line
        self._homes: dict[str, tuple[str, ...]] = {}  # the last devices of offloaded ones
        self._line = Line()
        self._all_spoken_for = False  # those in line have claimed every GPU
        self._given_at: dict[str, int] = {}
        self._serial = 0

    # --- requests

    def request(self, request: DeviceRequest, now_s: float) -> list[Effect]:
        """Ask for devices.

        A holder that already is on devices that satisfy the request keeps them:
        it is granted the same ones, and nothing moves.

        Raises
        ------
        ValueError
            The id is in line already, or holds devices that do not satisfy the request.
        """
        if self._line.get(request.request_id):
            raise ValueError(f"{request.request_id} is waiting already")
        if request.request_id in self._holders:
            return self._keep(request)
        return self._request(Waiter(request, now_s, self._next_serial()), now_s)

    def _request(self, waiter: Waiter, now_s: float) -> list[Effect]:
        reason = why_impossible(waiter.request, (*self._usable, *self._expected))
        if reason:
            return [Impossible(waiter.request.request_id, reason)]
        return self._enqueue(waiter, now_s)

    def _keep(self, request: DeviceRequest) -> list[Effect]:
        holder = self._holders[request.request_id]
        there = self._devices_of(holder)
        satisfied = len(there) == request.spec.count and all(
            suits(request, device) for device in there
        )
        if not satisfied or holder.phase is Phase.LEAVING or self._is_stray(holder):
            raise ValueError(
                f"{request.request_id} holds {holder.device_names} ({holder.phase.name})"
            )
        self._holders[request.request_id] = replace(holder, phase=Phase.BUSY)
        return [Granted(request.request_id, there)]

    def _enqueue(self, waiter: Waiter, now_s: float) -> list[Effect]:
        if not is_gpu(waiter.request.spec):
            return [self._grant_cpu(waiter)]
        self._line.join(waiter)
        if self._all_spoken_for and waiter is self._line.last:
            return []  # thousands may ask at once, and each only joins the end
        return self._serve(now_s)

    def _grant_cpu(self, waiter: Waiter) -> Granted:
        """Grant CPU slots at once: they are shared without limit and never waited for."""
        placement = find_placement(waiter.request, self._occupancy())
        assert placement is not None and not placement.in_the_way
        return self._grant(waiter, placement.devices)

    def withdraw(self, request_id: str, now_s: float) -> list[Effect]:
        """Give up waiting, or return a grant that was not used.

        A worker that waits to :meth:`resume` stays offloaded. Unknown ids are ignored.
        """
        waiter = self._line.get(request_id)
        if waiter is None:
            return self.gone(request_id, now_s)
        self._line.leave(waiter)
        return self._serve(now_s)

    def retry(self, request_id: str, now_s: float) -> list[Effect]:
        """Return a grant that could not be used, and wait again at the old place in line.

        For a device that another process turned out to hold, or that turned out to be
        broken: call :meth:`foreign` or :meth:`lost` first.
        """
        holder, ticket = self._holders[request_id], self._tickets[request_id]
        if holder.phase is not Phase.BUSY or not is_gpu(holder.request.spec):
            raise ValueError(f"{request_id} has no unused grant of a GPU")
        if ticket.returning:
            self._holders[request_id] = replace(holder, device_names=(), phase=Phase.OFFLOADED)
        else:
            self._forget(request_id)
        self._line.join(ticket)
        return self._refuse_impossible() + self._serve(now_s)

    def resume(self, holder_id: str, now_s: float, *, same_devices: bool = False) -> list[Effect]:
        """Let an offloaded worker wait for devices again.

        With ``same_devices`` for those that it had: its process may see no others.
        """
        holder = self._expect(holder_id, Phase.OFFLOADED)
        request, home = holder.request, self._homes[holder_id]
        if same_devices:
            request = replace(request, spec=DeviceSpec(request.spec.kind, len(home), home))
        return self._request(Waiter(request, now_s, self._next_serial(), returning=True), now_s)

    # --- what holders do

    def busy(self, holder_id: str, now_s: float) -> None:
        """Note that a holder computes (or loads): it is not evicted until it is idle."""
        holder = self._expect(holder_id, Phase.BUSY, Phase.IDLE)
        self._holders[holder_id] = replace(holder, phase=Phase.BUSY)

    def idle(self, holder_id: str, now_s: float) -> list[Effect]:
        """Note that nothing of a holder is in flight; it may be evicted for those who wait."""
        holder = self._holders[holder_id]
        if holder.request.kind == LEASE:
            raise ValueError(f"{holder_id} is a lease: it ends, but is never idle")
        if holder.phase is Phase.BUSY:
            serial = self._next_serial()
            idle = replace(holder, phase=Phase.IDLE, last_used_s=now_s, serial=serial)
            self._holders[holder_id] = idle
        return self._serve(now_s)

    def wants_yield(
        self, holder_id: str, now_s: float, *, since_s: float = -math.inf, load_s: float = 0.0
    ) -> bool:
        """Whether a worker that has work left should stop here for somebody else.

        Asked between two micro-batches. If True, the caller calls :meth:`idle`
        for the worker, which is then evicted. For nobody but a request of higher
        priority does it stop before its turn was worth its load.

        Parameters
        ----------
        since_s
            When its turn began: it had its model on its devices.
        load_s
            What it had taken until then.
        """
        holder = self._holders[holder_id]
        if holder.request.kind == LEASE or holder.phase is not Phase.BUSY:
            return False
        if self._is_stray(holder):
            return True
        is_over = now_s - since_s >= max(self._yield_after_s, load_s)

        def presses_it(waiter: Waiter, occupancy: Occupancy) -> bool:
            first = waiter.request.priority > holder.request.priority
            return (first or is_over) and presses(
                waiter, holder, occupancy, now_s, self._yield_after_s
            )

        if not len(self._line):
            return False
        occupancy = self._occupancy()
        if not any(presses_it(waiter, occupancy) for waiter in self._line):
            return False
        occupancy.put(replace(holder, phase=Phase.IDLE, last_used_s=now_s))
        for move in plan_round(occupancy, self._line, now_s, self._yield_after_s, self._serial):
            if isinstance(move, Removal) and move.holder.request.request_id == holder_id:
                return presses_it(move.waiter, self._occupancy())
        return False

    def is_wanted_by_others(self, group: Hashable) -> bool:
        """Whether anybody but a group waits in line."""
        return any(
            waiter.request.group is None or waiter.request.group != group for waiter in self._line
        )

    def gone(self, holder_id: str, now_s: float) -> list[Effect]:
        """Note that a holder ended, however it did, and its memory is free."""
        self._forget(holder_id)
        if waiter := self._line.get(holder_id):
            self._line.leave(waiter)  # an offloaded worker that died waiting to return
        return self._serve(now_s)

    def offloaded(self, holder_id: str, now_s: float) -> list[Effect]:
        """Note that an evicted worker's weights are in host memory and its devices free."""
        holder = self._expect(holder_id, Phase.LEAVING)
        self._homes[holder_id] = holder.device_names
        self._holders[holder_id] = replace(holder, device_names=(), phase=Phase.OFFLOADED)
        return self._serve(now_s)

    def offload_failed(self, holder_id: str, now_s: float) -> list[Effect]:
        """Note that an offload failed; the devices stay taken until the worker is :meth:`gone`."""
        self._expect(holder_id, Phase.LEAVING)
        return [Evict(holder_id, OffloadStrategy.RESTART)]

    # --- what happens to devices

    def foreign(self, device_name: str, held: bool, now_s: float) -> list[Effect]:
        """Note that another process took or released a device."""
        (self._foreign.add if held else self._foreign.discard)(device_name)
        return self._serve(now_s)

    def lost(self, device_name: str, now_s: float) -> list[Effect]:
        """Note that a device is gone for good: it is never granted again."""
        self._lose(device_name)
        return self._refuse_impossible() + self._serve(now_s)

    def join(self, devices: Sequence[Device], now_s: float) -> list[Effect]:
        """Take in devices that were not there before, or are there again after they were lost."""
        self._take_in(devices)
        return self._serve(now_s)

    def expect(self, devices: Sequence[Device], now_s: float) -> list[Effect]:
        """Let requests wait for devices such as these, which may yet :meth:`join`, and no others.

        Those in line for what is no longer expected are refused.
        """
        self._look_forward_to(devices)
        return self._refuse_impossible() + self._serve(now_s)

    def configure(
        self,
        managed: Sequence[Device] | None,
        now_s: float,
        *,
        allow_multiple_per_device: bool | None = None,
        offload_strategy: OffloadStrategy | None = None,
    ) -> list[Effect]:
        """Change the managed devices (None: all again), and what else is given.

        Idle workers on devices that are no longer managed are ended, busy ones
        once they are idle; leases run to their end.
        """
        self._manage(managed)
        if allow_multiple_per_device is not None:
            self._packing = allow_multiple_per_device
        if offload_strategy is not None:
            self._strategy = offload_strategy
        return self._refuse_impossible() + self._serve(now_s)

    # --- what one can see

    def has_devices(self, holder_id: str) -> bool:
        """Whether somebody holds devices."""
        holder = self._holders.get(holder_id)
        return holder is not None and bool(holder.device_names)

    def allocation_map(self) -> dict[str, list[str]]:
        """Return for each device who is on it, in the order of their grants."""
        return who_is_where(self._managed, self._holders.values())

    def snapshot(self) -> Snapshot:
        """Return the whole state."""
        return Snapshot(
            managed=tuple(device.name for device in self._managed),
            holders={
                holder_id: (holder.request.owner, holder.phase, holder.device_names)
                for holder_id, holder in self._holders.items()
            },
            waiting=tuple(waiter.request.request_id for waiter in self._line),
            foreign=tuple(sorted_names(self._foreign)),
            lost=tuple(sorted_names(self._lost)),
        )

    # --- turning decisions into state

    def _serve(self, now_s: float) -> list[Effect]:
        """Decide one turn, apply it, and return its effects."""
        effects = self._evict_strays()
        if not self._line:
            self._all_spoken_for = False
            return effects  # of a thousand workers, most fall idle when nobody waits
        occupancy = self._occupancy()
        moves = plan_round(occupancy, self._line, now_s, self._yield_after_s, self._serial + 1)
        self._all_spoken_for = not occupancy.has_open_gpus
        return effects + [self._apply(move) for move in moves]

    def _apply(self, move: Grant | Removal) -> Effect:
        if isinstance(move, Removal):
            return self._evict(
                self._holders[move.holder.request.request_id], wholly=move.waiter.request.alone
            )
        self._line.leave(move.waiter)
        return self._grant(move.waiter, move.devices)

    def _grant(self, waiter: Waiter, devices: tuple[Device, ...]) -> Granted:
        request_id = waiter.request.request_id
        before = self._holders.pop(request_id, None)  # an offloaded worker that returns
        request = before.request if before else waiter.request
        names = tuple(device.name for device in devices)
        serial = self._next_serial()
        self._holders[request_id] = Holder(request, names, serial=serial)
        self._tickets[request_id] = waiter
        self._given_at.update(dict.fromkeys(names, serial))
        return Granted(request_id, devices)

    def _evict(self, holder: Holder, *, wholly: bool = False) -> Evict:
        self._holders[holder.request.request_id] = replace(holder, phase=Phase.LEAVING)
        how = OffloadStrategy.RESTART if wholly else self._how(holder)
        return Evict(holder.request.request_id, how)

    def _how(self, holder: Holder) -> OffloadStrategy:
        """Choose how a worker makes room: only what certainly works is offloaded."""
        request = holder.request
        # An offloaded process keeps its CUDA context, which an Exclusive_Process
        # card would refuse to everybody else, and which a card that is no longer
        # ours should be rid of.
        leaves_nothing = self._is_stray(holder) or any(
            device.exclusive_process for device in self._devices_of(holder)
        )
        if request.can_offload and not request.pinned and not leaves_nothing:
            return self._strategy
        return OffloadStrategy.RESTART

    def _evict_strays(self) -> list[Effect]:
        """End idle workers on devices that are lost or no longer managed."""
        strays = [
            holder
            for holder in self._holders.values()
            if holder.phase is Phase.IDLE and self._is_stray(holder)
        ]
        return [self._evict(holder) for holder in strays]

    def _is_stray(self, holder: Holder) -> bool:
        return not self._usable_names.issuperset(holder.device_names)

    def _refuse_impossible(self) -> list[Effect]:
        """Refuse those in line whom a change of the devices left without hope."""
        refused: list[Effect] = []
        for waiter in list(self._line):
            reason = why_impossible(waiter.request, (*self._usable, *self._expected))
            if reason:
                self._line.leave(waiter)
                refused.append(Impossible(waiter.request.request_id, reason))
        return refused

    # --- small helpers

    def _occupancy(self) -> Occupancy:
        on_devices = [
            holder for holder in self._holders.values() if holder.phase is not Phase.OFFLOADED
        ]
        return Occupancy(self._usable, on_devices, self._foreign, self._packing, self._given_at)

    def _devices_of(self, holder: Holder) -> tuple[Device, ...]:
        return tuple(self._known[name] for name in holder.device_names)

    def _expect(self, holder_id: str, *phases: Phase) -> Holder:
        holder = self._holders[holder_id]
        if holder.phase not in phases:
            raise ValueError(f"{holder_id} is {holder.phase.name}")
        return holder

    def _forget(self, holder_id: str) -> None:
        self._holders.pop(holder_id, None)
        self._tickets.pop(holder_id, None)
        self._homes.pop(holder_id, None)

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial
