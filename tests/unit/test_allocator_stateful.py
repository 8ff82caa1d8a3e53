"""Random histories of the allocator against a simple model of who holds what.

The model knows no policy: it books what the effects say and what it told the
allocator, and checks after every step what must never happen.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snakemake_executor_gpupool.devices.allocation.allocator import (
    LEASE,
    WORKER,
    Allocator,
    DeviceRequest,
    Evict,
    Granted,
    Impossible,
    Phase,
)
from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import parse_device

CARDS = 4
MEMORY_MIB = 100
YIELD_AFTER_S = 30
# Mostly what can be had; the last ones never can.
SPEC = st.sampled_from(
    ["cuda"] * 6
    + ["cudax2", "cudax2", "cudax3", "cuda:0", "cuda:1", "cuda:2,3", "cudax5", "cuda:9"]
)
PRIORITY = st.integers(0, 2)
VRAM = st.sampled_from([None, None, None, 30, 30, 60, 60, 100, 101])


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
    def __init__(self, ask, devices, now_s, returned):
        self.ask = ask
        self.names = tuple(device.name for device in devices)
        self.phase = Phase.BUSY
        self.granted_at_s = now_s
        self.returned = returned
        self.how = None


class AllocatorMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now_s = 0.0
        self.number = 0
        self.holders = {}
        self.waiting = {}
        self.foreign = set()
        self.lost = set()
        self.order = ()

    @initialize(
        packing=st.booleans(),
        strategy=st.sampled_from(OffloadStrategy),
        exclusive=st.booleans(),
        workers=st.integers(0, CARDS),
        unknown=st.booleans(),
    )
    def start(self, packing, strategy, exclusive, workers, unknown):
        self.cards = [card(i, exclusive and i == 0) for i in range(CARDS)]
        self.managed = {device.name for device in self.cards}
        self.packing = packing
        self.allocator = Allocator(
            self.cards,
            allow_multiple_per_device=packing,
            offload_strategy=strategy,
            yield_after_s=YIELD_AFTER_S,
        )
        for number in range(workers):
            self.ask("cuda", WORKER, number % 2, None if unknown else 40, can_offload=True)
            self.becomes_idle_now(f"a{number + 1}")

    # --- booking

    def tick(self):
        self.now_s += 1
        return self.now_s

    @property
    def usable(self):
        return self.managed - self.lost

    def book(self, effects):
        book = {Granted: self.granted, Evict: self.evicted, Impossible: self.refused}
        for effect in effects:
            book[type(effect)](effect)
        for effect in effects:
            if isinstance(effect, Granted) and effect.request_id in self.order:
                self.check_nobody_was_overtaken(effect)

    def granted(self, effect):
        ask = self.waiting.pop(effect.request_id)
        names = {device.name for device in effect.devices}
        assert len(names) == ask.spec.count
        assert names <= self.usable - self.foreign
        assert not ask.spec.names or names == set(ask.spec.names)
        before = self.holders.pop(effect.request_id, None)
        assert before is None or before.phase is Phase.OFFLOADED
        returned = before is not None
        self.holders[effect.request_id] = Holder(ask, effect.devices, self.now_s, returned)

    def check_nobody_was_overtaken(self, effect):
        """Whoever was ahead and still waits could not have used any of these devices."""
        if self.packing:
            return
        names = {device.name for device in effect.devices}
        for earlier in self.order[: self.order.index(effect.request_id)]:
            if earlier in self.waiting:
                useful = self.suited(self.waiting[earlier]) - self.foreign
                if len(useful) >= self.waiting[earlier].spec.count:
                    assert not names & useful, f"{effect.request_id} overtook {earlier}"

    def suited(self, ask):
        return self.usable & set(ask.spec.names) if ask.spec.names else self.usable

    def evicted(self, effect):
        holder = self.holders[effect.holder_id]
        assert holder.ask.kind == WORKER, "a lease was evicted"
        assert holder.phase is Phase.IDLE, "a busy worker was evicted"
        if effect.how is OffloadStrategy.CPU:
            assert holder.ask.can_offload
            assert "cuda:0" not in holder.names or not self.cards[0].exclusive_process
        else:
            assert effect.how is OffloadStrategy.RESTART
        holder.phase, holder.how = Phase.LEAVING, effect.how

    def refused(self, effect):
        ask = self.waiting.pop(effect.request_id)
        assert effect.reason
        assert len(self.suited(ask)) < ask.spec.count or (ask.vram_mib or 0) > MEMORY_MIB

    def call(self, method, *args, **fields):
        self.order = self.allocator.snapshot().waiting
        self.book(method(*args, now_s=self.tick(), **fields))

    def wait(self, ask, method, *args, **fields):
        """Make a call that puts one request in line."""
        self.waiting[ask.request_id] = ask
        ahead = [
            other
            for other in self.allocator.snapshot().waiting
            if self.waiting[other].priority >= ask.priority
        ]
        behind = [o for o in self.allocator.snapshot().waiting if o not in ahead]
        self.order = (*ahead, ask.request_id, *behind)
        self.book(method(*args, now_s=self.tick(), **fields))

    def who(self, *phases, kind=None):
        return sorted(
            holder_id
            for holder_id, holder in self.holders.items()
            if holder.phase in phases and kind in (None, holder.ask.kind)
        )

    def leaving_for_host_memory(self):
        leaving = self.who(Phase.LEAVING)
        return [i for i in leaving if self.holders[i].how is OffloadStrategy.CPU]

    def offloaded_and_content(self):
        return [i for i in self.who(Phase.OFFLOADED) if i not in self.waiting]

    def fresh(self):
        """Return who was just granted devices and has not used them."""
        return [i for i in self.who(Phase.BUSY) if self.holders[i].granted_at_s == self.now_s]

    def unheld(self):
        held = {name for holder in self.holders.values() for name in holder.names}
        return sorted({device.name for device in self.cards} - held)

    # --- what can happen (each only where it can, so that few steps are idle)

    def ask(self, spec, kind, priority, vram_mib, can_offload=False):
        self.number += 1
        spec = parse_device(spec)
        ask = DeviceRequest(f"a{self.number}", spec, kind, "", priority, vram_mib, can_offload)
        self.wait(ask, self.allocator.request, ask)

    @rule(spec=SPEC, priority=PRIORITY, vram_mib=VRAM, can_offload=st.booleans())
    def asks_for_a_worker(self, spec, priority, vram_mib, can_offload):
        self.ask(spec, WORKER, priority, vram_mib, can_offload)

    @rule(spec=SPEC, priority=PRIORITY, vram_mib=VRAM)
    def asks_for_a_lease(self, spec, priority, vram_mib):
        self.ask(spec, LEASE, priority, vram_mib)

    @precondition(lambda self: self.who(Phase.BUSY, kind=WORKER))
    @rule(data=st.data(), all_of_them=st.booleans())
    def becomes_idle(self, data, all_of_them):
        busy = self.who(Phase.BUSY, kind=WORKER)
        for holder_id in busy if all_of_them else [data.draw(st.sampled_from(busy))]:
            self.becomes_idle_now(holder_id)

    def becomes_idle_now(self, holder_id):
        self.holders[holder_id].phase = Phase.IDLE
        self.call(self.allocator.idle, holder_id)

    @precondition(lambda self: self.who(Phase.IDLE))
    @rule(data=st.data())
    def becomes_busy(self, data):
        holder_id = data.draw(st.sampled_from(self.who(Phase.IDLE)))
        self.holders[holder_id].phase = Phase.BUSY
        self.allocator.busy(holder_id, self.tick())

    @precondition(lambda self: self.who(Phase.BUSY, kind=WORKER) and self.waiting)
    @rule(data=st.data(), wait_s=st.sampled_from([0, YIELD_AFTER_S]))
    def stops_if_others_press(self, data, wait_s):
        holder_id = data.draw(st.sampled_from(self.who(Phase.BUSY, kind=WORKER)))
        self.now_s += wait_s
        if self.allocator.wants_yield(holder_id, self.now_s):
            self.becomes_idle_now(holder_id)
            assert self.holders[holder_id].phase is Phase.LEAVING, "yielded for nothing"

    @precondition(lambda self: self.who(Phase.LEAVING))
    @rule(data=st.data())
    def leaves(self, data):
        self.end(data.draw(st.sampled_from(self.who(Phase.LEAVING))))

    @precondition(lambda self: len(self.holders) > CARDS // 2)
    @rule(data=st.data())
    def ends_or_dies(self, data):
        self.end(data.draw(st.sampled_from(self.who(*Phase))))

    def end(self, holder_id):
        self.waiting.pop(holder_id, None)
        del self.holders[holder_id]
        self.call(self.allocator.gone, holder_id)

    @precondition(lambda self: self.leaving_for_host_memory())
    @rule(data=st.data(), works=st.sampled_from([True, True, False]))
    def offload_ends(self, data, works):
        holder_id = data.draw(st.sampled_from(self.leaving_for_host_memory()))
        holder = self.holders[holder_id]
        holder.how = OffloadStrategy.RESTART
        if works:
            holder.phase, holder.names = Phase.OFFLOADED, ()
            self.call(self.allocator.offloaded, holder_id)
        else:
            effects = self.allocator.offload_failed(holder_id, self.tick())
            assert effects == [Evict(holder_id, OffloadStrategy.RESTART)]

    @precondition(lambda self: self.offloaded_and_content())
    @rule(data=st.data())
    def wants_to_return(self, data):
        holder_id = data.draw(st.sampled_from(self.offloaded_and_content()))
        self.wait(self.holders[holder_id].ask, self.allocator.resume, holder_id)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def gives_up(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[request_id]
        self.call(self.allocator.withdraw, request_id)

    @precondition(lambda self: self.fresh())
    @rule(data=st.data())
    def cannot_use_its_grant(self, data):
        """Another process turns out to hold one of the devices."""
        request_id = data.draw(st.sampled_from(self.fresh()))
        name = self.holders[request_id].names[0]
        self.foreign.add(name)
        self.call(self.allocator.foreign, name, True)
        holder = self.holders.pop(request_id)
        if holder.returned:
            holder.phase, holder.names = Phase.OFFLOADED, ()
            self.holders[request_id] = holder
        self.waiting[request_id] = holder.ask
        self.order = ()  # it goes back to its old place, ahead of some
        self.book(self.allocator.retry(request_id, self.tick()))

    @precondition(lambda self: self.unheld())
    @rule(data=st.data(), held=st.booleans())
    def other_process(self, data, held):
        name = data.draw(st.sampled_from(self.unheld()))
        (self.foreign.add if held else self.foreign.discard)(name)
        self.call(self.allocator.foreign, name, held)

    @precondition(lambda self: self.holders and len(self.lost) < CARDS - 1)
    @rule(index=st.integers(0, CARDS - 1), really=st.integers(0, 7))
    def falls_off_the_bus(self, index, really):
        if really == 7:
            self.lost.add(f"cuda:{index}")
            self.call(self.allocator.lost, f"cuda:{index}")

    @precondition(lambda self: self.holders)
    @rule(indices=st.one_of(st.none(), st.sets(st.integers(0, CARDS - 1), min_size=2)))
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
            first = self.waiting[line[0]]
            assert len(free & self.suited(first)) < first.spec.count

    @invariant()
    def the_line_is_in_order(self):
        priorities = [self.waiting[i].priority for i in self.allocator.snapshot().waiting]
        assert priorities == sorted(priorities, reverse=True)

    @invariant()
    def who_waits_can_be_served_some_day(self):
        for ask in self.waiting.values():
            assert len(self.suited(ask)) >= ask.spec.count

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
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
