"""Cold jobs that a server was to do take turns, and how many there are."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.frontends.server import turns
from snakemake_executor_gpupool.frontends.server.turns import take_turn, turns_of
from tests.unit.allocator_driver import gpu


def gpus(count: int) -> tuple[Device, ...]:
    return tuple(map(gpu, range(count)))


def cpus(count: int) -> tuple[Device, ...]:
    return tuple(map(cpu_slot, range(count)))


@pytest.mark.parametrize(
    ("device", "devices", "expected"),
    [
        (None, cpus(3), [["cpu:0", "cpu:1", "cpu:2"]]),
        ("cpu", cpus(1), [["cpu:0"]]),
        (None, (*gpus(2), *cpus(1)), [["cuda:0"]]),
        ("cuda:1", gpus(2), [["cuda:1"]]),
        ("cuda:1,cuda:0", gpus(2), [["cuda:0"], ["cuda:1"]]),
        ("cpu", gpus(2), [["cpu:0"]]),
        (None, (), [["cpu:0"]]),
    ],
)
def test_which_turns_a_job_needs(
    device: str | None, devices: tuple[Device, ...], expected: list[list[str]]
) -> None:
    assert turns_of(device, devices) == expected


def test_a_turn_is_taken_until_its_holder_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, said = tmp_path / "cold", list[str]()
    monkeypatch.setattr(turns, "_TAKEN", [])
    take_turn("cpu", str(directory), said.append, {"GPUPOOL_MANAGED_DEVICES": "cpu:2"})
    other = os.open(directory / "cpu:1", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)

    def time_passes(_: float) -> None:
        assert said == ["it waits for its turn: 2 cold at a time on cpu"]
        os.close(other)

    monkeypatch.setattr(turns.time, "sleep", time_passes)
    take_turn("cpu", str(directory), said.append, {"GPUPOOL_MANAGED_DEVICES": "cpu:2"})
    assert len(said) == 1 and len(turns._TAKEN) == 2
    for lock in turns._TAKEN:
        os.close(lock)


def test_without_locks_a_job_begins_and_says_so(tmp_path: Path) -> None:
    said = list[str]()
    (tmp_path / "file").touch()
    take_turn("cpu", str(tmp_path / "file" / "cold"), said.append, {})
    assert len(said) == 1 and "begins at once" in said[0]
