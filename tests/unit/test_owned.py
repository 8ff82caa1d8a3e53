"""Temporary directories go with their run, or with the next one; never another's (S10)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snakemake_executor_gpupool.records import owned, paths
from snakemake_executor_gpupool.records.owned import (
    LOCK_NAME,
    OwnedDirectory,
    sweep_parts,
    sweep_whole,
)
from snakemake_executor_gpupool.records.paths import RunPaths

HOLD = """
import sys, time
from pathlib import Path
from snakemake_executor_gpupool.records.owned import OwnedDirectory
held = OwnedDirectory.make(Path(sys.argv[1]), "gpupool-")
(held.path / "large.blob").write_bytes(b"large")
(held.path / "sub").mkdir()
print(held.path, flush=True)
time.sleep(60)
"""


def held_by_another(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A directory of another process."""
    command = [sys.executable, "-c", HOLD, str(parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_living_runs_directory_is_let_be_and_a_dead_ones_is_removed(tmp_path: Path) -> None:
    process, directory = held_by_another(tmp_path)
    with process:
        sweep_whole(tmp_path.iterdir())
        assert (directory / "large.blob").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    sweep_whole(tmp_path.iterdir())
    assert not directory.exists()


def test_parts_of_a_dead_run_are_removed_and_the_rest_is_kept(tmp_path: Path) -> None:
    mine = OwnedDirectory.make(tmp_path, "run-")
    for name in ("spool", "staged-1", "workers"):
        (mine.path / name).mkdir()
    sweep_parts([mine.path], ("spool", "staged-*"))
    assert len(list(mine.path.iterdir())) == 4, "its run lives"
    mine.let_go()
    sweep_parts([mine.path], ("spool", "staged-*"))
    assert [path.name for path in mine.path.iterdir()] == ["workers"]


def test_nothing_else_is_ever_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock, with another system's, behind a link, a pipe in its place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    boot = owned.this_boot()
    (outside / LOCK_NAME).write_bytes(boot)
    (outside / "precious").write_text("x")
    room = tmp_path / "room"
    room.mkdir()
    for name, text in {"of-0.1": None, "of-another-boot": b"other", "empty": b""}.items():
        (room / f"gpupool-{name}").mkdir()
        if text is not None:
            (room / f"gpupool-{name}" / LOCK_NAME).write_bytes(text)
    (room / "gpupool-link").symlink_to(outside)
    (room / "gpupool-linked-lock").mkdir()
    (room / "gpupool-linked-lock" / LOCK_NAME).symlink_to(outside / LOCK_NAME)
    (room / "gpupool-pipe").mkdir()
    os.mkfifo(room / "gpupool-pipe" / LOCK_NAME)
    (room / "gpupool-file").write_bytes(boot)
    before = sorted(room.iterdir())
    sweep_whole(room.iterdir())
    assert sorted(room.iterdir()) == before
    assert (outside / "precious").exists()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    sweep_whole([outside])
    assert (outside / "precious").exists(), "it is another user's"


def test_a_link_within_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    mine = OwnedDirectory.make(tmp_path, "gpupool-")
    (mine.path / "link").symlink_to(tmp_path / "outside")
    mine.remove()
    assert not mine.path.exists() and (tmp_path / "outside" / "precious").exists()


def test_a_forked_child_holds_no_lock(tmp_path: Path) -> None:
    mine = OwnedDirectory.make(tmp_path, "gpupool-")
    forked, say_forked = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(say_forked, b"x")
        signal.pause()
        os._exit(0)
    os.read(forked, 1)
    try:
        mine.let_go()  # as if this process had been killed
        sweep_whole([mine.path])
        assert not mine.path.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(forked)
        os.close(say_forked)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory file system of its own."""
    directory = tmp_path / "memory"
    directory.mkdir()
    monkeypatch.setattr(paths, "MEMORY_FILE_SYSTEM", directory)
    return directory


def test_the_next_run_removes_what_the_last_one_left(tmp_path: Path, memory: Path) -> None:
    dead = RunPaths(tmp_path / "runs", "1")
    dead.create()
    (Path(dead.staged)).mkdir()
    (Path(dead.spools[0]) / "1.blob").write_text("x")
    other, directory = held_by_another(memory)
    for each in (dead._run, dead._memory_spool):
        assert each is not None
        each.let_go()  # as the kernel does when it is killed
    with other:
        again = RunPaths(tmp_path / "runs", "2")
        again.create()
        assert sorted(memory.iterdir()) == sorted([directory, Path(again.spools[0])])
        assert sorted(path.name for path in dead.directory.iterdir()) == ["workers"]
        other.kill()
    again.remove_spools()
    again.remove_staged()
    assert sorted(path.name for path in again.directory.iterdir()) == ["workers"]
    assert list(memory.iterdir()) == [directory]


def test_a_temporary_run_goes_with_all_that_it_wrote(tmp_path: Path, memory: Path) -> None:
    root = tmp_path / "gpupool-x"
    root.mkdir()
    run = RunPaths(root, temporary=True)
    run.create()
    run.events.write_text("x")
    assert run.temporary == [Path(run.spools[0]), root]
    run.remove_spools()
    run.remove_staged()
    assert not root.exists() and not list(memory.iterdir())
