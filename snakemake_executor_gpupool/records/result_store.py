"""The directory of results kept across runs, by content: created, checked, and bounded.

::

    <cache>/gpupool-results-v2/CACHEDIR.TAG   marks the directory as gpupool's
                               ab/ab12cd...   one result: see worker/result_file.py

The directory that the user names may hold anything, a workflow for example. Only the subdirectory
is gpupool's, and in it only entries of the right form: directories named by two hexadecimal
digits that are not links, and in them files named by 64 digits that start as results do. Nothing
else is ever opened, counted or removed. Version 0.1 kept results in ``<cache>/ab/`` itself; these
are left alone, since they cannot be told from the user's own files.

Workers read and write results; the coordinator never opens one. Nothing is locked: the content of
an entry never changes, and a result that was removed is computed again.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import shlex
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from snakemake_executor_gpupool.errors import BadEntry, ConfigError, StoreUnusable
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.kept_files import (
    ENTRY_NAME,
    FOLDER_NAME,
    MAGIC,
    OPEN_ENTRY,
    STAGED_NAME,
    group_name,
    open_directory,
    share,
    why_unsafe,
)

BOUND_VARIABLE = "GPUPOOL_CACHE_GIB"
SHARED_VARIABLE = "GPUPOOL_CACHE_SHARED"
DEFAULT_BOUND_GIB = 20.0
#: The share of the bound that a clean-up leaves, so that not every run has to clean up.
KEPT_SHARE = 0.9
SUBDIRECTORY = "gpupool-results-v2"
MARKER = "CACHEDIR.TAG"
#: Backup programs look for the first line (https://bford.info/cachedir).
MARKER_TEXT = """\
Signature: 8a477f597d28d172789f06886806bc55
# This directory is gpupool's: results kept across runs, as --gpupool-cache asks for.
# It may be removed at any time; what is missing is computed again.
"""
#: An unfinished entry of this age, in seconds, was left by a killed writer.
STALE_S = 24 * 3600.0
#: Errors that mean a full disk, rather than missing permission.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class _Entry(NamedTuple):
    """A file in the store that has the name of a result."""

    used_s: float
    size_bytes: int
    folder: str
    name: str


def bound_from(environment: Mapping[str, str]) -> int:
    """Return the store's bound in bytes, from ``GPUPOOL_CACHE_GIB``.

    Raises
    ------
    ConfigError
        It is not a number of at least 0.
    """
    text = environment.get(BOUND_VARIABLE, "").strip()
    try:
        bound_gib = float(text or DEFAULT_BOUND_GIB)
    except ValueError:
        bound_gib = math.nan
    if not 0 <= bound_gib < math.inf:
        raise ConfigError(
            f"{BOUND_VARIABLE} is {text!r}; it must be a number of GiB from 0 on, such as 20 or 0.5"
        )
    return int(bound_gib) * 1024**3 + int(bound_gib % 1 * 1024**3)


def is_shared(environment: Mapping[str, str]) -> bool:
    """Return whether ``GPUPOOL_CACHE_SHARED`` says to trust the members of the cache's group.

    Raises
    ------
    ConfigError
        It is neither empty nor ``group``.
    """
    text = environment.get(SHARED_VARIABLE, "").strip()
    if text not in ("", "group"):
        raise ConfigError(
            f"{SHARED_VARIABLE} is {text!r}; it must be 'group', which trusts all members of the "
            "cache's group, or empty"
        )
    return bool(text)


class ResultStore:
    """The store below the directory that the user named.

    Parameters
    ----------
    cache
        The user's directory; created if it does not exist.
    bound_bytes
        Bound of the store's size; at the end of a run the longest unused results are removed.
    shared
        Whether the members of the directory's group are trusted: each may put results there,
        and so run code as anybody who uses them.

    Raises
    ------
    ConfigError
        The directory cannot be used, or others could put results there, which would be
        unpickled. The message has the command that fixes it.
    StoreUnusable
        The disk is full, or something else has the store's name.
    """

    def __init__(self, cache: Path, bound_bytes: int, *, shared: bool = False) -> None:
        self._cache = cache.absolute()
        self._bound_bytes = bound_bytes
        self.directory = self._cache / SUBDIRECTORY
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            group = self._check_cache(shared)
            self.address = StoreAddress(str(self.directory), group)
            self._make()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise StoreUnusable(f"there is no room for {self.directory}") from error
            is_other = os.path.lexists(self._cache) and not self._cache.is_dir()
            why = "it is not a directory" if is_other else error.strerror
            raise ConfigError(
                f"the cache {self._cache} cannot be used: {why}; choose a directory that you may "
                "write to"
            ) from error

    def _check_cache(self, shared: bool) -> int | None:
        """Refuse a directory in which others could replace the store; return its trusted group."""
        status = self._cache.stat()
        group = status.st_gid if shared else None
        if group is not None and group not in {os.getegid(), *os.getgroups()}:
            raise ConfigError(
                f"{SHARED_VARIABLE}=group is set, and you are not a member of {group_name(group)}, "
                f"the group of the cache {self._cache}: choose another directory"
            )
        why = why_unsafe(status, group)
        if why:
            raise ConfigError(refusal(self._cache, status, why))
        return group

    def _make(self) -> None:
        """Create the subdirectory with its marker, both or neither, unless it exists."""
        if self._is_marked():
            return
        staged = self._cache / f".{SUBDIRECTORY}-{secrets.token_hex(8)}"
        staged.mkdir(mode=0o700)
        try:
            (staged / MARKER).write_text(MARKER_TEXT, encoding="ascii")
            (staged / MARKER).chmod(0o600 if self.address.group is None else 0o644)
            if self.address.group is not None:
                share(str(staged), self.address.group)
            staged.rename(self.directory)  # replaces nothing but an empty directory
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        if not self._is_marked():
            raise StoreUnusable(
                f"{self.directory} is left alone, since it has no {MARKER} of gpupool's: remove "
                "it if nothing in it is needed, or choose another directory"
            )

    def _is_marked(self) -> bool:
        """Return whether the subdirectory exists and has gpupool's marker."""
        try:
            with self._opened() as store:
                return _starts_with(store, MARKER, MARKER_TEXT.encode())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except BadEntry as error:
            status = self.directory.lstat()
            raise ConfigError(refusal(self.directory, status, str(error))) from None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = open_directory(*self.address)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # -- the bound ---------------------------------------------------------------
    def clean_up(self) -> None:
        """Shrink the store below its bound, and remove what killed writers left."""
        with contextlib.suppress(OSError, BadEntry), self._opened() as store:
            entries: list[_Entry] = []
            for folder in sorted(filter(FOLDER_NAME.fullmatch, _names(store))):
                with contextlib.suppress(OSError, BadEntry), self._folder(store, folder) as at:
                    entries += _entries(at, folder)
            self._shrink(store, entries)

    def _shrink(self, store: int, entries: list[_Entry]) -> None:
        total = sum(entry.size_bytes for entry in entries)
        if total <= self._bound_bytes:
            return
        for entry in sorted(entries):
            if total <= self._bound_bytes * KEPT_SHARE:
                return
            with contextlib.suppress(OSError, BadEntry), self._folder(store, entry.folder) as at:
                # A file that does not start as a result is not gpupool's.
                if _starts_with(at, entry.name, MAGIC):
                    os.unlink(entry.name, dir_fd=at)
                    total -= entry.size_bytes

    @contextlib.contextmanager
    def _folder(self, store: int, name: str) -> Iterator[int]:
        descriptor = open_directory(name, self.address.group, store)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as there:
        return [each.name for each in there]


def _entries(folder: int, folder_name: str) -> list[_Entry]:
    """Return the entries of a folder; remove what killed writers left there."""
    entries = []
    with os.scandir(folder) as there:
        for each in there:
            try:
                status = each.stat(follow_symlinks=False)
            except OSError:  # removed by another run's clean-up
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if ENTRY_NAME.fullmatch(each.name) and each.name.startswith(folder_name):
                entry = _Entry(status.st_mtime, status.st_size, folder_name, each.name)
                entries.append(entry)
            elif STAGED_NAME.fullmatch(each.name) and time.time() - status.st_mtime > STALE_S:
                with contextlib.suppress(OSError):
                    os.unlink(each.name, dir_fd=folder)
    return entries


def _starts_with(directory: int, name: str, start: bytes) -> bool:
    """Return whether a file of a directory is regular and starts so; never blocks on a pipe."""
    try:
        descriptor = os.open(name, OPEN_ENTRY, dir_fd=directory)
    except OSError:
        return False
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_file and os.pread(descriptor, len(start), 0) == start
    finally:
        os.close(descriptor)


def refusal(path: Path, status: os.stat_result, why: str) -> str:
    """Return why a directory is not used for results, with the command that fixes it."""
    quoted = shlex.quote(str(path))
    message = (
        f"the cache {path} is not used: {why}, and whoever may write there can run code as you, "
        "since results are unpickled"
    )
    if status.st_uid != os.geteuid():
        return f"{message}. Use a directory of your own: mkdir -m 700 DIR, --gpupool-cache DIR"
    message += f". Fix it: chmod go-w {quoted}"
    if status.st_mode & stat.S_IWOTH:
        return message
    return (
        f"{message}; or, if you trust every member of the group {group_name(status.st_gid)} with "
        f"that, set {SHARED_VARIABLE}=group"
    )
