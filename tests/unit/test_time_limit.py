"""A process that takes too long is ended, with all that it has started (K3)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from snakemake_executor_gpupool.hosts.leftovers import Mark
from snakemake_executor_gpupool.hosts.time_limit import TimeLimit
from tests.waiting import PATIENCE_S, eventually


def started(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", "-c", command], start_new_session=True)


def test_what_takes_too_long_is_asked_to_end_and_may_tidy_up(tmp_path: Path) -> None:  # K3
    note, up = tmp_path / "note", tmp_path / "up"
    body = f"trap 'echo tidy > {note}; exit 4' TERM; touch {up}; while :; do sleep 0.05; done"
    process = started(f'bash -c "{body}"; exit $?')
    assert eventually(up.exists)
    limit = TimeLimit(process.pid, 0.01, grace_s=PATIENCE_S)
    assert process.wait(PATIENCE_S) == 4 and limit.is_reached
    limit.over()
    assert note.read_text() == "tidy\n"


def test_what_does_not_end_is_killed_with_what_it_has_started(tmp_path: Path) -> None:  # K3
    inner = tmp_path / "inner"
    stubborn = f"trap '' TERM; echo \\$\\$ > {inner}; while :; do sleep 0.05; done"
    process = started(f"trap '' TERM; setsid bash -c \"{stubborn}\"; :")
    assert eventually(lambda: inner.exists() and inner.read_text().strip())
    limit = TimeLimit(process.pid, 0.01, grace_s=0.05)
    assert process.wait(PATIENCE_S) < 0 and limit.is_reached
    assert eventually(lambda: is_gone(int(inner.read_text())))


def test_a_daemon_of_it_is_ended_too(tmp_path: Path) -> None:  # K3
    note, mark = tmp_path / "pid", Mark(holds_devices=True)
    daemon = f"sleep 300 & echo $! > {note}"
    variables = {**os.environ, **mark.variables}
    command = ["bash", "-c", f"setsid bash -c '{daemon}'; sleep 300"]
    process = subprocess.Popen(command, start_new_session=True, env=variables)
    assert eventually(lambda: note.exists() and note.read_text().endswith("\n"))
    limit = TimeLimit(process.pid, 0.01, others=mark.processes)
    process.wait(PATIENCE_S)
    limit.over()
    assert limit.is_reached and eventually(lambda: is_gone(int(note.read_text())))


def test_what_ends_in_time_is_left_alone() -> None:
    process = started("exit 0")
    limit = TimeLimit(process.pid, PATIENCE_S)
    assert process.wait(PATIENCE_S) == 0
    limit.over()
    assert not limit.is_reached
    late = TimeLimit(process.pid, 0.0)
    late.over()
    unlimited = TimeLimit(process.pid, None)
    assert not unlimited.is_reached


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
