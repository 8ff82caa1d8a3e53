"""SHA-256 of inputs and outputs: of what was read, or unknown (R4)."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from snakemake_executor_gpupool.wire.fields import are_hashes
from snakemake_executor_gpupool.worker import file_hashes
from snakemake_executor_gpupool.worker.file_hashes import Watched, hash_of, hashes_of


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 1024**2 - 1, 1024**2, 2 * 1024**2 + 3])
def test_a_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "f"
    path.write_bytes(data)
    assert hash_of(str(path)) == f"{size}:{sha256(data)}"
    assert are_hashes([hash_of(str(path))])


def test_a_directory_is_what_sha256sum_says_of_its_files(tmp_path: Path) -> None:
    top = tmp_path / "d"
    (top / "b").mkdir(parents=True)
    (top / "z").write_bytes(b"one")
    (top / "b" / "c").write_bytes(b"three")
    listing = subprocess.run(
        "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum",
        cwd=top,
        shell=True,
        capture_output=True,
        check=True,
    ).stdout
    assert hash_of(str(top)) == f"dir:8:{sha256(listing)}"
    assert are_hashes([hash_of(str(top))])
    os.mkfifo(top / "pipe")
    assert hash_of(str(top)) == ""


def test_what_is_no_file_is_unknown_and_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    paths = [str(tmp_path / name) for name in ("pipe", "link", "missing")]
    assert hashes_of([*paths, "/dev/null", "a\0b"]) == [""] * 5


def test_an_input_that_changes_while_it_is_read_is_unknown(tmp_path: Path) -> None:
    same, changed, replaced, gone = (tmp_path / name for name in "abcd")
    for path in (same, changed, replaced, gone):
        path.write_text("old")
    watched = Watched([str(path) for path in (same, changed, replaced, gone, tmp_path / "e")])
    changed.write_text("new")
    (tmp_path / "new").write_text("old")
    (tmp_path / "new").replace(replaced)
    gone.unlink()
    assert watched.hashes() == [f"3:{sha256(b'old')}", "", "", "", ""]


def test_the_cache_never_answers_for_another_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    status = path.stat()
    monkeypatch.setattr("time.time", lambda: status.st_ctime + 1.0)
    assert hash_of(str(path)).endswith(sha256(b"old"))
    assert not file_hashes._CACHE, "it was changed just now, and may be again"
    monkeypatch.setattr("time.time", lambda: status.st_ctime + 3.0)
    assert hash_of(str(path)).endswith(sha256(b"old"))
    assert len(file_hashes._CACHE) == 1
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # for a clock's tick, a few ms
        path.write_text("new")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_of(str(path)).endswith(sha256(b"new"))
    file_hashes._CACHE.clear()


def test_only_so_many_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "MAX_FILES", 2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text("x")
    known = f"1:{sha256(b'x')}"
    assert hashes_of(map(str, paths)) == [known, known, ""]
    assert Watched([str(path) for path in paths]).hashes() == [known, known, ""]
    assert hash_of(str(tmp_path)) == ""


@pytest.mark.parametrize(
    "value", ["x", ["1:00"], [f"1:{'0' * 64}", 3], [f"x:{'0' * 64}"], [f"1:{'g' * 64}"]]
)
def test_the_door_takes_hashes_alone(value: object) -> None:
    assert not are_hashes(value)
