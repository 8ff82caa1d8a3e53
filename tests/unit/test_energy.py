"""Energy of micro-batches: what drivers count, divided among those who computed meanwhile."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.probe import driver_of, energy_j
from snakemake_executor_gpupool.errors import DeviceLost
from snakemake_executor_gpupool.runtime.energy import EnergyMeter
from tests.unit.fake_nvml import LOST, NOT_SUPPORTED, FakeCard, FakeNvml


def card(index: int) -> Device:
    return Device(f"cuda:{index}", "cuda", index, f"GPU-{index}", visible_id=str(index))


CLOCK = itertools.count()


def tick() -> float:
    """A moment long after the one before."""
    return float(next(CLOCK))


class Cards:
    """Cards whose counters a test moves."""

    def __init__(self, count: int = 2) -> None:
        self.devices = [card(index) for index in range(count)]
        self.joules: dict[str, float | None] = {d.name: 1000.0 for d in self.devices}
        self.reads = 0

    def read(self, device: Device) -> float | None:
        self.reads += 1
        return self.joules[device.name]

    def use(self, name: str, joules: float) -> None:
        before = self.joules[name]
        assert before is not None
        self.joules[name] = before + joules


def test_a_batch_has_what_its_card_used_meanwhile() -> None:
    cards = Cards()
    meter = EnergyMeter(cards.devices, cards.read)
    cards.use("cuda:0", 5.0)  # nobody's
    meter.sent("a", cards.devices[:1], tick())
    cards.use("cuda:0", 7.0)
    cards.use("cuda:1", 100.0)
    meter.sent("a", cards.devices[:1], tick())  # the next one, beforehand
    cards.use("cuda:0", 1.0)
    assert meter.answered("a", tick(), is_over=True) == 8.0
    cards.use("cuda:0", 2.0)
    assert meter.answered("a", tick(), is_over=True) == 2.0
    cards.use("cuda:0", 9.0)
    meter.sent("a", cards.devices[:1], tick())
    assert meter.answered("a", tick(), is_over=True) == 0.0
    assert meter.totals_j() == {"cuda:0": 24.0, "cuda:1": 100.0}


def test_workers_on_one_card_share_and_one_on_two_has_both() -> None:
    cards = Cards()
    meter = EnergyMeter(cards.devices, cards.read)
    meter.sent("both", cards.devices, tick())
    cards.use("cuda:1", 4.0)
    meter.sent("one", cards.devices[:1], tick())
    cards.use("cuda:0", 10.0)
    assert meter.answered("one", tick(), is_over=True) == 5.0
    cards.use("cuda:0", 1.0)
    assert meter.answered("both", tick(), is_over=False) == 10.0
    cards.use("cuda:0", 3.0)
    assert meter.answered("both", tick(), is_over=True) == 3.0


def test_what_cannot_be_read_is_unknown_and_not_asked_again() -> None:
    cards = Cards()
    cards.joules["cuda:1"] = None
    meter = EnergyMeter(cards.devices, cards.read)
    meter.sent("b", cards.devices[1:], tick())
    meter.sent("both", cards.devices, tick())
    reads = cards.reads
    assert meter.answered("b", tick(), is_over=True) is None
    assert cards.reads == reads
    cards.use("cuda:0", 3.0)
    assert meter.answered("both", tick(), is_over=True) is None
    assert meter.totals_j() == {"cuda:0": 3.0}


def test_a_card_that_is_lost_is_unknown_from_then_on() -> None:
    cards = Cards(1)
    meter = EnergyMeter(cards.devices, cards.read)
    meter.sent("a", cards.devices, tick())
    cards.joules["cuda:0"] = None
    assert meter.answered("a", tick(), is_over=True) is None
    assert meter.totals_j() == {}

    def gone(device: Device) -> float:
        raise DeviceLost("gone")

    assert EnergyMeter(cards.devices, gone).totals_j() == {}


@pytest.mark.parametrize("seed", range(20))
def test_batches_and_idle_time_are_all_of_it(seed: int) -> None:
    rng = random.Random(seed)
    cards = Cards(3)
    meter = EnergyMeter(cards.devices, cards.read)
    in_flight: dict[str, int] = {}
    found: list[float] = []
    lost = idle = 0.0
    on = {f"w{n}": rng.sample(cards.devices, rng.randint(1, 2)) for n in range(5)}
    for _ in range(200):
        name = rng.choice(list(on))
        device = rng.choice(cards.devices)
        joules = rng.random()
        cards.use(device.name, joules)
        busy = [w for w in in_flight if device in on[w]]
        idle += joules * (not busy)
        act = rng.random()
        if act < 0.5:
            meter.sent(name, on[name], tick())
            in_flight[name] = in_flight.get(name, 0) + 1
        elif name in in_flight:
            used = meter.answered(name, tick(), is_over=True)
            assert used is not None
            found.append(used)
            in_flight[name] -= 1
            if not in_flight[name]:
                del in_flight[name]
    for name, count in in_flight.items():
        for _ in range(count):
            found.append(meter.answered(name, tick(), is_over=True) or 0.0)
    total = math.fsum(meter.totals_j().values())
    assert math.fsum(found) + idle + lost == pytest.approx(total, abs=0.01)


def test_the_drivers_counter_and_version_are_read() -> None:
    nvml = FakeNvml(FakeCard("GPU-0"), FakeCard("GPU-1"), FakeCard("GPU-2", error=LOST))
    nvml.cards[0].energy_mj = 2500
    assert energy_j(card(0), nvml) == 2.5
    nvml.cards[1].energy_mj = None  # an older card, or a slice
    assert energy_j(card(1), nvml) is None
    with pytest.raises(DeviceLost):
        energy_j(card(2), nvml)
    assert driver_of([card(0)], nvml) == "550.54"
    nvml.start_errors = [NOT_SUPPORTED]
    assert driver_of([card(0)], nvml) == ""
    assert driver_of([Device("cpu:0", "cpu", 0)], nvml) == ""
    assert energy_j(Device("cpu:0", "cpu", 0), nvml) is None


def test_a_card_is_not_read_at_every_turn() -> None:
    cards = Cards(1)
    meter = EnergyMeter(cards.devices, cards.read)
    meter.sent("a", cards.devices, 0.0)
    reads = cards.reads
    for number in range(1, 100):
        cards.use("cuda:0", 1.0)
        assert meter.answered("a", number * 1e-4, is_over=False) == 0.0
    assert cards.reads == reads
    assert meter.answered("a", 0.02, is_over=True) == 99.0
    assert meter.totals_j() == {"cuda:0": 99.0}
