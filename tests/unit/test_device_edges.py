"""Edges of devices/ that the larger tests pass by; each case fails when its branch is broken."""

import fcntl
import os

import pytest

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.lock_files import LockFiles
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.memory_release import MAX_LEFT_BY_MOVED_MIB, MemoryRelease
from snakemake_executor_gpupool.devices.probe import (
    FOREIGN_MEMORY_MIB,
    filled_by_others,
    probe,
)
from snakemake_executor_gpupool.devices.process_environment import (
    hide_devices,
    own_environment,
    show_devices,
)
from snakemake_executor_gpupool.devices.settings import DeviceOptions
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.devices.visibility import visible_env

from .allocator_driver import Driver
from .fake_nvml import FakeCard, FakeNvml

CARD = simulated_devices({"GPUPOOL_SIMULATE": "1"})[0]
FIRST, SECOND = "a" * 16, "b" * 16


@pytest.fixture
def library():
    return FakeNvml(FakeCard("GPU-a000-1"), FakeCard("GPU-b000-1"))


@pytest.fixture
def make(tmp_path):
    """Open locks of one directory, as processes with these leases have them."""
    opened = []

    def make(lease=""):
        env = {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks"), "GPUPOOL_LEASE": lease}
        opened.append(DeviceLocks(env))
        return opened[-1]

    yield make
    for locks in opened:
        locks.close()


# --- memory release


def test_a_card_whose_memory_was_not_known_at_first_is_believed_free(library):  # D8
    cards = probe({}, library).devices
    sizes = [card.total_mib for card in library.cards]
    for card in library.cards:
        card.total_mib = None
    release = MemoryRelease(library)
    release.arrived("w", cards)
    for card, size in zip(library.cards, sizes, strict=True):
        card.total_mib, card.used_mib = size, 30_000
    assert release.weights_are_gone("w", 7, cards)


def test_weights_must_have_left_every_card(library):  # D8
    cards = probe({}, library).devices
    release = MemoryRelease(library)
    release.arrived("w", cards)
    library.cards[0].pids = {7: MAX_LEFT_BY_MOVED_MIB}
    library.cards[1].pids = {7: MAX_LEFT_BY_MOVED_MIB + 1}
    assert not release.weights_are_gone("w", 7, cards)
    library.cards[1].pids = {7: MAX_LEFT_BY_MOVED_MIB}
    assert release.weights_are_gone("w", 7, cards)


def test_what_a_driver_and_a_desktop_use_does_not_fill_a_card(library):  # D12
    card = probe({}, library).devices[0]
    library.cards[0].used_mib = FOREIGN_MEMORY_MIB
    assert not filled_by_others(card, library)
    library.cards[0].used_mib = FOREIGN_MEMORY_MIB + 1
    assert filled_by_others(card, library)


# --- locks between processes


def test_two_leases_of_one_card_are_both_good(make):  # D13
    parent = make()
    assert parent.try_acquire(CARD)
    parent.lend([CARD], FIRST)
    lent = str(parent.lend([CARD], SECOND))
    assert make(lent).is_free(CARD)
    assert make(lent.replace(SECOND, FIRST)).is_free(CARD)
    parent.take_back(CARD, FIRST)
    assert not make(lent.replace(SECOND, FIRST)).is_free(CARD)
    assert make(lent).is_free(CARD), "the other lease goes on"


def test_a_released_card_is_lent_to_nobody_when_it_is_taken_again(make):  # D13
    parent = make()
    assert parent.try_acquire(CARD)
    lent = str(parent.lend([CARD], FIRST))
    parent.release(CARD)
    assert parent.try_acquire(CARD)
    assert not parent.lends(CARD)
    assert not make(lent).is_free(CARD)
    parent.lend([CARD], SECOND)
    assert not make(lent).is_free(CARD), "a new lease does not renew an old one"


def test_a_dead_parents_lease_is_over_though_a_sibling_is_on_the_card(make):  # D13
    parent = make()
    assert parent.try_acquire(CARD)
    first = str(parent.lend([CARD], FIRST))
    parent.lend([CARD], SECOND)
    sibling = make(first)
    assert sibling.try_acquire(CARD)
    parent.in_child()  # closes everything and unlocks nothing, as the kernel does for the dead
    late = make(first.replace(FIRST, SECOND))
    assert not late.is_free(CARD)
    assert not late.try_acquire(CARD)
    sibling.close()
    assert late.is_free(CARD) and late.try_acquire(CARD)


def test_a_file_that_was_replaced_is_not_removed(make, monkeypatch):  # D13
    locks = make()
    left_behind = locks.directory / f"SIM-0.lent-{FIRST}"
    left_behind.touch()
    with monkeypatch.context() as patch:
        patch.setattr(LockFiles, "_is_current", lambda *_: False)
        assert not locks.is_held(CARD)
        assert left_behind.exists(), "it may be another borrower's by now"
    assert not locks.is_held(CARD)
    assert not left_behind.exists()


def test_the_directory_is_kept_from_programs_that_clean_up(make):  # D13
    locks = make()
    descriptor = os.open(locks.directory, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    locks.close()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


# --- what processes see


def test_a_card_that_nothing_names_is_not_shown():  # S7
    env = visible_env([Device("cuda:0", "cuda", 0)])
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["HIP_VISIBLE_DEVICES"] == "-1", "an empty list has no documented meaning"
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void", "empty means all to some runtimes"


def test_a_simulated_card_is_named_by_its_number():  # D14 S7
    env = visible_env([CARD])
    assert env["NVIDIA_VISIBLE_DEVICES"] == env["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_DEVICE_ORDER" not in env


def test_hiding_and_showing_are_counted(monkeypatch):  # D3 S7
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    show_devices()  # never hidden
    hide_devices()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    show_devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert own_environment()["CUDA_VISIBLE_DEVICES"] == "7", "nothing is hidden now"
    hide_devices()
    assert own_environment()["CUDA_VISIBLE_DEVICES"] == "7"
    show_devices()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


# --- settings and the allocator


def test_an_option_can_be_switched_off_again():  # D3
    options = DeviceOptions().updated(None, None, allow_multiple=True)
    assert options.updated(2, None, None).allow_multiple is True
    options = options.updated(None, "cpu", allow_multiple=False)
    assert options == DeviceOptions(None, OffloadStrategy.CPU, allow_multiple=False)


def test_a_worker_yields_once_its_load_has_paid_or_for_higher_priority():  # D7
    pool = Driver(1, yield_after_s=30)
    pool.ask("a")
    pool.ask("b")
    pool.tick(100)
    wants_yield = pool.allocator.wants_yield
    assert not wants_yield("a", pool.now_s, since_s=pool.now_s - 40, load_s=50)
    assert not wants_yield("a", pool.now_s, since_s=pool.now_s - 29, load_s=1)
    assert wants_yield("a", pool.now_s, since_s=pool.now_s - 50, load_s=50)
    pool.ask("c", priority=1)
    assert wants_yield("a", pool.now_s, since_s=pool.now_s, load_s=50)


def test_a_worker_that_once_waited_for_its_own_device_may_have_another_later():  # D8
    pool = Driver(2, offload_strategy=OffloadStrategy.CPU)
    pool.idle_worker("a", can_offload=True)
    for lease, same_devices in (("b", True), ("c", False)):
        assert pool.lease(lease, "cuda:0") == ["evict a: cpu"]
        assert pool.offloaded("a") == [f"{lease} on cuda:0"]
        if same_devices:
            assert pool.resume("a", same_devices=True) == []
            assert pool.gone(lease) == ["a on cuda:0"]
            assert pool.idle("a") == []
        else:
            assert pool.resume("a") == ["a on cuda:1"]
