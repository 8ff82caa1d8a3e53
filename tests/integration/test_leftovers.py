"""What a job's own process leaves behind is gone before its devices are given back."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from snakemake_executor_gpupool.hosts.leftovers import Mark, wait_for
from tests.waiting import eventually


def start(script: str, mark: Mark | None = None) -> subprocess.Popen[bytes]:
    variables = {**os.environ, **(mark.variables if mark is not None else {})}
    return subprocess.Popen(["bash", "-c", script], start_new_session=True, env=variables)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def left_by(child: subprocess.Popen[bytes], note: Path) -> int:
    """The process that a child has started, once it has said so."""
    is_said = eventually(lambda: child.poll() is not None or is_written(note))
    assert is_said and is_written(note)
    return int(note.read_text())


def is_written(note: Path) -> bool:
    return note.exists() and note.read_text().endswith("\n")


@pytest.mark.parametrize("holds_devices", [True, False])
def test_a_killed_child_leaves_nothing(tmp_path: Path, holds_devices: bool) -> None:  # S7 W7
    note = tmp_path / "pid"
    child = start(f"sleep 300 & echo $! > {note}; wait")
    left = left_by(child, note)
    os.kill(child.pid, signal.SIGKILL)
    assert wait_for(child, holds_devices=holds_devices) == -signal.SIGKILL
    assert not is_alive(left)


def test_a_shell_whose_command_was_killed_leaves_nothing(tmp_path: Path) -> None:  # W7
    note = tmp_path / "pid"
    child = start(f"sleep 300 & echo $! > {note}; sh -c 'sleep 0.3; kill -9 $$'; exit $?")
    left = left_by(child, note)
    assert wait_for(child, holds_devices=False) == 128 + signal.SIGKILL
    assert not is_alive(left)


def test_devices_are_not_given_back_before_what_was_started_is_gone(tmp_path: Path) -> None:  # S7
    note = tmp_path / "pid"
    child = start(f"sleep 300 & echo $! > {note}; sleep 0.3")
    left = left_by(child, note)
    assert wait_for(child, holds_devices=True) == 0
    assert not is_alive(left)


@pytest.mark.parametrize("end", ["sleep 0.3", "kill -9 $$"])
def test_a_daemon_that_has_left_the_group_ends_with_the_job(tmp_path: Path, end: str) -> None:
    # S7 W7
    note, mark = tmp_path / "pid", Mark(holds_devices=True)
    daemon = f"sleep 300 & echo $! > {note}"
    child = start(
        f"setsid bash -c '{daemon}'; until [ -s {note} ]; do sleep 0.01; done; {end}", mark
    )
    assert eventually(lambda: is_written(note))
    left = int(note.read_text())
    assert os.getsid(left) != child.pid
    wait_for(child, holds_devices=True, mark=mark)
    assert not is_alive(left)


def test_a_plain_job_may_leave_something_as_under_the_local_executor(tmp_path: Path) -> None:  # S6
    note = tmp_path / "pid"
    child = start(f"sleep 300 & echo $! > {note}; sleep 0.3; exit 3")
    left = left_by(child, note)
    try:
        assert wait_for(child, holds_devices=False) == 3
        assert is_alive(left)
    finally:
        os.kill(left, signal.SIGKILL)
