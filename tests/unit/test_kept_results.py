"""A kept result is believed only if it is what was asked for, whatever lies there (P5, C2)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from snakemake_executor_gpupool.wire.kept import (
    DAMAGED,
    UNREADABLE,
    UNSAFE,
    UNWRITTEN,
    StoreAddress,
    result_key,
)
from snakemake_executor_gpupool.worker import result_file
from snakemake_executor_gpupool.worker.result_file import HEADER, KeptResults, entry_name

KEY = result_key("", "model", "group", "item")
OTHER = result_key("", "model", "group", "other item")
PAYLOAD = b"a pickle" * 40
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


class Store:
    """A store of one test, as a worker sees it."""

    def __init__(self, directory: Path, group: int | None = None) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        self.told: list[tuple[str, str]] = []
        address = StoreAddress(str(directory), group)
        self.kept = KeptResults(address, lambda kind, why: self.told.append((kind, why)))

    def entry(self, key: tuple[str, ...] = KEY) -> Path:
        """Where a key's result lies."""
        name = entry_name(key)
        return self.directory / name[:2] / name

    @property
    def kinds(self) -> list[str]:
        """What was told, without the words."""
        return [kind for kind, _ in self.told]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.kept.keep(KEY, [PAYLOAD[:7], memoryview(PAYLOAD)[7:]])
    store.kept.keep(OTHER, [b"something else"])
    return store


def test_what_was_kept_is_found_whole(store: Store) -> None:
    assert store.kept.find(KEY) == PAYLOAD and store.kept.find(OTHER) == b"something else"
    assert store.kept.find(result_key("env", *KEY[1:])) is None
    assert store.told == []
    assert [path.name for path in store.entry().parent.iterdir()] == [entry_name(KEY)]


def test_an_empty_result_is_a_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.kept.keep(KEY, [])
    assert store.kept.find(KEY) == b""


def _exchange(path: Path, other: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def _replace(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def act(path: Path, other: Path) -> None:
        path.unlink()
        make(path)

    return act


def _socket(path: Path) -> None:
    place = os.getcwd()  # noqa: PTH109 - a socket's path has at most 107 bytes
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
        Path("s").rename(path.name)
    finally:
        os.chdir(place)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda path, other: path.write_bytes(b""),
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "in the header": lambda path, other: path.write_bytes(path.read_bytes()[:20]),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"x"),
    "huge and empty": lambda path, other: os.truncate(path, 2**40),
    "zeros": lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    "exchanged": _exchange,
    "a pickle alone": lambda path, other: path.write_bytes(PAYLOAD),
    "a link to the other": _replace(lambda path: path.symlink_to(path.parent)),
    "a dangling link": _replace(lambda path: path.symlink_to("nowhere")),
    "a link to itself": _replace(lambda path: path.symlink_to(path.name)),
    "a pipe": _replace(os.mkfifo),
    "a socket": _replace(_socket),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_damaged_is_a_miss_and_removed_and_said(store: Store, how: str) -> None:
    path = store.entry()
    DAMAGE[how](path, store.entry(OTHER))
    assert store.kept.find(KEY) is None
    assert not os.path.lexists(path)
    assert store.kinds == [DAMAGED] and str(path) in store.told[0][1]
    store.kept.keep(KEY, [PAYLOAD])
    assert store.kept.find(KEY) == PAYLOAD


@pytest.mark.parametrize("byte", [*range(0, HEADER.size, 3), HEADER.size, -1])
def test_any_flipped_bit_is_seen(store: Store, byte: int) -> None:
    data = bytearray(store.entry().read_bytes())
    data[byte] ^= 4
    store.entry().write_bytes(data)
    assert store.kept.find(KEY) is None and store.kinds == [DAMAGED]


def test_the_payload_of_another_key_with_a_right_checksum_is_not_taken(store: Store) -> None:
    store.entry().write_bytes(store.entry(OTHER).read_bytes())
    assert store.kept.find(KEY) is None and "another result's" in store.told[0][1]


def test_what_was_checked_is_what_is_returned(store: Store) -> None:
    found = store.kept.find(KEY)
    store.entry().write_bytes(b"\0" * 500)
    assert found == PAYLOAD


def test_a_link_in_place_of_a_folder_leads_nowhere(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    store.entry().parent.rename(outside)
    store.entry().parent.symlink_to(outside)
    before = (outside / store.entry().name).read_bytes()
    assert store.kept.find(KEY) is None
    store.kept.keep(KEY, [b"new"])
    assert store.kinds == [UNREADABLE, UNWRITTEN]
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {
        store.entry().name: before
    }


def test_a_directory_in_place_of_an_entry_stays_and_is_said(store: Store) -> None:
    store.entry().unlink()
    (store.entry() / "mine").mkdir(parents=True)
    assert store.kept.find(KEY) is None
    store.kept.keep(KEY, [PAYLOAD])
    assert store.kinds == [DAMAGED, UNWRITTEN] and (store.entry() / "mine").exists()
    assert [path.name for path in store.entry().parent.iterdir()] == [store.entry().name]


def test_too_many_open_files_say_nothing_of_an_entry(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.kept.find(KEY)
    real = os.open

    def refuse(path: str, *arguments: object, **named: object) -> int:
        if len(path) == 64:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(result_file.os, "open", refuse)
    assert store.kept.find(KEY) is None and store.kinds == [UNREADABLE]
    monkeypatch.undo()
    assert store.kept.find(KEY) == PAYLOAD


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_may_write_is_not_read(store: Store, mode: int) -> None:
    store.entry().chmod(mode)
    assert store.kept.find(KEY) is None and store.kinds == [UNSAFE]


@as_root
@pytest.mark.parametrize("what", ["entry", "folder", "store"])
def test_what_belongs_to_somebody_else_is_not_read(store: Store, what: str) -> None:
    path = {"entry": store.entry(), "folder": store.entry().parent, "store": store.directory}
    os.chown(path[what], 12345, -1)
    store.kept.close()  # a worker looks at the store's own directory once
    assert store.kept.find(KEY) is None
    assert set(store.kinds) == {UNSAFE} and "user 12345" in store.told[0][1]


@pytest.mark.parametrize("what", ["folder", "store"])
def test_a_directory_that_others_may_write_is_not_used(store: Store, what: str) -> None:
    path = store.entry().parent if what == "folder" else store.directory
    path.chmod(0o770)
    store.kept.close()
    before = store.entry().read_bytes()
    assert store.kept.find(KEY) is None
    store.kept.keep(KEY, [b"new"])
    assert set(store.kinds) == {UNSAFE} and store.entry().read_bytes() == before


@as_root
def test_members_of_a_group_that_is_trusted_share_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", group=4321)
    os.chown(store.directory, -1, 4321)
    store.directory.chmod(0o2770)
    store.kept.keep(KEY, [PAYLOAD])
    for path, mode in ((store.entry(), 0o640), (store.entry().parent, 0o2770)):
        assert (path.stat().st_gid, path.stat().st_mode & 0o7777) == (4321, mode)
        os.chown(path, 12345, -1)  # another member's
    assert store.kept.find(KEY) == PAYLOAD
    os.chown(store.entry(), 12345, 99)  # nobody's who is trusted
    assert store.kept.find(KEY) is None and store.kinds == [UNSAFE]
    store.entry().parent.chmod(0o777)
    store.kept.keep(KEY, [PAYLOAD])
    assert store.kinds == [UNSAFE, UNSAFE]


def test_a_result_that_is_there_is_not_written_again(store: Store) -> None:
    before = store.entry().stat()
    store.kept.keep(KEY, [PAYLOAD])
    after = store.entry().stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_use_is_noted(store: Store) -> None:
    os.utime(store.entry(), (1, 1))
    store.kept.find(KEY)
    assert store.entry().stat().st_mtime > 1


def test_a_full_disk_costs_the_entry_and_leaves_nothing(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    store.kept.keep(KEY, [os.urandom(40_000)])
    store.kept.keep(OTHER, [os.urandom(200_000)])
    assert store.kinds == [UNWRITTEN] and "No space left" in store.told[0][1]
    assert len(store.kept.find(KEY) or b"") == 40_000 and store.kept.find(OTHER) is None
    left = [path for path in store.directory.rglob("*") if path.is_file()]
    assert left == [store.entry()]
