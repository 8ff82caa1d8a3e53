"""Measured costs of models, kept between runs so that the next run plans better.

One JSON file in the user's cache directory, ``gpupool/profile.json``, or where
``GPUPOOL_PROFILE`` says (``off``: none). It is read once, and updated under a lock when a run
ends, whole or not at all. It only helps planning: a file that cannot be read is ignored with a
warning, and no problem with it ends a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.wire.bounds import printable

VERSION = 1
#: Entries kept; the longest unused are dropped first.
MAX_ENTRIES = 2000
#: Bound of the file's size; that many entries take a tenth of it.
MAX_BYTES = 16 * 1024**2
#: How long a run waits at its end for another one that writes; then its figures are lost.
LOCK_PATIENCE_S = 2.0
LOCK_POLL_S = 0.02


class Profile:
    """The figures of earlier runs, and those of this one.

    Parameters
    ----------
    path
        The file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.warning: str | None = None
        self._entries = self._read()
        self._new: dict[str, Figures] = {}

    def __getitem__(self, key: str) -> Figures:
        return Figures.from_json(self._entries.get(key, {}))

    def figures(self) -> dict[str, Figures]:
        """Return all that earlier runs measured."""
        return {key: Figures.from_json(entry) for key, entry in self._entries.items()}

    def note(self, key: str, figures: Figures) -> None:
        """Remember what this run measured."""
        self._new[key] = figures

    def save(self) -> None:
        """Merge this run's figures into the file. Never raises: a failure is ignored."""
        if self._path is None or not self._new:
            return
        # Whatever it is: it only affects how well the next run plans.
        with contextlib.suppress(Exception):
            path = self._path.resolve()
            if path.exists() and not path.is_file():
                return  # never replace a pipe or a device such as /dev/null by a file
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                self._entries = self._read()
                self._merge()
                write_json(path, {"version": VERSION, "entries": self._entries})

    def _merge(self) -> None:
        for key, figures in self._new.items():
            measured = {k: v for k, v in dataclasses.asdict(figures).items() if v is not None}
            # The newest last: the file is in order of use.
            self._entries[key] = {**self._entries.pop(key, {}), **measured}
        for key in list(self._entries)[:-MAX_ENTRIES]:
            del self._entries[key]

    def _read(self) -> dict[str, dict[str, Any]]:
        """Return the entries; none if the file cannot be read, for whatever reason."""
        if self._path is None:
            return {}
        try:
            data = json.loads(text_of(self._path))
            if data["version"] != VERSION:
                return {}
            return {str(key): dict(entry) for key, entry in data["entries"].items()}
        except FileNotFoundError:
            return {}
        except Exception as error:
            why = getattr(error, "strerror", None) or printable(error) or type(error).__name__
            self.warning = (
                f"the measured profile {self._path} cannot be read and is ignored: {why[:200]}"
            )
            return {}


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all, for this user alone.

    Raises
    ------
    OSError
        It cannot be written.
    """
    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:32]}-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            json.dump(content, file)
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


def text_of(path: Path, *, is_own: bool = False) -> str:
    """Return the content of a regular file; never blocks on a pipe or device.

    Parameters
    ----------
    is_own
        Nobody else may have been able to write it.

    Raises
    ------
    OSError, ValueError
        It cannot be read, is not a regular file, is too large, or may be somebody else's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if is_own and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise ValueError("somebody else could have written it")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return file.read(MAX_BYTES).decode("utf-8")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file.

    Raises
    ------
    OSError
        It cannot be opened, or another process holds it for too long.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        deadline_s = time.monotonic() + LOCK_PATIENCE_S
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline_s:
                raise TimeoutError(f"{path} is locked by another process")
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def profile_path(environment: Mapping[str, str]) -> Path | None:
    """Return the path of the profile; None: it is off, or the user has no home directory."""
    given = environment.get("GPUPOOL_PROFILE", "")
    if given == "off":
        return None
    if given:
        return Path(given)
    cache = environment.get("XDG_CACHE_HOME")
    try:
        directory = Path(cache) if cache else Path.home() / ".cache"
    except RuntimeError:  # the user has no home directory
        return None
    return directory / "gpupool" / "profile.json"
