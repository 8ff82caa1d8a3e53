"""Blobs in files: one each, or those of a frame together; removed when nobody needs them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snakemake_executor_gpupool.wire import payload
from snakemake_executor_gpupool.wire import spool as spool_module
from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES, Blob, SpoolFile
from snakemake_executor_gpupool.wire.payload import load_payload, load_payloads, pack
from snakemake_executor_gpupool.wire.spool import ALIGNMENT, MESSAGE_BYTES, Discards, Spool
from snakemake_executor_gpupool.worker.late_files import wait_for_blobs

LARGE = np.arange(SPOOL_BYTES, dtype=np.float32)


def gathered(spool: Spool, values: list[Any]) -> list[Blob]:
    """The blobs of a frame with these values."""
    with spool.bundle() as bundle:
        for value in values:
            bundle.add(pack(value))
        return bundle.take()


def test_the_spool_holds_what_a_pipe_should_not(tmp_path: Path) -> None:  # W2
    spool = Spool([str(tmp_path)])
    assert spool.put([b"sm", b"all"]) == b"small"
    large = os.urandom(SPOOL_BYTES + 1)
    blob = spool.put([large])
    assert isinstance(blob, SpoolFile)
    assert Path(blob.path).stat().st_mode & 0o777 == 0o600
    assert Path(blob.path).read_bytes() == large
    Discards().discard(blob)
    assert list(tmp_path.iterdir()) == []


def test_a_full_first_spool_is_passed_over(tmp_path: Path) -> None:
    full = Path("/proc/self")  # a file system with no room at all
    blob = Spool([str(full), str(tmp_path)]).put([bytes(SPOOL_BYTES + 1)])
    assert isinstance(blob, SpoolFile) and Path(blob.path).parent == tmp_path


def test_a_spool_without_inodes_is_passed_over(small_disk: Path, tmp_path: Path) -> None:  # W9
    spool = Spool([str(small_disk), str(tmp_path)])
    number = 0
    while True:
        try:
            (small_disk / str(number)).touch()
        except OSError:
            break
        number += 1
    kept = [spool.put([bytes(SPOOL_BYTES + 1)])]
    with room_claimed(), spool.bundle() as bundle:
        bundle.add([bytes(SPOOL_BYTES + 1)])
        kept += bundle.take()
    parents = {Path(blob.path).parent for blob in kept if isinstance(blob, SpoolFile)}
    assert parents == {tmp_path}


def test_a_spool_that_fills_while_it_is_written_is_passed_over(
    small_disk: Path, tmp_path: Path
) -> None:  # W9
    with room_claimed():
        blob = Spool([str(small_disk), str(tmp_path)]).put([bytes(SPOOL_BYTES + 1)])
    assert isinstance(blob, SpoolFile) and Path(blob.path).parent == tmp_path
    assert list(small_disk.iterdir()) == []


def test_a_spool_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    blob = Spool([str(tmp_path / "gone"), str(tmp_path)]).put([bytes(SPOOL_BYTES + 1)])
    assert isinstance(blob, SpoolFile) and Path(blob.path).parent == tmp_path


def test_without_room_anywhere_the_error_names_the_last(small_disk: Path) -> None:  # W9
    with room_claimed(), pytest.raises(OSError, match="No space left") as caught:
        Spool([str(small_disk), str(small_disk)]).put([bytes(SPOOL_BYTES + 1)])
    assert str(small_disk) in str(caught.value) and list(small_disk.iterdir()) == []


@contextlib.contextmanager
def room_claimed() -> Iterator[None]:
    """Let every directory seem to have room when it is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_has_room", lambda directory, size_bytes: True)
        yield


def test_processes_of_two_machines_never_choose_one_name(tmp_path: Path) -> None:
    """Both have this process's id, as processes of two machines may."""
    for _ in range(2):
        Spool([str(tmp_path)], shared=True).put([bytes(SPOOL_BYTES + 1)])
    assert len(list(tmp_path.iterdir())) == 2


def test_on_one_machine_each_blob_is_for_itself(tmp_path: Path) -> None:  # W2
    small, large = gathered(Spool([str(tmp_path)]), ["x" * (2 * MESSAGE_BYTES), LARGE])
    assert isinstance(small, bytes)
    assert isinstance(large, SpoolFile) and (large.offset, large.sharers) == (0, 1)


def test_many_small_blobs_do_not_make_a_huge_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W5
    monkeypatch.setattr(spool_module, "INLINE_BYTES", 1000)
    spool = Spool([str(tmp_path)])
    with spool.bundle() as bundle:
        for taken in range(2):  # each frame has the bound for itself
            for _ in range(4):
                bundle.add([bytes(300)])
            blobs = bundle.take()
            assert [type(blob) for blob in blobs] == [bytes, bytes, bytes, SpoolFile], taken


@pytest.mark.parametrize(
    "values",
    [
        ["x" * MESSAGE_BYTES],
        [f"{n}" * 100 for n in range(200)],
        ["first", LARGE, "small", LARGE[:-1].astype(np.float64), b"", "x" * 1000],
    ],
)
def test_between_machines_the_blobs_of_a_frame_share_a_file(
    tmp_path: Path, values: list[Any]
) -> None:  # W2
    blobs = gathered(Spool([str(tmp_path)], shared=True), values)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(isinstance(blob, SpoolFile) for blob in blobs)
    assert {blob[0] for blob in blobs} == {str(file)}
    assert [blob.sharers for blob in blobs] == [len(values)] * len(values)  # type: ignore[union-attr]
    assert all(blob.offset % ALIGNMENT == 0 for blob in blobs)  # type: ignore[union-attr]
    for loaded in (load_payloads(blobs), [load_payload(blob) for blob in reversed(blobs)][::-1]):
        assert all(map(np.array_equal, loaded, values))


def test_a_large_one_is_mapped_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W2
    blobs = gathered(Spool([str(tmp_path)], shared=True), [LARGE[:-1], LARGE])
    monkeypatch.setattr(payload, "_read", lambda descriptor, blob: pytest.fail("it was copied"))
    arrays = load_payloads(blobs)
    assert np.array_equal(arrays[0], LARGE[:-1]) and np.array_equal(arrays[1], LARGE)
    assert all(array.flags.aligned and array.flags.writeable for array in arrays)


def test_what_is_small_altogether_goes_by_message(tmp_path: Path) -> None:
    blobs = gathered(Spool([str(tmp_path)], shared=True), ["x" * 100] * 10)
    assert all(isinstance(blob, bytes) for blob in blobs)
    assert gathered(Spool([str(tmp_path)], shared=True), []) == []
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_serves_frame_after_frame(tmp_path: Path) -> None:
    """As the items of a job with very many are announced."""
    with Spool([str(tmp_path)], shared=True).bundle() as bundle:
        for number in range(3):
            for _ in range(2):
                bundle.add(pack(f"{number}" * MESSAGE_BYTES))
            blobs = bundle.take()
            assert load_payloads(blobs) == [f"{number}" * MESSAGE_BYTES] * 2
            assert {blob.sharers for blob in blobs} == {2}  # type: ignore[union-attr]
        bundle.add(pack(LARGE))
    assert len(list(tmp_path.iterdir())) == 3, "what nobody took is removed"


def test_a_blob_without_room_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if bytes(data[:3]) == b"bad" or data.nbytes > 100_000:
            real(descriptor, data[:50], offset)
            raise OSError(errno.ENOSPC, "no room")
        return real(descriptor, data[:1000], offset)  # and never all at once

    monkeypatch.setattr(spool_module.os, "pwrite", pwrite)
    with Spool([str(tmp_path)], shared=True).bundle() as bundle:
        bundle.add([b"a" * MESSAGE_BYTES])
        bundle.add([b"b" * MESSAGE_BYTES])
        with pytest.raises(OSError, match="no room") as raised:
            bundle.add([b"bad" * MESSAGE_BYTES])
        assert raised.value.filename == str(next(tmp_path.iterdir()))
        bundle.add([b"c" * 10, b"d" * 10])
        blobs = bundle.take()
        with pytest.raises(OSError, match="no room"):
            bundle.add([b"a" * 200_000])
        assert bundle.take() == []
    data = next(tmp_path.iterdir()).read_bytes()
    parts = [data[blob.offset : blob.offset + blob.size_bytes] for blob in blobs]  # type: ignore[union-attr]
    assert parts == [b"a" * MESSAGE_BYTES, b"b" * MESSAGE_BYTES, b"c" * 10 + b"d" * 10]
    assert len(list(tmp_path.iterdir())) == 1, "a file without blobs is removed"


def test_a_file_goes_with_the_last_of_its_blobs(tmp_path: Path) -> None:
    spool, discards = Spool([str(tmp_path)], shared=True), Discards()
    blobs = gathered(spool, ["x" * MESSAGE_BYTES] * 3)
    other = gathered(spool, ["y" * MESSAGE_BYTES] * 2)
    for blob in (blobs[1], None, b"inline", blobs[2], other[0]):
        discards.discard(blob)
    assert load_payload(blobs[0]) == "x" * MESSAGE_BYTES
    discards.discard(blobs[0])
    assert [str(path) for path in tmp_path.iterdir()] == [other[1][0]]
    discards.discard(other[1])
    assert list(tmp_path.iterdir()) == []
    assert not discards._needed


@pytest.mark.parametrize("path", ["/no/such/file", "/spool/a\0b", "/spool/\ud800", ""])
def test_a_name_that_no_file_has_breaks_nothing(path: str) -> None:  # W5
    Discards().discard(SpoolFile(path, 1))


def test_a_file_that_appears_late_is_waited_for(tmp_path: Path) -> None:
    """First it is not there, then only in part."""
    blobs = gathered(Spool([str(tmp_path)], shared=True), ["x" * MESSAGE_BYTES] * 2)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.unlink()
    written: list[int] = []

    def write(size_bytes: int) -> None:
        written.append(size_bytes)
        path.write_bytes(whole[:size_bytes])

    for delay_s, size_bytes in ((0.15, len(whole) - 1), (0.4, len(whole))):
        threading.Timer(delay_s, write, [size_bytes]).start()
    assert wait_for_blobs([b"inline", *blobs], wait_s=20.0) == {}
    assert written == [len(whole) - 1, len(whole)], "a file that is too short does not count"
    assert load_payloads(blobs) == ["x" * MESSAGE_BYTES] * 2


@pytest.mark.parametrize("is_short", [True, False])
def test_a_file_that_never_appears_is_told(tmp_path: Path, is_short: bool) -> None:
    blobs = gathered(Spool([str(tmp_path)], shared=True), ["x" * MESSAGE_BYTES] * 2)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1]) if is_short else path.unlink()
    error = wait_for_blobs(blobs, wait_s=0.2)[str(path)]
    assert str(path) in str(error) and "within 0.2 s: raise --latency-wait" in str(error)
    with pytest.raises(OSError, match="shorter" if is_short else "No such file"):
        load_payloads(blobs)
