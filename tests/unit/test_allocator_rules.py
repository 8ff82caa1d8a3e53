"""The device manager's decisions: packing, the order of the line, hardware, configuration."""

from snakemake_executor_gpupool.devices.allocation.allocator import Phase
from snakemake_executor_gpupool.devices.device import OffloadStrategy, cpu_slot

from .allocator_driver import Driver, gpu, packed

CPU = OffloadStrategy.CPU


# --- packing


def test_packing_goes_to_the_emptiest_device_round_robin():  # D9
    pool = packed(80_000, 80_000)
    places = [pool.ask(worker)[0] for worker in "abcd"]
    assert places == ["a on cuda:0", "b on cuda:1", "c on cuda:0", "d on cuda:1"]
    pool.gone("b")
    assert pool.ask("e") == ["e on cuda:1"]


def test_round_robin_over_ties_goes_on_where_it_stopped():  # D9
    pool = packed(80_000, 80_000)
    pool.ask("a")
    pool.gone("a")
    assert pool.ask("b") == ["b on cuda:1"]


def test_nothing_is_evicted_while_memory_allows():  # D9
    pool = packed(80_000)
    pool.idle_worker("a", vram_mib=40_000)
    assert pool.ask("b", vram_mib=40_000) == ["b on cuda:0"]


def test_memory_admission_evicts_no_more_than_it_needs():  # D9
    pool = packed(80_000, 80_000)
    pool.idle_worker("a", "cuda:0", vram_mib=40_000)
    pool.idle_worker("b", "cuda:1", vram_mib=40_000)
    pool.idle_worker("c", "cuda:0", vram_mib=40_000)
    pool.idle_worker("d", "cuda:1", vram_mib=40_000)
    # a and c share a card; b, though used before c, is not in the way.
    assert pool.ask("big", vram_mib=80_000) == ["evict a: restart", "evict c: restart"]
    pool.gone("a")
    assert pool.gone("c") == ["big on cuda:0"]


def test_memory_that_a_leaving_worker_still_holds_counts():  # D8 D9
    pool = packed(80_000)
    pool.idle_worker("a", vram_mib=50_000)
    assert pool.ask("b", vram_mib=50_000) == ["evict a: restart"]
    assert pool.ask("c", vram_mib=20_000) == []  # a, and what is kept for b, fill the card
    assert pool.gone("a") == ["b on cuda:0", "c on cuda:0"]


def test_memory_kept_for_the_first_in_line_is_not_given_to_the_second():  # D9 D11
    pool = packed(80_000)
    pool.ask("a", vram_mib=50_000)
    assert pool.ask("b", vram_mib=60_000) == []
    assert pool.ask("c", vram_mib=30_000) == []
    pool.withdraw("b")
    assert pool.allocator.allocation_map() == {"cuda:0": ["a", "c"]}


def test_without_figures_admission_is_the_callers_duty():  # D9
    pool = packed(80_000)
    for number in range(20):
        assert pool.ask(f"w{number}") == [f"w{number} on cuda:0"]


def test_leases_share_only_with_a_known_need():  # S7 D9
    pool = packed(80_000)
    assert pool.lease("a", vram_mib=40_000) == ["a on cuda:0"]
    assert pool.lease("b", vram_mib=40_000) == ["b on cuda:0"]
    assert pool.lease("c") == []
    assert pool.gone("a") == []
    assert pool.gone("b") == ["c on cuda:0"]
    assert pool.lease("d", vram_mib=1) == []


def test_a_big_request_goes_to_a_card_that_is_big_enough():  # D9
    pool = Driver(devices=[gpu(0, 24_000), gpu(1, 80_000)])
    assert pool.ask("a", vram_mib=60_000) == ["a on cuda:1"]


# --- never


def test_more_than_managed_fails_at_once_and_evicts_nobody():  # D10
    pool = Driver(2)
    pool.idle_worker("a")
    (effect,) = pool.ask("wide", "cudax3", owner="esm2")
    assert effect == "wide never: esm2 asks for cudax3; managed here: cuda:0, cuda:1"
    assert pool.allocator.allocation_map()["cuda:0"] == ["a"]


def test_unknown_device_fails_at_once():  # D10
    (effect,) = Driver(2).ask("a", "cuda:0,7")
    assert effect == "a never: a asks for cuda:7; managed here: cuda:0, cuda:1"


def test_no_gpu_at_all():  # D10 D12
    (effect,) = Driver(devices=[cpu_slot(0)]).ask("a")
    assert effect == "a never: a asks for cuda; managed here: no cuda device"


def test_more_memory_than_any_card_has():  # D10 D9
    (effect,) = Driver(1).ask("a", vram_mib=90_000)
    assert "with 90000 MiB each, but they have at most 80000 MiB" in effect


# --- leases and the order of the line


def test_leases_are_never_evicted():  # D11
    pool = Driver(1)
    pool.lease("job")
    assert pool.ask("a", priority=9) == []
    assert pool.gone("job") == ["a on cuda:0"]


def test_leases_are_alone_on_their_device_even_when_packing():  # S7 D11
    pool = packed(80_000)
    pool.lease("job")
    assert pool.ask("a") == []
    assert pool.lease("job2") == []


def test_a_lease_evicts_idle_workers():  # S7
    pool = Driver(1)
    pool.idle_worker("a")
    assert pool.lease("job") == ["evict a: restart"]


def test_waiters_are_served_by_priority_then_arrival():  # D11
    pool = Driver(1)
    pool.lease("now")
    for request_id, priority in [("a", 0), ("b", 5), ("c", 5), ("d", 9)]:
        pool.lease(request_id, priority=priority)
    order = []
    holder = "now"
    while effects := pool.gone(holder):
        holder = effects[0].split()[0]
        order.append(holder)
    assert order == ["d", "b", "c", "a"]


def test_one_that_needs_several_is_not_starved_by_singles():  # D11
    pool = Driver(2)
    pool.lease("a")
    pool.lease("b")
    pool.lease("wide", "cudax2")
    assert pool.lease("small") == []
    assert pool.gone("a") == []  # kept for wide
    assert pool.gone("b") == ["wide on cuda:0,cuda:1"]
    assert pool.gone("wide") == ["small on cuda:0"]


def test_one_that_waits_for_a_device_does_not_hold_up_those_for_others():  # D11
    pool = Driver(2)
    pool.lease("a", "cuda:0")
    assert pool.lease("b", "cuda:0") == []
    assert pool.lease("c", "cuda:0") == []
    assert pool.lease("d") == ["d on cuda:1"]


def test_what_those_ahead_will_need_later_is_kept_for_them():  # D11
    pool = Driver(2)
    pool.lease("a", "cuda:0")
    pool.lease("b", "cuda:0")
    pool.lease("both", "cuda:0,1")  # can claim nothing before b, and must not lose cuda:1
    assert pool.lease("late", "cuda:1") == []
    assert pool.lease("later") == []
    assert pool.gone("a") == ["b on cuda:0"]
    assert pool.gone("b") == ["both on cuda:0,cuda:1"]


def test_a_long_line_is_cheap():  # D11
    pool = Driver(2)
    for number in range(2000):
        pool.lease(f"job{number}")
    assert len(pool.allocator.snapshot().waiting) == 1998
    assert pool.gone("job0") == ["job2 on cuda:0"]


def test_withdraw_from_the_line_and_of_an_unused_grant():  # D11
    pool = Driver(1)
    pool.lease("a")
    pool.lease("b")
    pool.lease("c")
    assert pool.withdraw("b") == []
    assert pool.withdraw("a") == ["c on cuda:0"]
    assert pool.withdraw("unknown") == []


# --- the hardware


def test_exclusive_process_card_is_never_packed():  # D12
    pool = Driver(devices=[gpu(0, exclusive_process=True)], allow_multiple_per_device=True)
    pool.ask("a")
    assert pool.ask("b") == []


def test_exclusive_process_card_is_never_offloaded_from():  # D8 D12
    pool = Driver(devices=[gpu(0, exclusive_process=True)], offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    assert pool.ask("b") == ["evict a: restart"]


def test_mig_slices_serve_only_requests_for_one():  # D12
    pool = Driver(devices=[gpu(0, is_mig=True), gpu(1, is_mig=True)])
    (effect,) = pool.ask("wide", "cudax2")
    assert "a process can use only one MIG slice" in effect
    assert pool.ask("a") == ["a on cuda:0"]


def test_a_card_that_others_hold_is_left_alone_until_they_release_it():  # D12 D13
    pool = Driver(2)
    assert pool.foreign("cuda:0", True) == []
    assert pool.ask("a") == ["a on cuda:1"]
    assert pool.ask("b") == []
    assert pool.foreign("cuda:0", False) == ["b on cuda:0"]


def test_one_that_waits_for_other_processes_does_not_hold_up_the_line():  # D12
    pool = Driver(2)
    pool.foreign("cuda:0", True)
    assert pool.lease("wide", "cudax2") == []
    assert pool.lease("a") == ["a on cuda:1"]
    assert pool.foreign("cuda:0", False) == []
    assert pool.gone("a") == ["wide on cuda:0,cuda:1"]


def test_unused_grant_goes_back_to_its_old_place():  # D13
    pool = Driver(2)
    pool.lease("a")
    pool.lease("b")
    pool.lease("c")
    pool.foreign("cuda:0", True)
    assert pool.retry("a") == []
    assert pool.gone("b") == ["a on cuda:1"]  # not c, which came later


def wide_grant_with_others_in_line():
    pool = Driver(2)
    pool.lease("wide", "cudax2", priority=-1)
    pool.lease("a", "cuda:1")
    pool.lease("b", "cuda:0")
    return pool


def test_the_rest_of_an_unused_grant_goes_to_those_in_line():  # D13 D11
    pool = wide_grant_with_others_in_line()
    pool.foreign("cuda:0", True)
    assert pool.retry("wide") == ["a on cuda:1"]
    assert pool.allocator.snapshot().waiting == ("b", "wide")


def test_the_rest_of_a_grant_that_lost_a_card_goes_to_those_in_line():  # D12 D11
    pool = wide_grant_with_others_in_line()
    (b_never,) = pool.lost("cuda:0")
    assert b_never.startswith("b never")
    wide_never, granted = pool.retry("wide")
    assert wide_never.startswith("wide never")
    assert granted == "a on cuda:1"


def test_unused_grant_of_a_returning_worker():  # D8 D13
    pool = Driver(1, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    pool.lease("job")
    pool.offloaded("a")
    pool.gone("job")
    assert pool.resume("a") == ["a on cuda:0"]
    pool.foreign("cuda:0", True)
    assert pool.retry("a") == []
    assert pool.allocator.snapshot().holders["a"][1] is Phase.OFFLOADED
    assert pool.foreign("cuda:0", False) == ["a on cuda:0"]


def test_a_lost_card_is_never_granted_and_those_without_hope_are_told():  # D12
    pool = Driver(2)
    pool.ask("a")
    pool.lease("b")
    pool.lease("wide", "cudax2")
    pool.lease("c")
    assert pool.lost("cuda:0") == ["wide never: wide asks for cudax2; managed here: cuda:1"]
    assert pool.wants_yield("a")
    assert pool.idle("a") == ["evict a: restart"]
    assert pool.gone("a") == []
    assert pool.gone("b") == ["c on cuda:1"]


# --- configuration


def test_unmanaged_devices_are_left_and_never_given():  # D3
    pool = Driver(2, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    pool.ask("b")
    assert pool.configure(pool.devices[1:]) == ["evict a: restart"]
    pool.gone("a")
    assert pool.ask("c") == []
    (effect,) = pool.ask("d", "cuda:0")
    assert "managed here: cuda:1" in effect
    assert pool.configure(None) == ["c on cuda:0"]


def test_busy_worker_on_a_device_no_longer_managed_leaves_when_idle():  # D3 D7
    pool = Driver(2)
    pool.ask("a")
    assert pool.configure(pool.devices[1:]) == []
    assert pool.wants_yield("a")
    assert pool.idle("a") == ["evict a: restart"]


def test_lease_on_a_device_no_longer_managed_runs_to_its_end():  # D3 D11
    pool = Driver(2)
    pool.lease("job")
    assert pool.configure(pool.devices[1:]) == []
    assert pool.allocator.allocation_map() == {"cuda:0": ["job"], "cuda:1": []}
    assert pool.gone("job") == []


def test_narrowing_refuses_who_waits_in_vain():  # D3 D10
    pool = Driver(2)
    pool.lease("a")
    pool.lease("wide", "cudax2")
    (effect,) = pool.configure(pool.devices[1:])
    assert effect.startswith("wide never")


def test_packing_and_strategy_can_change():  # D8 D9
    pool = Driver(1)
    pool.idle_worker("a", can_offload=True)
    assert pool.configure(None, allow_multiple_per_device=True, offload_strategy=CPU) == []
    pool.idle_worker("b")
    assert pool.lease("job") == ["evict a: cpu", "evict b: restart"]


# --- CPU slots


def test_cpu_slots_are_shared_by_all_and_evict_nobody():  # D9 S6
    pool = Driver(devices=[cpu_slot(0), cpu_slot(1)])
    assert [pool.ask(worker, "cpu")[0] for worker in "abc"] == [
        "a on cpu:0",
        "b on cpu:1",
        "c on cpu:0",
    ]
    pool.idle("a")
    assert pool.lease("job", "cpu:0") == ["job on cpu:0"]


def test_a_cpu_request_needs_no_managed_slot():  # D12
    pool = Driver(1)
    pool.lease("job")
    pool.lease("waits")
    assert pool.ask("a", "cpu") == ["a on cpu:0"]


# --- seeing


def test_allocation_map_shows_owners():  # D5
    pool = Driver(2)
    pool.ask("w1", owner="esm2/A")
    pool.ask("w2", "cuda:1")
    assert pool.allocator.allocation_map() == {"cuda:0": ["esm2/A"], "cuda:1": ["w2"]}


def test_snapshot():  # W10
    pool = Driver(2)
    pool.ask("a", owner="esm2")
    pool.lease("job", "cuda:0")
    pool.foreign("cuda:1", True)
    state = pool.allocator.snapshot()
    assert state.holders == {"a": ("esm2", Phase.BUSY, ("cuda:0",))}
    assert (state.managed, state.waiting) == (("cuda:0", "cuda:1"), ("job",))
    assert (state.foreign, state.lost) == (("cuda:1",), ())
