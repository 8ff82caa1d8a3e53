"""Random histories of the allocator against a simple model of who holds what.

The model knows no policy: it books what the effects say and what it told the
allocator, and checks after every step what must never happen.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snakemake_executor_gpupool.devices.allocator import (
    LEASE,
    WORKER,
    Allocator,
    Ask,
    Evict,
    Granted,
    Impossible,
    Phase,
)
from snakemake_executor_gpupool.devices.model import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.strings import parse_device

CARDS = 4
MEMORY_MIB = 100
YIELD_AFTER_S = 30
SPECS = ["cuda", "cuda", "cudax2", "cudax3", "cudax5", "cuda:0", "cuda:1", "cuda:2,3", "cuda:9"]


def card(index, exclusive_process):
    return Device(
        f"cuda:{index}",
        "cuda",
        index,
        f"GPU-{index}",
        MEMORY_MIB,
        visible_id=str(index),
        exclusive_process=exclusive_process,
    )


class Holder:
    def __init__(self, ask, devices):
        self.ask = ask
        self.names = tuple(device.name for device in devices)
        self.phase = Phase.BUSY


class AllocatorMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now_s = 0.0
        self.number = 0
        self.holders = {}
        self.waiting = {}
        self.foreign = set()
        self.lost = set()

    @initialize(
        packing=st.booleans(),
        strategy=st.sampled_from(OffloadStrategy),
        exclusive=st.booleans(),
    )
    def start(self, packing, strategy, exclusive):
        self.cards = [card(i, exclusive and i == 0) for i in range(CARDS)]
        self.managed = {device.name for device in self.cards}
        self.packing = packing
        self.allocator = Allocator(
            self.cards,
            allow_multiple_per_device=packing,
            offload_strategy=strategy,
            yield_after_s=YIELD_AFTER_S,
        )

    # --- booking

    def tick(self):
        self.now_s += 1
        return self.now_s

    @property
    def usable(self):
        return self.managed - self.lost

    def book(self, effects):
        for effect in effects:
            {Granted: self.granted, Evict: self.evicted, Impossible: self.refused}[type(effect)](
                effect
            )

    def granted(self, effect):
        ask = self.waiting.pop(effect.ask_id)
        names = {device.name for device in effect.devices}
        assert len(names) == ask.spec.count
        assert names <= self.usable - self.foreign
        assert not ask.spec.names or names == set(ask.spec.names)
        for earlier in self.earlier_than(ask):
            assert not self.could_have_had(earlier, names), "overtaken"
        returning = self.holders.get(effect.ask_id)
        assert returning is None or returning.phase is Phase.OFFLOADED
        self.holders[effect.ask_id] = Holder(ask, effect.devices)

    def earlier_than(self, ask):
        """Return those who still wait and were ahead in the line."""
        order = list(self.order)
        ahead = order[: order.index(ask.ask_id)]
        return [self.waiting[other] for other in ahead if other in self.waiting]

    def could_have_had(self, ask, names):
        """Whether somebody could have used exactly these free devices instead."""
        if self.packing or not names >= set(ask.spec.names):
            return False
        return ask.spec.count <= len(names)

    def evicted(self, effect):
        holder = self.holders[effect.holder_id]
        assert holder.ask.kind == WORKER, "a lease was evicted"
        assert holder.phase is Phase.IDLE, "a busy worker was evicted"
        if effect.how is OffloadStrategy.CPU:
            assert holder.ask.can_offload
            assert not holder.ask.pinned
            assert "cuda:0" not in holder.names or not self.cards[0].exclusive_process
        else:
            assert effect.how is OffloadStrategy.RESTART
        holder.phase = Phase.LEAVING

    def refused(self, effect):
        ask = self.waiting.pop(effect.ask_id)
        assert effect.reason
        suited = [name for name in self.usable if not ask.spec.names or name in ask.spec.names]
        assert len(suited) < ask.spec.count or (ask.vram_mib or 0) > MEMORY_MIB

    def call(self, method, *args, **fields):
        self.order = self.allocator.snapshot().waiting
        self.book(method(*args, now_s=self.tick(), **fields))

    def wait(self, ask, method, *args, **fields):
        """Make a call that puts one request in line."""
        self.waiting[ask.ask_id] = ask
        ahead = [
            other
            for other in self.allocator.snapshot().waiting
            if self.waiting[other].priority >= ask.priority
        ]
        behind = [o for o in self.allocator.snapshot().waiting if o not in ahead]
        self.order = (*ahead, ask.ask_id, *behind)
        self.book(method(*args, now_s=self.tick(), **fields))

    def some(self, data, *phases, kind=None):
        names = [
            holder_id
            for holder_id, holder in self.holders.items()
            if holder.phase in phases and kind in (None, holder.ask.kind)
        ]
        return data.draw(st.sampled_from(sorted(names))) if names else None

    # --- what can happen

    @rule(
        spec=st.sampled_from(SPECS),
        kind=st.sampled_from([WORKER, WORKER, LEASE]),
        priority=st.integers(0, 2),
        vram_mib=st.sampled_from([None, 30, 60, 100, 101]),
        can_offload=st.booleans(),
        pinned=st.booleans(),
    )
    def request(self, spec, kind, priority, vram_mib, can_offload, pinned):
        self.number += 1
        ask = Ask(
            f"a{self.number}",
            parse_device(spec),
            kind,
            priority=priority,
            vram_mib=vram_mib,
            can_offload=can_offload,
            pinned=pinned,
        )
        self.wait(ask, self.allocator.request, ask)

    @rule(data=st.data())
    def becomes_idle(self, data):
        if holder_id := self.some(data, Phase.BUSY, kind=WORKER):
            self.holders[holder_id].phase = Phase.IDLE
            self.call(self.allocator.idle, holder_id)

    @rule(data=st.data())
    def becomes_busy(self, data):
        if holder_id := self.some(data, Phase.IDLE):
            self.holders[holder_id].phase = Phase.BUSY
            self.allocator.busy(holder_id, self.tick())

    @rule(data=st.data(), wait_s=st.sampled_from([0, YIELD_AFTER_S]))
    def stops_if_others_press(self, data, wait_s):
        holder_id = self.some(data, Phase.BUSY, kind=WORKER)
        self.now_s += wait_s
        if holder_id and self.allocator.wants_yield(holder_id, self.now_s):
            self.holders[holder_id].phase = Phase.IDLE
            self.call(self.allocator.idle, holder_id)
            assert self.holders[holder_id].phase is Phase.LEAVING, "yielded for nothing"

    @rule(data=st.data())
    def ends(self, data):
        if holder_id := self.some(data, *Phase):
            self.waiting.pop(holder_id, None)
            del self.holders[holder_id]
            self.call(self.allocator.gone, holder_id)

    @rule(data=st.data(), works=st.booleans())
    def offload_ends(self, data, works):
        holder_id = self.some(data, Phase.LEAVING)
        if holder_id and self.holders[holder_id].ask.can_offload:
            holder = self.holders[holder_id]
            if works:
                holder.phase, holder.names = Phase.OFFLOADED, ()
                self.call(self.allocator.offloaded, holder_id)
            else:
                effects = self.allocator.offload_failed(holder_id, self.tick())
                assert effects == [Evict(holder_id, OffloadStrategy.RESTART)]

    @rule(data=st.data())
    def wants_to_return(self, data):
        holder_id = self.some(data, Phase.OFFLOADED)
        if holder_id and holder_id not in self.waiting:
            ask = self.holders[holder_id].ask
            self.wait(ask, self.allocator.resume, holder_id)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def gives_up(self, data):
        ask_id = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[ask_id]
        self.call(self.allocator.withdraw, ask_id)

    @rule(index=st.integers(0, CARDS - 1), held=st.booleans())
    def other_process(self, index, held):
        name = f"cuda:{index}"
        if not any(name in holder.names for holder in self.holders.values()):
            (self.foreign.add if held else self.foreign.discard)(name)
            self.call(self.allocator.foreign, name, held)

    @rule(index=st.integers(0, CARDS - 1), really=st.integers(0, 9))
    def falls_off_the_bus(self, index, really):
        if really == 0:
            self.lost.add(f"cuda:{index}")
            self.call(self.allocator.lost, f"cuda:{index}")

    @rule(indices=st.one_of(st.none(), st.sets(st.integers(0, CARDS - 1), min_size=1)))
    def changes_managed_devices(self, indices):
        chosen = self.cards if indices is None else [self.cards[i] for i in sorted(indices)]
        self.managed = {device.name for device in chosen}
        self.call(self.allocator.configure, None if indices is None else chosen)

    # --- what must hold

    @invariant()
    def model_and_allocator_agree(self):
        state = self.allocator.snapshot()
        assert {i: (phase, names) for i, (_, phase, names) in state.holders.items()} == {
            i: (holder.phase, holder.names) for i, holder in self.holders.items()
        }
        assert set(state.waiting) == set(self.waiting)

    @invariant()
    def nobody_shares_who_must_not(self):
        for device in self.cards:
            there = [h.ask for h in self.holders.values() if device.name in h.names]
            if len(there) > 1:
                assert self.packing
                assert not device.exclusive_process
                assert all(ask.kind == WORKER or ask.vram_mib is not None for ask in there)
                assert sum(ask.vram_mib or 0 for ask in there) <= MEMORY_MIB or any(
                    ask.vram_mib is None for ask in there
                )

    @invariant()
    def known_memory_is_never_exceeded(self):
        for device in self.cards:
            there = [h.ask for h in self.holders.values() if device.name in h.names]
            assert sum(ask.vram_mib or 0 for ask in there) <= MEMORY_MIB

    @invariant()
    def the_first_in_line_never_waits_for_free_devices(self):
        line = self.allocator.snapshot().waiting
        free = {
            name
            for name in self.usable - self.foreign
            if not any(name in holder.names for holder in self.holders.values())
        }
        if line:
            spec = self.waiting[line[0]].spec
            suited = {name for name in free if not spec.names or name in spec.names}
            assert len(suited) < spec.count

    @invariant()
    def the_line_is_in_order(self):
        priorities = [self.waiting[i].priority for i in self.allocator.snapshot().waiting]
        assert priorities == sorted(priorities, reverse=True)

    @invariant()
    def who_waits_can_be_served_some_day(self):
        for ask in self.waiting.values():
            suited = [n for n in self.usable if not ask.spec.names or n in ask.spec.names]
            assert len(suited) >= ask.spec.count

    def teardown(self):
        """Every device is eventually free, and everybody who waits is served."""
        if not hasattr(self, "allocator"):
            return
        for name in sorted(self.foreign):
            self.foreign.discard(name)
            self.call(self.allocator.foreign, name, False)
        for _ in range(1000):
            held = [i for i, h in self.holders.items() if h.phase is not Phase.OFFLOADED]
            if not held:
                break
            del self.holders[held[0]]
            self.call(self.allocator.gone, held[0])
        assert not self.waiting
        assert not any(self.allocator.allocation_map().values())


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
