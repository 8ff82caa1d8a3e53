"""gpupool inside a job uses what the job was leased, and no more (D11, D13).

Each ``DeviceLocks`` stands for a process: two of them exclude each other as processes do.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.lent_locks import LentLocks, lent_by, new_token
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.manager import DeviceManager
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.errors import ImpossibleRequest

CARD, OTHER_CARD = simulated_devices({"GPUPOOL_SIMULATE": "2x16GiB"})
TOKEN = "0123456789abcdef"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[type]:
    """Make processes with locks in one directory; they end with the test."""
    made: list[DeviceLocks] = []

    def process(lease: object = "") -> DeviceLocks:
        env = {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks"), "GPUPOOL_LEASE": str(lease)}
        made.append(DeviceLocks(env))
        return made[-1]

    yield process  # type: ignore[misc]
    for locks in made:
        locks.close()


def parent_and_lease(make) -> tuple[DeviceLocks, LentLocks]:
    parent = make()
    assert parent.try_acquire(CARD)
    return parent, parent.lend([CARD], TOKEN)


# -- borrowing -----------------------------------------------------------------------------


def test_a_child_uses_what_its_parent_was_leased_at_once(make) -> None:
    _, lease = parent_and_lease(make)
    child = make(lease)
    assert child.is_free(CARD)
    assert child.try_acquire(CARD) and child.is_borrowed(CARD)
    assert not make().try_acquire(CARD)


def test_a_child_uses_no_more_than_that(make) -> None:
    parent, lease = parent_and_lease(make)
    assert parent.try_acquire(OTHER_CARD)
    child = make(lease)
    assert not child.is_free(OTHER_CARD) and not child.try_acquire(OTHER_CARD)


def test_two_in_one_job_keep_out_of_each_others_way(make) -> None:
    _, lease = parent_and_lease(make)
    one, other = make(lease), make(lease)
    assert one.try_acquire(CARD)
    assert not other.is_free(CARD) and not other.try_acquire(CARD)
    other.want(CARD)
    assert one.is_wanted(CARD)
    one.release(CARD)
    assert other.try_acquire(CARD)


def test_children_of_children_borrow_in_turn(make) -> None:
    parent, lease = parent_and_lease(make)
    child = make(lease)
    assert child.try_acquire(CARD)
    grandchild = make(child.lend([CARD], "f" * 16))
    assert grandchild.try_acquire(CARD)
    again = make(grandchild.lend([CARD], "e" * 16))
    assert again.try_acquire(CARD)
    assert not parent.take_back(CARD, TOKEN)  # the child is still there


def test_what_a_lease_leaves_behind_is_not_overlooked(make) -> None:
    """The child has died, and what it started has not: the job's next gpupool waits for that."""
    _, lease = parent_and_lease(make)
    child = make(lease)
    assert child.try_acquire(CARD)
    grandchild = make(child.lend([CARD], "f" * 16))
    assert grandchild.try_acquire(CARD)
    child.close()
    assert not make(lease).try_acquire(CARD)
    grandchild.close()
    assert make(lease).try_acquire(CARD)


# -- leases that are over, or never were --------------------------------------------------


def test_a_lease_that_is_over_opens_nothing(make) -> None:
    parent, lease = parent_and_lease(make)
    assert parent.take_back(CARD, TOKEN)
    child = make(lease)
    assert not child.is_free(CARD) and not child.try_acquire(CARD)


def test_a_lease_of_another_job_opens_nothing(make) -> None:
    parent, lease = parent_and_lease(make)
    parent.take_back(CARD, TOKEN)
    parent.lend([CARD], "f" * 16)
    assert not make(lease).try_acquire(CARD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        TOKEN,
        f"{TOKEN}:",
        f"{TOKEN}:SIM-0",
        f"{TOKEN}:../SIM-0.lock",
        f"{TOKEN}:SIM-0.lock,",
        f"{TOKEN[:-1]}:SIM-0.lock",
        f"{TOKEN}:SIM-0.want",
        "1:SIM-0.lock",
        "true",
    ],
)
def test_what_is_no_lease_opens_nothing(make, text: str) -> None:
    parent_and_lease(make)
    assert LentLocks.parse(text) == LentLocks("", {})
    assert not make(text).try_acquire(CARD)


def test_a_guess_opens_nothing(make) -> None:
    parent_and_lease(make)
    assert not make(lent_by("f" * 16, [CARD])).try_acquire(CARD)
    assert not make(lent_by(new_token(), [CARD, OTHER_CARD])).try_acquire(CARD)


def test_leases_are_read_as_they_are_written() -> None:
    lease = lent_by(TOKEN, [CARD, OTHER_CARD])
    assert LentLocks.parse(str(lease)) == lease
    assert str(lease.part([OTHER_CARD])) == f"{TOKEN}:SIM-1.lock"
    assert str(lease.part([])) == ""


# -- ends -----------------------------------------------------------------------------------


def test_a_child_that_outlives_its_parent_keeps_its_card_from_others(make) -> None:
    parent, lease = parent_and_lease(make)
    child = make(lease)
    assert child.try_acquire(CARD)
    parent.close()  # as it would by dying
    stranger = make()
    assert stranger.is_held(CARD) and not stranger.is_free(CARD)
    assert not stranger.try_acquire(CARD)
    child.close()
    assert stranger.is_free(CARD) and stranger.try_acquire(CARD)


def test_a_child_of_a_dead_parent_takes_the_card_as_anybody_would(make) -> None:
    parent, lease = parent_and_lease(make)
    parent.close()
    child, stranger = make(lease), make()
    assert child.try_acquire(CARD) and not child.is_borrowed(CARD)
    assert not stranger.try_acquire(CARD)


def test_a_child_does_not_borrow_from_whoever_came_after_its_parent(make) -> None:
    parent, lease = parent_and_lease(make)
    parent.close()
    stranger = make()
    assert stranger.try_acquire(CARD)
    assert not make(lease).try_acquire(CARD)


def test_nothing_is_left_on_the_disk(make, tmp_path: Path) -> None:
    parent, lease = parent_and_lease(make)
    child = make(lease)
    assert child.try_acquire(CARD)
    child.close()
    killed = make(lease)
    assert killed.try_acquire(CARD)
    (tmp_path / "locks" / f"SIM-0.lent-{'a' * 16}").touch()  # as if it had been killed
    killed.close()
    parent.close()
    assert make().try_acquire(CARD)
    assert sorted(path.name for path in (tmp_path / "locks").iterdir()) == ["SIM-0.lock"]


# -- claims: what a run does with it --------------------------------------------------------


def test_a_job_that_leaves_something_on_its_card_leaves_it_to_that(tmp_path: Path) -> None:
    env = {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks")}
    run = DeviceOwnership(env)
    assert run.take([CARD, OTHER_CARD]) is None
    told = run.lend("job1", [CARD, OTHER_CARD])
    left_behind = DeviceLocks(env | told)
    assert left_behind.try_acquire(CARD)
    run.take_back("job1")
    # The next job's grant is refused as another process's, and had when that has ended.
    refusal = run.take([CARD])
    assert refusal is not None and "is held by process" in refusal.why
    assert run.take([OTHER_CARD]) is None
    assert run.given_back() == []
    left_behind.close()
    assert run.given_back() == ["cuda:0"]
    assert run.take([CARD]) is None
    run.close()


def test_a_worker_keeps_its_token_while_it_is_away(tmp_path: Path) -> None:
    env = {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks")}
    run = DeviceOwnership(env)
    run.take([CARD, OTHER_CARD])
    told = run.lend("w1", [CARD])
    run.take_back("w1", is_gone=False)
    inside = DeviceLocks(env | told)
    assert not inside.try_acquire(CARD)
    assert run.lend("w1", [CARD]) == told
    assert inside.try_acquire(CARD)
    inside.close()
    run.take_back("w1")
    assert run.lend("w1", [CARD]) != told
    run.close()


def test_a_run_without_locks_lends_nothing(tmp_path: Path) -> None:
    assert DeviceOwnership({"GPUPOOL_LOCK_DIR": str(tmp_path / "locks")}).lend("job1", [CARD]) == {}
    assert not (tmp_path / "locks").exists()


# -- the device manager ---------------------------------------------------------------------

CHILD = """
import subprocess, sys
from snakemake_executor_gpupool import DeviceManager
manager = DeviceManager.get_instance()
print([device.uuid for device in manager.devices], flush=True)
with manager.lease("cuda", timeout_s=20) as lease:
    print(lease.devices[0].uuid, lease.names, flush=True)
    if len(sys.argv) > 1:
        env = lease.env | {"PATH": ""}
        subprocess.run([sys.executable, "-c", sys.argv[1]], env=env, check=True)
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceManager]:
    monkeypatch.setenv("GPUPOOL_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("GPUPOOL_SIMULATE", "2x16GiB")
    manager = DeviceManager()
    yield manager
    manager.close()


def test_a_managers_child_has_the_leased_device_and_no_other(
    manager: DeviceManager, tmp_path: Path
) -> None:
    base = {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks"), "GPUPOOL_SIMULATE": "2x16GiB"}
    with manager.lease("cuda:1") as lease:
        # And a child of that child, which has no environment but what it is given.
        deep = CHILD.replace("lease.env |", f"{base!r} | lease.env |")
        done = subprocess.run(
            [sys.executable, "-c", deep, CHILD],
            env=base | lease.env,
            capture_output=True,
            text=True,
            check=True,
        )
    one = ["['SIM-1']", "SIM-1 ('cuda:0',)"]
    assert done.stdout.splitlines() == [*one, *one]


def test_a_lease_inside_a_lease_does_not_wait_for_itself(manager: DeviceManager) -> None:
    with manager.lease("cuda:0"):
        with manager.lease("cuda") as other:
            assert other.names == ("cuda:1",)
            with pytest.raises(ImpossibleRequest, match="would wait for itself"), manager.lease():
                pass
        with pytest.raises(ImpossibleRequest, match=r"cuda:0.*would wait"), manager.lease("cuda:0"):
            pass
        with manager.lease("cpu"):
            pass


def test_another_threads_lease_is_waited_for(manager: DeviceManager) -> None:
    """A lease is for the code inside its block, not for the whole program."""
    names: list[str] = []

    def elsewhere() -> None:
        with manager.lease("cudax2") as lease:
            names.extend(lease.names)

    with manager.lease("cuda:0"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        assert names == []
    thread.join(timeout=20)
    assert names == ["cuda:0", "cuda:1"]
