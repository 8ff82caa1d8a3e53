"""Devices that other runs want, too: waited for, said once, let go of, looked for again (D9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.allocation.allocator import (
    WORKER,
    Allocator,
    DeviceRequest,
)
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.runtime.sharing import Sharing
from snakemake_executor_gpupool.scheduling.events import DeviceGivenBack, RoomWanted

CARDS = tuple(Device(f"cuda:{n}", "cuda", n, f"GPU-{n}", visible_id=str(n)) for n in range(2))


class Run:
    """What one of two runs on the same machine holds."""

    def __init__(self, locks: Path) -> None:
        self.allocator = Allocator(CARDS)
        self.lines: list[str] = []
        self.given_back: list[str] = []
        self.made_room: list[str] = []
        env = {"GPUPOOL_LOCK_DIR": str(locks)}
        self.sharing = Sharing(env, self.allocator, list, self.lines.append)
        self.sharing.open(CARDS)

    def ask(self, request_id: str, spec: str = "cuda:0") -> None:
        """Have a worker of this run hold a device, or wait for it."""
        self.allocator.request(DeviceRequest(request_id, parse_device(spec), WORKER), 0.0)

    def look(self) -> None:
        for event in self.sharing.look_around():
            if isinstance(event, DeviceGivenBack):
                self.given_back.append(event.device)
            elif isinstance(event, RoomWanted):
                self.made_room.append(event.device)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[tuple[Run, Run]]:
    locks = tmp_path / "locks"
    locks.mkdir(mode=0o700)
    both = Run(locks), Run(locks)
    yield both
    for run in both:
        run.sharing.close()


def test_a_device_of_another_run_is_waited_for_and_said_once(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    assert holder.sharing.claim((CARDS[0],)) is None
    for _ in range(2):
        refusal = other.sharing.claim((CARDS[0],))
        assert refusal is not None and refusal.device == CARDS[0]
    (line,) = other.lines
    assert "cuda:0 is held by process" in line and line.endswith("waiting for it")
    assert holder.lines == []


def test_all_of_a_claim_is_taken_or_none(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    assert holder.sharing.claim((CARDS[1],)) is None
    assert other.sharing.claim(CARDS) is not None
    assert holder.sharing.claim((CARDS[0],)) is None, "the first of the two was let go of"


def test_what_nobody_is_on_is_let_go_of_and_found_by_who_waits(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    holder.ask("w1")
    assert holder.sharing.claim((CARDS[0],)) is None
    other.sharing.claim((CARDS[0],))
    other.ask("w9")
    other.ask("w10")  # waits in its own run's line
    other.look()
    assert other.given_back == []
    holder.look()
    assert holder.made_room == ["cuda:0"], "whoever idles on it ends"
    holder.allocator.gone("w1", 1.0)
    holder.look()
    other.look()
    assert other.given_back == ["cuda:0"]
    assert other.sharing.claim((CARDS[0],)) is None


def test_who_waits_no_more_lets_others_be(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    holder.ask("w1")
    holder.sharing.claim((CARDS[0],))
    other.sharing.claim((CARDS[0],))
    other.look()  # nobody of it is in line
    holder.look()
    assert holder.made_room == [] and other.given_back == []


def test_what_is_claimed_ahead_of_work_asks_nobody_to_make_room(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    holder.ask("w1")
    holder.sharing.claim((CARDS[0],))
    assert other.sharing.claim((CARDS[0],), asks=False) is not None
    holder.look()
    assert holder.made_room == [] and other.lines == []

    other.ask("w8", "cuda:1")
    other.ask("w9", "cuda:1")  # waits: there is work now
    other.look()
    holder.look()
    assert holder.made_room == ["cuda:0"]


def test_a_device_that_was_not_had_ahead_of_work_is_found_when_it_is_free(
    runs: tuple[Run, Run],
) -> None:
    holder, other = runs
    holder.ask("w1")
    holder.sharing.claim((CARDS[0],))
    other.sharing.claim((CARDS[0],), asks=False)
    holder.allocator.gone("w1", 1.0)
    holder.look()
    other.look()
    assert other.given_back == ["cuda:0"]


def test_a_device_of_another_machine_has_no_lock_here(runs: tuple[Run, Run]) -> None:
    first, second = runs
    far = (CARDS[0].on("n1"),)
    assert first.sharing.claim(far) is None and second.sharing.claim(far) is None
    assert second.sharing.claim((CARDS[0],)) is None


def test_only_what_is_held_is_lent(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    holder.sharing.claim((CARDS[0],))
    assert holder.sharing.lend("job1", CARDS)[LEASE_VARIABLE]
    assert other.sharing.lend("job1", CARDS) == {}
    holder.sharing.take_back("job1")
    holder.sharing.take_back("job1")
    assert holder.sharing.claim((CARDS[0],)) is None


def test_closing_lets_go_of_everything(runs: tuple[Run, Run]) -> None:
    holder, other = runs
    holder.sharing.claim(CARDS)
    holder.sharing.close()
    assert other.sharing.claim(CARDS) is None
