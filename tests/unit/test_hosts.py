"""Devices of several machines: names, strings, groups on one machine, coming and going."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.devices.allocation.allocator import (
    WORKER,
    Allocator,
    DeviceRequest,
    Granted,
    Impossible,
)
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_spec import (
    DeviceSpec,
    parse_device,
)
from snakemake_executor_gpupool.devices.managed_spec import managed_of_host
from snakemake_executor_gpupool.errors import DeviceStringError


def card(host: str, index: int) -> Device:
    """A card in a machine."""
    return Device(f"cuda:{index}", "cuda", index, uuid=f"GPU-{index}").on(host)


CARDS = [card(host, index) for host in ("n1", "n2") for index in (0, 1)]


def ask(spec: str, request_id: str = "a") -> DeviceRequest:
    """A worker's request."""
    return DeviceRequest(request_id, parse_device(spec), WORKER)


def granted(allocator: Allocator, spec: str, request_id: str = "a") -> list[str]:
    """The names of the devices that a request gets at once."""
    (effect,) = allocator.request(ask(spec, request_id), 0.0)
    assert isinstance(effect, Granted), effect
    return [device.name for device in effect.devices]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("n1/cuda", DeviceSpec("cuda", 1, (), "n1")),
        ("n1/cudax2", DeviceSpec("cuda", 2, (), "n1")),
        (
            "gpu-07.cluster/cuda:1",
            DeviceSpec("cuda", 1, ("gpu-07.cluster/cuda:1",), "gpu-07.cluster"),
        ),
        ("n1/cuda:0,1", DeviceSpec("cuda", 2, ("n1/cuda:0", "n1/cuda:1"), "n1")),
        ("n1/cuda:0,n1/cuda:1", DeviceSpec("cuda", 2, ("n1/cuda:0", "n1/cuda:1"), "n1")),
    ],
)
def test_device_strings_with_a_host(text: str, spec: DeviceSpec) -> None:  # D1
    assert parse_device(text) == spec
    assert parse_device(str(spec)) == spec


@pytest.mark.parametrize(
    "text", ["/cuda", "n1/", "n1/cuda:0,n2/cuda:0", "cuda:0,n1/cuda:0", "-n/cuda"]
)
def test_no_device_strings(text: str) -> None:  # D1
    with pytest.raises(DeviceStringError):
        parse_device(text)


def test_managed_devices_of_each_machine() -> None:  # D3
    assert managed_of_host("auto", "n1") == "auto"
    assert managed_of_host("n1/cuda:0,1,n2/all", "n1") == "cuda:0,1"
    assert managed_of_host("n1/cuda:0,1,n2/all", "n2") == "all"
    assert managed_of_host("n1/cuda:0", "n3") is None
    with pytest.raises(DeviceStringError, match="names its node"):
        managed_of_host("2,n1/cuda:0", "n1")


def test_a_request_stays_in_one_machine() -> None:  # D5
    allocator = Allocator(CARDS)
    assert granted(allocator, "cuda", "first") == ["n1/cuda:0"]
    assert granted(allocator, "cudax2", "pair") == ["n2/cuda:0", "n2/cuda:1"]
    assert granted(allocator, "cuda", "last") == ["n1/cuda:1"]


def test_names_with_and_without_a_host() -> None:  # D6
    allocator = Allocator(CARDS)
    assert granted(allocator, "n2/cuda:1", "a") == ["n2/cuda:1"]
    assert granted(allocator, "cuda:1", "b") == ["n1/cuda:1"]
    assert granted(allocator, "n2/cuda", "c") == ["n2/cuda:0"]


def test_a_pair_spread_over_machines_is_no_pair() -> None:  # D10
    allocator = Allocator([card("n1", 0), card("n2", 0)])
    (effect,) = allocator.request(ask("cudax2"), 0.0)
    assert isinstance(effect, Impossible) and "which no one machine has" in effect.reason
    (effect,) = allocator.request(ask("n3/cuda:0"), 0.0)
    assert isinstance(effect, Impossible) and "n1/cuda:0, n2/cuda:0" in effect.reason


def test_an_eviction_empties_one_machine_only() -> None:  # D5
    allocator = Allocator(CARDS)
    for number in range(4):
        granted(allocator, "cuda", f"w{number}")
    for number in (2, 0, 3, 1):  # least recently used first: one of each machine, then the rest
        allocator.idle(f"w{number}", float(number))
    evicted = {effect.holder_id for effect in allocator.request(ask("cudax2", "pair"), 9.0)}  # type: ignore[union-attr]
    assert evicted in ({"w0", "w1"}, {"w2", "w3"})


def test_a_machine_that_joins_serves_those_who_wait() -> None:  # D5
    allocator = Allocator([])
    allocator.expect([card("n9", 0)], 0.0)
    assert allocator.kinds == {"cuda"}
    assert allocator.request(ask("cuda"), 0.0) == []
    (effect,) = allocator.join([card("n1", 0)], 1.0)
    assert isinstance(effect, Granted) and effect.devices[0].name == "n1/cuda:0"


def test_what_is_no_longer_expected_is_no_longer_waited_for() -> None:  # D10
    allocator = Allocator([])
    allocator.expect([card("n9", 0)], 0.0)
    allocator.request(ask("cuda"), 0.0)
    (effect,) = allocator.expect([], 1.0)
    assert isinstance(effect, Impossible)


def test_a_machine_that_was_lost_may_come_back() -> None:  # D12
    allocator = Allocator([card("n1", 0)])
    allocator.lost("n1/cuda:0", 0.0)
    assert isinstance(allocator.request(ask("cuda"), 0.0)[0], Impossible)
    allocator.join([card("n1", 0)], 1.0)
    assert granted(allocator, "cuda") == ["n1/cuda:0"]
    assert [device.name for device in allocator.devices] == ["n1/cuda:0"]
