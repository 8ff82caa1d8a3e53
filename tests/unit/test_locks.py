"""Device locks between real processes."""

import contextlib
import os
import signal
import stat
import subprocess
import sys

import pytest

from snakemake_executor_gpupool.devices import lock_files
from snakemake_executor_gpupool.devices.allocation.allocator import (
    Allocator,
    DeviceRequest,
    Granted,
)
from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.errors import ConfigError

from .fake_nvml import LOST, FakeCard, FakeNvml

CARDS = simulated_devices({"GPUPOOL_SIMULATE": "3x16GiB"})
OTHER_PROCESS = """
import subprocess, sys
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.simulate import simulated_devices
locks = DeviceLocks({"GPUPOOL_LOCK_DIR": sys.argv[1]})
card = simulated_devices({"GPUPOOL_SIMULATE": "3"})[0]
if sys.argv[2] == "want":
    locks.want(card)
else:
    assert locks.try_acquire(card)
if sys.argv[2] == "child":
    # Ends when our standard input does: alive for as long as the test wants it.
    child = subprocess.Popen(["cat"], close_fds=False, stdout=subprocess.DEVNULL)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def env(tmp_path):
    return {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks")}


@pytest.fixture
def locks(env):
    locks = DeviceLocks(env)
    yield locks
    locks.close()


@contextlib.contextmanager
def other_process(env, what="hold"):
    """Run a process that holds, or wants, the first card until it is told to end."""
    command = [sys.executable, "-c", OTHER_PROCESS, env["GPUPOOL_LOCK_DIR"], what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_no_two_processes_hold_one_card(env, locks):  # D13
    with other_process(env) as other:
        assert not locks.try_acquire(CARDS[0])
        assert locks.holder_pid(CARDS[0]) == other.pid
        assert locks.try_acquire(CARDS[1])


def test_no_two_openings_in_one_process_hold_one_card(env, locks):  # D13
    other = DeviceLocks(env)
    assert locks.try_acquire(CARDS[0])
    assert not other.try_acquire(CARDS[0])
    assert other.is_held(CARDS[0])
    locks.release(CARDS[0])
    assert other.try_acquire(CARDS[0])
    other.close()


def test_holding_twice_is_holding_once(locks):  # D13
    assert locks.try_acquire(CARDS[0])
    assert locks.try_acquire(CARDS[0])
    assert locks.holder_pid(CARDS[0]) == os.getpid()
    locks.release(CARDS[0])
    locks.release(CARDS[0])
    assert not locks.is_held(CARDS[0])
    assert locks.holder_pid(CARDS[0]) is None


@pytest.mark.parametrize("what", ["hold", "child"])
@pytest.mark.parametrize("file_is_there", [False, True])
def test_a_killed_process_frees_its_cards_though_its_children_live(  # D13
    env, locks, what, file_is_there
):
    if file_is_there:
        locks.try_acquire(CARDS[0])
        locks.release(CARDS[0])
    with other_process(env, what) as other:
        assert not locks.try_acquire(CARDS[0])
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert locks.try_acquire(CARDS[0])


def test_files_left_behind_mean_nothing(env, locks):  # D13
    locks.try_acquire(CARDS[0])
    locks.close()
    assert (locks.directory / "SIM-0.lock").exists()
    again = DeviceLocks(env)
    assert again.try_acquire(CARDS[0])
    again.close()


def test_a_lock_file_that_was_cleaned_away_is_made_anew(env, locks):  # D13
    first = DeviceLocks(env)
    assert first.try_acquire(CARDS[0])
    first.release(CARDS[0])
    (locks.directory / "SIM-0.lock").unlink()
    assert locks.try_acquire(CARDS[0])
    assert not first.try_acquire(CARDS[0])
    first.close()


def test_a_lock_file_that_vanishes_at_the_last_moment_is_made_anew(  # D13
    env, locks, monkeypatch
):
    path = locks.directory / "SIM-0.lock"
    try_lock = lock_files.try_lock

    def clean_up_first(fd, how):
        monkeypatch.undo()
        path.unlink()
        return try_lock(fd, how)

    monkeypatch.setattr(lock_files, "try_lock", clean_up_first)
    assert locks.try_acquire(CARDS[0])
    other = DeviceLocks(env)
    assert not other.try_acquire(CARDS[0])
    other.close()


def test_cpu_slots_have_no_lock(env, locks):  # D13
    other = DeviceLocks(env)
    assert locks.try_acquire(cpu_slot(0))
    assert other.try_acquire(cpu_slot(0))
    assert not other.is_held(cpu_slot(0))
    other.want(cpu_slot(0))
    assert not locks.is_wanted(cpu_slot(0))
    other.close()


def test_a_run_that_waits_can_say_so(env, locks):  # D13
    locks.try_acquire(CARDS[0])
    assert not locks.is_wanted(CARDS[0])
    with other_process(env, "want") as other:
        assert locks.is_wanted(CARDS[0])
        other.kill()
        other.wait()
        assert not locks.is_wanted(CARDS[0])
    locks.want(CARDS[0])
    assert not locks.is_wanted(CARDS[0])  # only others count
    locks.unwant(CARDS[0])


# --- the directory


def test_the_users_own_directory_is_private(tmp_path, monkeypatch):  # D13
    monkeypatch.setattr(
        "snakemake_executor_gpupool.devices.locks.Path", lambda name: tmp_path / name.strip("/")
    )
    (tmp_path / "tmp").mkdir()
    locks = DeviceLocks({"XDG_RUNTIME_DIR": "/nowhere"})
    assert locks.directory == tmp_path / "tmp" / f"gpupool-{os.getuid()}"
    locks.try_acquire(CARDS[0])
    assert stat.S_IMODE(locks.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((locks.directory / "SIM-0.lock").stat().st_mode) == 0o600
    locks.close()
    locks.directory.chmod(0o770)
    with pytest.raises(ConfigError, match="not safe: others may write to it"):
        DeviceLocks({})


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):  # D13
    monkeypatch.setattr(
        "snakemake_executor_gpupool.devices.locks.Path", lambda name: tmp_path / name.strip("/")
    )
    mine = tmp_path / "tmp" / f"gpupool-{os.getuid() + 1}"
    mine.mkdir(parents=True)
    another_user = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another_user)
    with pytest.raises(ConfigError, match="not safe: it belongs to user"):
        DeviceLocks({})


def test_a_symbolic_link_in_place_of_the_users_directory_is_refused(tmp_path, monkeypatch):  # D13
    monkeypatch.setattr(
        "snakemake_executor_gpupool.devices.locks.Path", lambda name: tmp_path / name.strip("/")
    )
    (tmp_path / "tmp").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"gpupool-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot use the lock directory"):
        DeviceLocks({})


def test_a_site_directory_serves_all_users(env, locks):  # D13
    old = os.umask(0o077)
    try:
        locks.try_acquire(CARDS[0])
    finally:
        os.umask(old)
    assert stat.S_IMODE(locks.directory.stat().st_mode) == 0o1777
    assert stat.S_IMODE((locks.directory / "SIM-0.lock").stat().st_mode) == 0o666


def test_a_site_directory_where_others_may_delete_is_refused(tmp_path):  # D13
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 1777"):
        DeviceLocks({"GPUPOOL_LOCK_DIR": str(tmp_path)})


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")


@needs_root
def test_a_site_directory_that_is_a_users_own_is_refused(tmp_path):  # D13
    os.chown(tmp_path, 12345, -1)
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match=r"belongs to user 12345.*chown root"):
        DeviceLocks({"GPUPOOL_LOCK_DIR": str(tmp_path)})


@needs_root
def test_one_open_to_all_that_a_user_has_made_is_used_with_a_warning(tmp_path):  # D13
    os.chown(tmp_path, 12345, -1)
    tmp_path.chmod(0o1777)
    locks = DeviceLocks({"GPUPOOL_LOCK_DIR": str(tmp_path)})
    assert "belongs to user 12345" in locks.warning and locks.try_acquire(CARDS[0])
    locks.close()


def test_ones_own_site_directory_is_no_matter(tmp_path):  # D13
    tmp_path.chmod(0o755)
    locks = DeviceLocks({"GPUPOOL_LOCK_DIR": str(tmp_path)})
    assert locks.warning == "" and locks.try_acquire(CARDS[0])
    locks.close()


def test_locks_are_looked_at_before_anything_runs(tmp_path):  # D13 S9
    env = {"GPUPOOL_LOCK_DIR": str(tmp_path)}
    (tmp_path / "SIM-1.lock").mkdir()
    DeviceOwnership(env).open([CARDS[0], cpu_slot(0)])
    with pytest.raises(ConfigError, match=r"cannot use .*SIM-1\.lock.*chmod"):
        DeviceOwnership(env).open(CARDS)


def test_no_room_for_a_lock_is_said(small_disk):  # D13 W9
    number = 0
    with contextlib.suppress(OSError):
        while True:
            (small_disk / str(number)).touch()
            number += 1
    small_disk.chmod(0o1777)
    with pytest.raises(ConfigError, match=r"No space left on device\. Make room"):
        DeviceOwnership({"GPUPOOL_LOCK_DIR": str(small_disk)}).open(CARDS)


def test_an_impossible_directory_is_said(tmp_path):  # D13
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot use the lock directory"):
        DeviceLocks({"GPUPOOL_LOCK_DIR": str(tmp_path / "file")})


def plant(locks, how):
    target = locks.directory / "victim"
    target.write_text("precious")
    planted = locks.directory / "SIM-0.lock"
    if how == "symlink":
        planted.symlink_to(target)
    elif how == "hardlink":
        planted.hardlink_to(target)
    else:
        os.mkfifo(planted)
    return target


@pytest.mark.parametrize("how", ["symlink", "hardlink", "fifo"])
def test_what_others_plant_is_neither_followed_nor_overwritten(locks, how):  # D13
    target = plant(locks, how)
    with pytest.raises(ConfigError, match=r"cannot use .*SIM-0\.lock"):
        locks.try_acquire(CARDS[0])
    assert target.read_text() == "precious"


def test_a_link_that_leads_nowhere_is_said(tmp_path):  # D13
    (tmp_path / "locks").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"locks: it is a link that leads nowhere"):
        DeviceLocks({"GPUPOOL_LOCK_DIR": str(tmp_path / "locks")})


def test_a_uuid_is_no_path(locks):  # D13
    device = Device("cuda:0", "cuda", 0, uuid="../../MIG-GPU-a/1/0")
    assert locks.try_acquire(device)
    assert [path.name for path in locks.directory.iterdir()] == [".._.._MIG-GPU-a_1_0.lock"]


@pytest.mark.parametrize("note", ["", "not a number", "1" * 100, "-1"])
def test_a_note_that_makes_no_sense_is_ignored(env, locks, note):  # D13
    other = DeviceLocks(env)
    other.try_acquire(CARDS[0])
    (locks.directory / "SIM-0.lock").write_text(note)
    assert locks.holder_pid(CARDS[0]) is None
    other.close()


# --- ownership: the locks, and a look at the card


def test_claims_take_all_or_none(env, locks):  # D13
    locks.try_acquire(CARDS[1])
    ownership = DeviceOwnership(env)
    refusal = ownership.take(CARDS)
    assert refusal.device == CARDS[1]
    assert f"cuda:1 is held by process {os.getpid()}" in refusal.why
    assert not locks.is_held(CARDS[0])
    assert locks.is_wanted(CARDS[1])
    assert ownership.take([CARDS[0], CARDS[2]]) is None
    assert locks.is_held(CARDS[0])
    ownership.close()
    assert not locks.is_held(CARDS[0])


def test_claims_notice_a_device_that_is_given_back(env, locks):  # D13
    locks.try_acquire(CARDS[0])
    ownership = DeviceOwnership(env)
    ownership.take(CARDS[:1])
    assert ownership.given_back() == []
    ownership.forget_refused()
    assert not locks.is_wanted(CARDS[0])
    assert ownership.given_back() == []
    assert locks.is_wanted(CARDS[0])
    locks.release(CARDS[0])
    assert ownership.given_back() == ["cuda:0"]
    assert (ownership.refused, locks.is_wanted(CARDS[0])) == ((), False)
    ownership.close()


def test_claims_keep_only_what_is_used(env, locks):  # D13
    ownership = DeviceOwnership(env)
    assert ownership.wanted() == []
    ownership.take(CARDS)
    locks.want(CARDS[1])
    assert [device.name for device in ownership.wanted()] == ["cuda:1"]
    ownership.keep_only(["cuda:0"])
    assert [locks.is_held(card) for card in CARDS] == [True, False, False]
    ownership.close()


def test_a_card_that_others_fill_is_left_alone(env, locks):  # D12
    library = FakeNvml(FakeCard("GPU-a"))
    card = Device("cuda:0", "cuda", 0, uuid="GPU-a")
    library.cards[0].used_mib = 40_000
    ownership = DeviceOwnership(env, library)
    refusal = ownership.take([card])
    assert refusal.why == "cuda:0 is left alone: something else uses 40000 MiB of its memory"
    assert not locks.is_held(card)
    assert ownership.given_back() == []
    library.cards[0].used_mib = 500
    assert ownership.given_back() == ["cuda:0"]
    assert ownership.take([card]) is None
    library.cards[0].used_mib = 40_000
    assert ownership.take([card]) is None  # held already: the memory is ours
    ownership.close()


def test_a_lost_card_is_told_apart_from_one_in_use(env):  # D12
    library = FakeNvml(FakeCard("GPU-a", error=LOST))
    card = Device("cuda:0", "cuda", 0, uuid="GPU-a")
    allocator = Allocator([card])
    (granted,) = allocator.request(DeviceRequest("a", parse_device("cuda"), "lease"), 0)
    ownership = DeviceOwnership(env, library)
    refusal = ownership.take(granted.devices)
    assert refusal.lost
    assert refusal.tell(allocator, 0) == []
    (effect,) = allocator.retry("a", 0)
    assert "managed here: no cuda device" in effect.reason
    ownership.close()


def test_a_refusal_sends_a_grant_elsewhere(env, locks):  # D13
    locks.try_acquire(CARDS[0])
    allocator = Allocator(CARDS)
    (granted,) = allocator.request(DeviceRequest("a", parse_device("cuda"), "lease"), 0)
    ownership = DeviceOwnership(env)
    refusal = ownership.take(granted.devices)
    assert refusal.tell(allocator, 0) == []
    assert allocator.retry("a", 0) == [Granted("a", (CARDS[1],))]
    ownership.close()


def test_cpu_claims_touch_no_file(env, tmp_path):  # D13
    ownership = DeviceOwnership(env)
    assert ownership.take([cpu_slot(0)]) is None
    assert (ownership.wanted(), ownership.given_back()) == ([], [])
    ownership.close()
    assert list(tmp_path.iterdir()) == []
