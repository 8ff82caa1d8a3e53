"""The device manager's decisions: who gets a device, who has to go, and how."""

import pytest

from snakemake_executor_gpupool.devices.allocation.allocator import Phase
from snakemake_executor_gpupool.devices.device import OffloadStrategy

from .allocator_driver import Driver

CPU = OffloadStrategy.CPU


# --- general requests


def test_one_worker_per_gpu():  # D5
    pool = Driver(2)
    assert pool.ask("a") == ["a on cuda:0"]
    assert pool.ask("b") == ["b on cuda:1"]
    assert pool.ask("c") == []


def test_least_recently_used_idle_worker_goes_whichever_device_it_is_on():  # D5
    pool = Driver(3)
    for worker in "abc":
        pool.ask(worker)
    for worker in "bac":
        pool.idle(worker)
    assert pool.ask("d") == ["evict b: restart"]
    assert pool.gone("b") == ["d on cuda:1"]


def test_use_refreshes_a_worker():  # D5
    pool = Driver(2)
    pool.idle_worker("a")
    pool.idle_worker("b")
    pool.busy("a")
    pool.idle("a")
    assert pool.ask("c") == ["evict b: restart"]


def test_a_free_device_is_taken_before_anybody_is_evicted():  # D5
    pool = Driver(2)
    pool.idle_worker("a")
    assert pool.ask("b") == ["b on cuda:1"]


def test_multi_gpu_holder_is_evicted_whole():  # D5
    pool = Driver(2)
    assert pool.idle_worker("wide", "cudax2") == "cuda:0,cuda:1"
    assert pool.ask("a") == ["evict wide: restart"]
    assert pool.ask("b") == []  # the eviction under way is enough for both
    assert pool.gone("wide") == ["a on cuda:0", "b on cuda:1"]


def test_two_singles_go_for_one_that_needs_two():  # D5
    pool = Driver(3)
    for worker in "abc":
        pool.idle_worker(worker)
    assert pool.ask("wide", "cudax2") == ["evict a: restart", "evict b: restart"]
    assert pool.gone("b") == []
    assert pool.gone("a") == ["wide on cuda:0,cuda:1"]


def test_no_more_is_evicted_than_needed():  # D5
    pool = Driver(4)
    pool.idle_worker("a", "cuda:0")
    pool.idle_worker("wide", "cuda:1,2")
    pool.ask("x", "cuda:3")
    # The oldest alone is not enough; the wide one alone is.
    assert pool.ask("other", "cudax2") == ["evict wide: restart"]


@pytest.mark.parametrize("is_busy", [True, False])
def test_nobody_goes_for_a_device_whose_holder_was_told_to_end(is_busy):  # D5
    pool = Driver(2)
    pool.idle_worker("a")
    pool.idle_worker("b")
    if is_busy:
        pool.busy("b")
    pool.allocator.leaves("b")
    pool.allocator.leaves("b")
    assert pool.ask("c") == [], "b's device is free in a moment"
    assert pool.ask("d") == ["evict a: restart"], "only one needs it"
    assert pool.gone("b") == ["c on cuda:1"] and pool.gone("a") == ["d on cuda:0"]
    pool.allocator.leaves("gone before")


def test_eviction_under_way_is_not_doubled():  # D5
    pool = Driver(2)
    pool.idle_worker("a")
    pool.idle_worker("b")
    assert pool.ask("c") == ["evict a: restart"]
    assert pool.busy("b") is None
    assert pool.idle("b") == []
    assert pool.gone("a") == ["c on cuda:0"]


# --- specific requests


def test_specific_request_displaces_the_idle_occupant_of_that_device_only():  # D6
    pool = Driver(2)
    pool.idle_worker("a")
    pool.idle_worker("b")
    assert pool.ask("c", "cuda:1") == ["evict b: restart"]
    assert pool.gone("b") == ["c on cuda:1"]


def test_specific_request_waits_for_a_busy_one_though_others_are_free():  # D6 D7
    pool = Driver(2)
    pool.ask("a", "cuda:0")
    assert pool.ask("b", "cuda:0") == []
    assert pool.idle("a") == ["evict a: restart"]
    assert pool.gone("a") == ["b on cuda:0"]


def test_specific_request_waits_for_a_lease():  # D6 D11
    pool = Driver(2)
    pool.lease("job", "cuda:0")
    assert pool.ask("a", "cuda:0") == []
    assert pool.gone("job") == ["a on cuda:0"]


def test_already_there_on_the_same_devices_nothing_moves():  # D6
    pool = Driver(3)
    pool.idle_worker("a", "cudax2")
    assert pool.ask("a", "cuda:1,0") == ["a on cuda:0,cuda:1"]
    assert pool.allocator.snapshot().holders["a"][1] is Phase.BUSY
    assert pool.ask("a", "cudax2") == ["a on cuda:0,cuda:1"]


def test_a_holder_cannot_ask_for_other_devices_under_its_id():  # D6
    pool = Driver(2)
    pool.idle_worker("a", "cuda:0")
    with pytest.raises(ValueError, match="a holds"):
        pool.ask("a", "cuda:1")
    pool.ask("b")
    pool.ask("c", "cuda:1")
    with pytest.raises(ValueError, match="waiting already"):
        pool.ask("c", "cuda:1")


# --- busy workers


def test_a_busy_worker_is_never_evicted():  # D7
    pool = Driver(1)
    pool.ask("a")
    assert pool.ask("b", priority=9) == []
    assert pool.idle("a") == ["evict a: restart"]


def test_a_new_worker_is_busy_until_it_says_otherwise():  # D7
    pool = Driver(1)
    assert pool.ask("a") == ["a on cuda:0"]
    assert pool.ask("b") == []


def test_a_worker_with_a_queue_yields_to_higher_priority_at_once():  # D7
    pool = Driver(1)
    pool.ask("a", priority=0)
    assert not pool.wants_yield("a")
    pool.ask("b", priority=1)
    assert pool.wants_yield("a")
    assert pool.idle("a") == ["evict a: restart"]


def test_a_worker_with_a_queue_yields_to_its_equal_after_a_while():  # D7
    pool = Driver(1, yield_after_s=30)
    pool.ask("a")
    pool.ask("b")
    assert not pool.wants_yield("a")
    pool.tick(30)
    assert pool.wants_yield("a")


def test_only_one_worker_yields_for_one_that_waits():  # D7
    pool = Driver(2)
    pool.ask("a")
    pool.ask("b")
    pool.ask("c", priority=1)
    assert pool.wants_yield("a")
    assert pool.wants_yield("b")
    assert pool.idle("b") == ["evict b: restart"]
    assert not pool.wants_yield("a")


def test_a_worker_on_another_device_does_not_yield():  # D7
    pool = Driver(2)
    pool.ask("a", "cuda:0")
    pool.ask("b", "cuda:1")
    pool.ask("c", "cuda:1", priority=1)
    assert not pool.wants_yield("a")


def test_leases_never_yield():  # D11
    pool = Driver(1)
    pool.lease("job")
    pool.ask("a", priority=5)
    pool.tick(1000)
    assert not pool.wants_yield("job")
    with pytest.raises(ValueError, match="never idle"):
        pool.idle("job")


def test_two_workers_never_idle_at_once_cannot_starve_one_that_needs_both():  # D7 D11
    pool = Driver(2, yield_after_s=30)
    pool.ask("a")
    pool.ask("b")
    pool.ask("wide", "cudax2")
    assert pool.idle("a") == []  # too early: b may compute for long, and a may be wanted again
    pool.busy("a")
    pool.tick(30)
    assert pool.wants_yield("a")
    assert pool.idle("a") == ["evict a: restart"]
    assert pool.gone("a") == []
    assert pool.ask("late") == []  # the free device is kept for the one that waits
    assert pool.wants_yield("b")
    assert pool.idle("b") == ["evict b: restart"]
    assert pool.gone("b") == ["wide on cuda:0,cuda:1"]


def test_nobody_is_evicted_early_while_a_lease_is_in_the_way():  # D11
    pool = Driver(2, yield_after_s=30)
    pool.lease("job")
    pool.idle_worker("a")
    assert pool.ask("wide", "cudax2") == []
    pool.tick(1000)
    pool.busy("a")
    assert not pool.wants_yield("a")
    assert pool.idle("a") == []
    assert pool.gone("job") == ["evict a: restart"]


def test_an_evicted_worker_cannot_work():  # D7
    pool = Driver(1)
    pool.idle_worker("a")
    pool.ask("b")
    with pytest.raises(ValueError, match="a is LEAVING"):
        pool.busy("a")
    assert pool.idle("a") == []


# --- what eviction means


def test_restart_hands_on_only_after_gone():  # D8
    pool = Driver(1)
    pool.idle_worker("a", can_offload=True)
    assert pool.ask("b") == ["evict a: restart"]
    assert pool.ask("c") == []
    assert pool.gone("a") == ["b on cuda:0"]


def test_cpu_offload_and_return():  # D8
    pool = Driver(1, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    assert pool.ask("b") == ["evict a: cpu"]
    assert pool.offloaded("a") == ["b on cuda:0"]
    assert pool.resume("a") == []
    assert pool.idle("b") == ["evict b: restart"]
    assert pool.gone("b") == ["a on cuda:0"]
    assert pool.allocator.allocation_map() == {"cuda:0": ["a"]}
    with pytest.raises(ValueError, match="a is BUSY"):
        pool.resume("a")


def test_return_to_the_same_devices_only():  # D8
    pool = Driver(2, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    pool.ask("b", "cuda:0")
    pool.offloaded("a")
    assert pool.resume("a", same_devices=True) == []
    pool.withdraw("a")
    assert pool.resume("a") == ["a on cuda:1"]


def test_withdrawn_return_leaves_the_worker_offloaded():  # D8
    pool = Driver(1, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    pool.ask("b")
    pool.offloaded("a")
    pool.resume("a")
    assert pool.withdraw("a") == []
    assert pool.gone("b") == []
    assert pool.resume("a") == ["a on cuda:0"]


def test_what_cannot_be_offloaded_restarts():  # D8
    pool = Driver(1, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=False)
    assert pool.ask("b") == ["evict a: restart"]


def test_failed_offload_ends_the_worker_and_keeps_its_device_until_then():  # D8
    pool = Driver(1, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    pool.ask("b")
    assert pool.offload_failed("a") == ["evict a: restart"]
    assert pool.ask("c") == []
    assert pool.gone("a") == ["b on cuda:0"]


def test_offloaded_worker_that_dies_while_it_waits_is_forgotten():  # D8
    pool = Driver(1, offload_strategy=CPU)
    pool.idle_worker("a", can_offload=True)
    pool.ask("b")
    pool.offloaded("a")
    pool.resume("a")
    assert pool.gone("a") == []
    assert pool.gone("b") == []
    assert pool.ask("a") == ["a on cuda:0"]
