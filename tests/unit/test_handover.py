"""Hand-over of a card, against a fake NVML library."""

import pytest

from snakemake_executor_gpupool.devices.memory_release import MAX_LEFT_BY_MOVED_MIB, MemoryRelease
from snakemake_executor_gpupool.devices.probe import probe

from .fake_nvml import LOST, FakeCard, FakeNvml

PID = 4711


@pytest.fixture
def library():
    return FakeNvml(FakeCard("GPU-a000-1"), FakeCard("GPU-b000-1"))


@pytest.fixture
def cards(library):
    return probe({}, library).devices


def arrived(library, cards, worker="w", uses_mib=30_000, pid=PID, told=True):
    """A worker that has come and has loaded its weights."""
    memory_release = MemoryRelease(library)
    memory_release.arrived(worker, cards)
    for card in library.cards:
        card.used_mib += uses_mib
        card.pids = {pid: uses_mib if told else None}
    return memory_release


def test_an_ended_process_is_gone_when_the_driver_no_longer_lists_it(library, cards):  # D8
    memory_release = arrived(library, cards)
    assert not memory_release.is_rid_of(cards, PID)
    library.cards[0].pids = {}
    assert not memory_release.is_rid_of(cards, PID), "it is still on the second card"
    library.cards[1].pids = {}
    assert memory_release.is_rid_of(cards, PID)


def test_weights_have_left_when_only_the_context_remains(library, cards):  # D8
    memory_release = arrived(library, cards)
    assert not memory_release.weights_are_gone("w", PID, cards)
    for card in library.cards:
        card.pids = {PID: MAX_LEFT_BY_MOVED_MIB // 2}
    assert memory_release.weights_are_gone("w", PID, cards)


def test_in_a_container_the_memory_is_another_process_s(library, cards):  # K1 D8
    memory_release = arrived(library, cards, pid=5)
    its = lambda pid: pid in (5, 6)  # noqa: E731
    assert not memory_release.is_rid_of(cards, PID, its)
    assert not memory_release.weights_are_gone("w", PID, cards, its)
    half_mib = MAX_LEFT_BY_MOVED_MIB // 2
    for card in library.cards:
        card.pids = {5: half_mib, 6: half_mib + 2, 7: 30_000}
    assert not memory_release.weights_are_gone("w", PID, cards, its), "together they hold more"
    for card in library.cards:
        card.pids = {5: half_mib, 6: half_mib, 7: 30_000}
    assert memory_release.weights_are_gone("w", PID, cards, its)
    assert not memory_release.is_rid_of(cards, PID, its)
    for card in library.cards:
        card.pids = {7: 30_000}
    assert memory_release.is_rid_of(cards, PID, its), "the third process is somebody else's"


def test_without_figures_for_the_process_the_card_tells(library, cards):  # D8
    memory_release = arrived(library, cards, told=False)
    assert not memory_release.weights_are_gone("w", PID, cards)
    for card in library.cards:
        card.used_mib = 500 + MAX_LEFT_BY_MOVED_MIB
    assert memory_release.weights_are_gone("w", PID, cards)


def test_who_shares_a_card_is_not_taken_for_the_one_who_left(library, cards):  # D8 D9
    memory_release = arrived(library, cards, told=False)
    memory_release.arrived("another", cards)
    assert memory_release.weights_are_gone("w", PID, cards), "the memory may be the other's"
    memory_release.left("another", cards)
    assert not memory_release.weights_are_gone("w", PID, cards)


def test_a_lost_card_holds_nobody(library, cards):  # D12
    memory_release = arrived(library, cards)
    for card in library.cards:
        card.error = LOST
    assert memory_release.is_rid_of(cards, PID)
    assert memory_release.weights_are_gone("w", PID, cards)
