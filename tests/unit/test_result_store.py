"""The store of results: nothing but its own is touched, nobody but its owner is trusted (P5)."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import ConfigError, StoreUnusable
from snakemake_executor_gpupool.records.result_store import (
    MARKER,
    SUBDIRECTORY,
    ResultStore,
    bound_from,
    is_shared,
)
from snakemake_executor_gpupool.wire.kept import result_key
from snakemake_executor_gpupool.worker.result_file import KeptResults, entry_name

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def key(number: int) -> tuple[str, ...]:
    return result_key("", "model", "group", str(number))


def filled(cache: Path, count: int, bound_bytes: int = 0) -> ResultStore:
    """A store with so many results, the first of which was used the longest ago."""
    store = ResultStore(cache, bound_bytes)
    kept = KeptResults(store.address, lambda kind, why: pytest.fail(f"{kind}: {why}"))
    for number in range(count):
        kept.keep(key(number), [b"x" * 1000])
        os.utime(entry(store, number), (number, number))
    kept.close()
    return store


def entry(store: ResultStore, number: int) -> Path:
    name = entry_name(key(number))
    return store.directory / name[:2] / name


def tree(directory: Path) -> dict[str, bytes | str]:
    """Every file below a directory with its content, every link with its target."""
    found: dict[str, bytes | str] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def test_a_clean_up_takes_the_longest_unused(tmp_path: Path) -> None:
    store = filled(tmp_path, 10)
    size_bytes = entry(store, 0).stat().st_size
    ResultStore(tmp_path, bound_bytes=10 * size_bytes).clean_up()
    assert all(entry(store, number).exists() for number in range(10))
    ResultStore(tmp_path, bound_bytes=6 * size_bytes).clean_up()
    assert [number for number in range(10) if entry(store, number).exists()] == [5, 6, 7, 8, 9]
    store.clean_up()
    assert not any(entry(store, number).exists() for number in range(10))


def test_a_clean_up_touches_nothing_that_gpupool_has_not_made(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    cache = tmp_path / "project"
    foreign = {
        "project/qc/report.html": "a report",
        "project/in/a.txt": "an input",
        "project/v1/data.csv": "1,2",
        "project/ab/" + "ab" + "0" * 62: "as version 0.1 had its results",
        "elsewhere/" + "c" * 64: "outside",
        f"project/{SUBDIRECTORY}/README": "somebody's note",
        f"project/{SUBDIRECTORY}/ab/note.txt": "another",
        f"project/{SUBDIRECTORY}/ab/ab{'1' * 62}": "in a result's place, and none",
        f"project/{SUBDIRECTORY}/xy/xy{'1' * 62}": "in no folder of ours",
        f"project/{SUBDIRECTORY}/ab/cd{'1' * 62}": "in the wrong folder",
    }
    store = filled(cache, 5)
    for name, text in foreign.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text)
    (cache / "zz").symlink_to(outside)
    (store.directory / "cc").symlink_to(outside)
    (store.directory / "ab" / ("ab" + "2" * 62)).symlink_to(outside / ("c" * 64))
    before = tree(tmp_path)
    ResultStore(cache, bound_bytes=0).clean_up()
    own = {str(entry(store, number)) for number in range(5)}
    assert tree(tmp_path) == {name: what for name, what in before.items() if name not in own}


def test_a_folder_that_others_may_write_is_not_swept(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    entry(store, 0).parent.chmod(0o777)
    store.clean_up()
    assert entry(store, 0).exists()


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    store = filled(tmp_path, 1, bound_bytes=10**9)
    folder = entry(store, 0).parent
    old, new, other = (folder / f".staged-{c * 16}" for c in "abc")
    for path in (old, new):
        path.write_bytes(b"half")
    other.mkdir()
    long_ago = time.time() - 25 * 3600
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    store.clean_up()
    assert not old.exists() and new.exists() and other.exists() and entry(store, 0).exists()


def test_it_is_made_once_with_its_marker(tmp_path: Path) -> None:
    first, second = ResultStore(tmp_path / "deep/c", 0), ResultStore(tmp_path / "deep/c", 0)
    assert first.directory == second.directory == tmp_path / "deep/c" / SUBDIRECTORY
    assert stat.S_IMODE(first.directory.stat().st_mode) == 0o700
    assert (first.directory / MARKER).read_text().startswith("Signature: 8a477f597d28d172789f")
    assert [path.name for path in (tmp_path / "deep/c").iterdir()] == [SUBDIRECTORY]


def test_an_empty_directory_of_that_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / SUBDIRECTORY).mkdir(mode=0o700)
    assert (ResultStore(tmp_path, 0).directory / MARKER).exists()


@pytest.mark.parametrize("what", ["files", "no marker", "another marker", "a link", "a file"])
def test_what_is_somebody_elses_is_let_be(tmp_path: Path, what: str) -> None:
    place = tmp_path / SUBDIRECTORY
    if what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "elsewhere/mine").write_text("mine")
        place.symlink_to("elsewhere")
    elif what == "a file":
        place.write_text("mine")
    else:
        place.mkdir(mode=0o700)
        (place / "mine").write_text("mine")
        if what == "another marker":
            (place / MARKER).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# other")
    before = tree(tmp_path)
    with pytest.raises(StoreUnusable, match=f"{SUBDIRECTORY}.*{MARKER}"):
        ResultStore(tmp_path, 0)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("mode", [0o770, 0o775, 0o2775, 0o777, 0o1777])
def test_a_cache_that_others_may_write_is_refused_with_the_way_out(
    tmp_path: Path, mode: int
) -> None:
    cache = tmp_path / "a cache"
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        ResultStore(cache, 0)
    assert f"chmod go-w '{cache}'" in str(refused.value)
    assert list(cache.iterdir()) == []
    is_for_group = not mode & 0o002
    assert ("GPUPOOL_CACHE_SHARED=group" in str(refused.value)) == is_for_group
    cache.chmod(mode & ~0o022)
    ResultStore(cache, 0)


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_a_store_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = filled(tmp_path, 1).directory
    directory.chmod(mode)
    with pytest.raises(ConfigError, match="chmod go-w"):
        ResultStore(tmp_path, 0)


@as_root
@pytest.mark.parametrize("which", ["the cache", "the store"])
def test_one_of_another_user_is_refused(tmp_path: Path, which: str) -> None:
    cache = tmp_path / "cache"
    store = filled(cache, 1)
    os.chown(cache if which == "the cache" else store.directory, 12345, -1)
    with pytest.raises(ConfigError, match=r"belongs to user 12345.*directory of your own"):
        ResultStore(cache, 0)


@as_root
def test_a_group_shares_one_only_by_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, 12345, 4321)
    tmp_path.chmod(0o2770)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        ResultStore(tmp_path, 0)
    with pytest.raises(ConfigError, match="not a member of 4321"):
        ResultStore(tmp_path, 0, shared=True)
    monkeypatch.setattr(os, "getgroups", lambda: [4321])
    store = ResultStore(tmp_path, 0, shared=True)
    assert store.address.group == 4321
    status = store.directory.stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4321, 0o2770)
    os.chown(store.directory, 54321, -1)  # another member had made it
    ResultStore(tmp_path, 0, shared=True)
    tmp_path.chmod(0o2777)
    with pytest.raises(ConfigError, match="open to everybody"):
        ResultStore(tmp_path, 0, shared=True)


def test_a_cache_that_is_no_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"the cache .*file cannot be used: it is not a directory"
    ):
        ResultStore(tmp_path / "file", 0)


def test_no_room_for_a_store_is_no_end(small_disk: Path) -> None:
    cache = small_disk / "cache"
    cache.mkdir(mode=0o700)
    number = 0
    while True:  # until there is not one inode left
        try:
            (small_disk / str(number)).touch()
        except OSError:
            break
        number += 1
    with pytest.raises(StoreUnusable, match="no room"):
        ResultStore(cache, 0)
    assert list(cache.iterdir()) == []
    (small_disk / "0").unlink()
    (small_disk / "1").unlink()
    ResultStore(cache, 0)


@pytest.mark.parametrize(
    ("text", "bound_bytes"),
    [("", 20 * 1024**3), ("0", 0), (" 0.5 ", 1024**3 // 2), ("1e9", 10**9 * 1024**3)],
)
def test_the_bound(text: str, bound_bytes: int) -> None:
    assert bound_from({"GPUPOOL_CACHE_GIB": text}) == bound_bytes
    assert bound_from({}) == 20 * 1024**3


@pytest.mark.parametrize("text", ["-1", "inf", "-inf", "nan", "1e400", "much", "20GiB", "-1e-300"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"GPUPOOL_CACHE_GIB is .* must be a number of GiB from 0"
    ):
        bound_from({"GPUPOOL_CACHE_GIB": text})


def test_who_shares() -> None:
    assert not is_shared({}) and is_shared({"GPUPOOL_CACHE_SHARED": "group"})
    with pytest.raises(ConfigError, match="must be 'group'"):
        is_shared({"GPUPOOL_CACHE_SHARED": "yes"})
