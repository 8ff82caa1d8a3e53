"""Whatever befalls a kept directory: nothing foreign changes, nothing damaged is used (P5).

Random histories of one directory: results kept and looked for by several workers, clean-ups with
random bounds, and between them damage, links, pipes and files of others put anywhere.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import ConfigError, StoreUnusable
from snakemake_executor_gpupool.records.result_store import MARKER, SUBDIRECTORY, ResultStore
from snakemake_executor_gpupool.wire.kept import TROUBLES, result_key
from snakemake_executor_gpupool.worker.result_file import KeptResults, entry_name

KEYS = 6
ROOT = Path(__file__).resolve().parents[2]


def key(number: int) -> tuple[str, ...]:
    return result_key("", "model", "group", str(number))


def value(number: int) -> bytes:
    """The only right result of a key; some are larger than a block."""
    return str(number).encode() * (1 + 3000 * (number % 3))


class Place:
    """A project directory with a cache in it, and what others have there."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.cache = directory / "project"
        self.outside = directory / "outside"
        self.cache.mkdir(mode=0o700)
        self.outside.mkdir()
        self.foreign: dict[Path, bytes] = {}
        for name in ("report.html", "aa/data.csv", "ab/" + "ab" + "0" * 62):
            self.plant(self.cache / name)
            self.plant(self.outside / name)
        self.told: list[str] = []
        self.damaged = 0
        self.workers: list[KeptResults] = []
        self.store: ResultStore | None = None

    # -- gpupool ---------------------------------------------------------------
    def run(self) -> None:
        """A run begins, with two workers."""
        try:
            self.store = ResultStore(self.cache, self.random.choice([0, 1, 9000, 10**9]))
        except (ConfigError, StoreUnusable):
            self.store = None  # said at start, before anything is computed
            return
        self.workers += [KeptResults(self.store.address, self.tell) for _ in range(2)]

    def tell(self, kind: str, why: str) -> None:
        assert kind in TROUBLES and why
        self.told.append(kind)

    def find(self) -> None:
        number = self.random.choice([self.random.randrange(KEYS), self.damaged])
        if self.workers:
            found = self.random.choice(self.workers).find(key(number))
            assert found is None or found == value(number)

    def keep(self) -> None:
        number = self.random.randrange(KEYS)
        if self.workers:
            self.random.choice(self.workers).keep(key(number), [value(number)])

    def clean_up(self) -> None:
        if self.store is not None:
            self.store.clean_up()

    # -- everybody else ----------------------------------------------------------
    def plant(self, path: Path) -> None:
        """Somebody puts a file of theirs somewhere."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.path.lexists(path) and path.parent.resolve() == path.parent.absolute():
                path.write_bytes(data := os.urandom(200))
                self.foreign[path] = data

    def plant_inside(self) -> None:
        folder = self.random.choice(["", "aa", "zz", entry_name(key(1))[:2]])
        name = self.random.choice(["note.txt", "ab" + "f" * 62, ".staged-x", "a" * 64, MARKER])
        self.plant(self.cache / SUBDIRECTORY / folder / name)

    def damage(self) -> None:
        """Something happens to what lies in an entry's place, or may lie there."""
        self.damaged = self.random.randrange(KEYS)
        path, other = self._entry(self.damaged), self._entry(self.random.randrange(KEYS))
        if path.parent.is_symlink() or other.parent.is_symlink():
            return  # what is there is not in the store
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self.random.choice(
                [self._flip, self._cut, self._swap, self._link, self._pipe, self._open_up]
            )(path, other)

    def _entry(self, number: int) -> Path:
        name = entry_name(key(number))
        return self.cache / SUBDIRECTORY / name[:2] / name

    @staticmethod
    def _is_own(path: Path) -> bool:
        """Whether what is changed there is nobody else's, no pipe, and anything at all."""
        if not path.is_file() or path.is_symlink():
            return False
        return path.stat().st_nlink == 1 and path.stat().st_size > 0

    def _flip(self, path: Path, other: Path) -> None:
        if not self._is_own(path):
            return
        data = bytearray(path.read_bytes())
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        path.write_bytes(data)

    def _cut(self, path: Path, other: Path) -> None:
        if self._is_own(path):
            os.truncate(path, self.random.randrange(path.stat().st_size))

    def _swap(self, path: Path, other: Path) -> None:
        aside = path.with_suffix(".aside")
        path.rename(aside)
        other.rename(path)
        aside.rename(other)

    def _link(self, path: Path, other: Path) -> None:
        path.unlink(missing_ok=True)
        target = self.random.choice([*self.foreign, other, Path("nowhere")])
        if self.random.random() < 0.3:
            os.link(target, path)
        else:
            path.symlink_to(target)

    def _pipe(self, path: Path, other: Path) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    def _open_up(self, path: Path, other: Path) -> None:
        self.random.choice([path, path.parent]).chmod(self.random.choice([0o777, 0o700, 0o660]))

    def redirect(self) -> None:
        """A folder becomes a link out of the store; what was in it is gone."""
        folder = self._entry(self.random.randrange(KEYS)).parent
        if not any(path.is_relative_to(folder) for path in self.foreign):
            with contextlib.suppress(OSError):
                shutil.rmtree(folder, ignore_errors=True)
                folder.symlink_to(self.random.choice([self.outside, self.outside / "aa"]))

    def lose_marker(self) -> None:
        if self.cache / SUBDIRECTORY / MARKER not in self.foreign:
            (self.cache / SUBDIRECTORY / MARKER).unlink(missing_ok=True)

    STEPS = (run, find, find, find, keep, keep, clean_up, damage, damage, plant_inside, redirect)

    def check(self) -> None:
        """See that nothing of others has changed."""
        for path, data in self.foreign.items():
            assert path.read_bytes() == data, path
        names = {path.name for path in self.outside.rglob("*") if path.is_file()}
        assert names == {"report.html", "data.csv", "ab" + "0" * 62}


@contextlib.contextmanager
def place(seed: int) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as directory:
        made = Place(Path(directory).resolve(), seed)
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.lists(st.integers(0, len(Place.STEPS)), min_size=20, max_size=60))
def test_any_history_of_a_directory(seed: int, steps: list[int]) -> None:
    with place(seed) as made:
        made.run()
        for number in range(KEYS):
            made.workers[0].keep(key(number), [value(number)])
        for number in steps:
            step = Place.lose_marker if number == len(Place.STEPS) else Place.STEPS[number]
            step(made)
        made.clean_up()
        made.check()


RUN = """
import os, random, sys
from pathlib import Path
from tests.unit.test_kept_property import KEYS, Place, key, value
from snakemake_executor_gpupool.records.result_store import ResultStore
from snakemake_executor_gpupool.worker.result_file import KeptResults
chance = random.Random(int(sys.argv[2]))
found = 0
for _ in range(40):
    store = ResultStore(Path(sys.argv[1]), chance.choice([0, 5000, 10**9]))
    kept = KeptResults(store.address, lambda kind, why: None)
    for _ in range(20):
        number = chance.randrange(KEYS)
        result = kept.find(key(number))
        assert result is None or result == value(number), (number, result[:20])
        found += result is not None
        if result is None:
            kept.keep(key(number), [value(number)])
    store.clean_up()
    kept.close()
print(found)
"""


def test_runs_at_the_same_time_in_one_directory_that_is_being_damaged() -> None:
    with place(7) as made:
        made.run()
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", RUN, str(made.cache), str(seed)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed in range(3)
        ]
        while any(run.poll() is None for run in runs):
            made.random.choice([made.damage, made.plant_inside, made.redirect])()
        for run in runs:
            out, errors = run.communicate()
            assert run.returncode == 0, errors
            assert int(out) >= 0
        made.check()
