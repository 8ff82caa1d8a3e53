"""Results kept across runs, as workers read and write them: complete and matching, or not at all.

::

    <store>/ab/ab12cd...   named by the SHA-256 of its key

    entry   = header | key | payload
    header  = magic(8) key_bytes(u32) payload_bytes(u64) sha256(32)
    payload = digest(32) | result

``digest`` is zero, or names another entry, with what the result depends on: see
:mod:`.dependencies`. Where that is not as it was, the result does not count.

The checksum covers the two lengths, the key and the payload. An entry that does not match
the request is removed, and the result is computed again. The bytes that were checked are the bytes
that are unpickled later, since the reader copies them out of the entry before it looks at them.

A checksum is not a signature: anybody who may write an entry can have it unpickled. So files and
directories of other users, and those that others may write to, are never opened as results.
Everything is reached through descriptors of directories and without following links, so that
nothing that is put in the place of something else leads out of the store.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.errors import BadEntry
from snakemake_executor_gpupool.wire.kept import (
    UNREADABLE,
    UNSAFE,
    UNWRITTEN,
    StoreAddress,
)
from snakemake_executor_gpupool.wire.kept_files import (
    MAGIC,
    OPEN_ENTRY,
    open_directory,
    share,
    why_unsafe,
)

HEADER = struct.Struct("<8sIQ32s")
_COUNTS = struct.Struct("<IQ")
#: Larger results are synced to disk, which takes no longer than writing them. A smaller one that
#: a crash of the machine damages is detected by its checksum.
SYNCED_BYTES = 1024**2
#: Errors of opening an entry that concern the entry itself; others, such as too many open files,
#: do not.
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EACCES, errno.EPERM)

#: Of what a result depends on: nothing but its key.
DIGEST_BYTES = 32
NOTHING = bytes(DIGEST_BYTES)

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def written_key(key: Sequence[str]) -> bytes:
    """Return a key as its entry has it; different keys give different bytes."""
    return repr(tuple(key)).encode()


def entry_name(key: Sequence[str]) -> str:
    """Return the file name of the entry of a key."""
    return hashlib.sha256(written_key(key)).hexdigest()


def _depends_key(digest: bytes) -> tuple[str, ...]:
    return "", "depends", digest.hex()


class KeptResults:
    """A worker's view of the store; no problem with its content raises.

    Parameters
    ----------
    address
        The store, which the coordinator has created.
    tell
        Called with the kind of a problem and its description, for the user.
    """

    def __init__(self, address: StoreAddress, tell: Callable[[str, str], None]) -> None:
        self._directory, self._group = address
        self._tell = tell
        self._store = -1
        self._holds: Callable[[bytes], bool] = lambda packed: False
        self._checked_ones: dict[bytes, bool] = {}
        self._depends = b""
        self._put_ones: set[bytes] = set()

    def depend_on(self, packed: bytes) -> None:
        """Keep results from now on with what they depend on beyond their key."""
        self._depends = packed

    def check_with(self, holds: Callable[[bytes], bool]) -> None:
        """Check from now on, and anew, what results depend on.

        Parameters
        ----------
        holds
            Returns whether all of it is as it was.
        """
        self._holds = holds
        self._checked_ones = {}

    def close(self) -> None:
        """Close the store's directory."""
        if self._store >= 0:
            os.close(self._store)
            self._store = -1

    def find(self, key: Sequence[str]) -> bytearray | None:
        """Return a copy of a result, checked; None: there is none."""
        payload = self._payload(key)
        if payload is None:
            return None
        depends = bytes(payload[:DIGEST_BYTES])
        del payload[:DIGEST_BYTES]
        return payload if depends == NOTHING or self._is_current(depends) else None

    def _is_current(self, depends: bytes) -> bool:
        """Return whether what a result depends on is as it was."""
        if depends not in self._checked_ones:
            packed = self._payload(_depends_key(depends))
            try:
                holds = packed is not None and self._holds(bytes(packed))
            except (ValueError, TypeError):
                holds = False
            self._checked_ones[depends] = holds
        return self._checked_ones[depends]

    def _payload(self, key: Sequence[str]) -> bytearray | None:
        name = entry_name(key)
        try:
            with self._folder(name[:2]) as folder:
                return self._read(folder, name, written_key(key))
        except FileNotFoundError:
            return None
        except BadEntry as error:
            self._tell(error.kind, f"{self._directory}/{name[:2]}: {error}")
        except OSError as error:
            self._tell(UNREADABLE, f"{self._directory}/{name[:2]}: {error.strerror}")
        return None

    def keep(self, key: Sequence[str], parts: Sequence[Any]) -> None:
        """Write a result, given as bytes and views of bytes."""
        depends = self._depends
        digest = hashlib.sha256(depends).digest() if depends else NOTHING
        if depends and digest not in self._put_ones:
            self._put(_depends_key(digest), [depends], may_exist=True)
            self._put_ones.add(digest)
        # Another run may have written it just now, but one with other dependencies is replaced.
        self._put(key, [digest, *parts], may_exist=not depends)

    def _put(self, key: Sequence[str], parts: Sequence[Any], may_exist: bool) -> None:
        name = entry_name(key)
        try:
            with self._folder(name[:2], make=True) as folder:
                self._write(folder, name, written_key(key), parts, may_exist)
        except BadEntry as error:
            self._tell(error.kind, f"{self._directory}/{name[:2]}: {error}")
        except OSError as error:
            self._tell(UNWRITTEN, f"{self._directory}/{name[:2]}: {error.strerror}")

    @contextlib.contextmanager
    def _folder(self, name: str, make: bool = False) -> Iterator[int]:
        if self._store < 0:
            self._store = open_directory(self._directory, self._group)
        if make:
            self._make_folder(name)
        folder = open_directory(name, self._group, self._store)
        try:
            yield folder
        finally:
            os.close(folder)

    def _make_folder(self, name: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._store)
            if self._group is not None:
                share(name, self._group, self._store)

    # -- reading ---------------------------------------------------------------
    def _read(self, folder: int, name: str, key: bytes) -> bytearray | None:
        try:
            return self._checked(folder, name, key)
        except BadEntry as error:
            # Whatever it is, it has the name of a result, and the next one replaces it.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            self._tell(error.kind, f"{self._directory}/{name[:2]}/{name}: {error}")
        return None

    def _checked(self, folder: int, name: str, key: bytes) -> bytearray:
        try:
            descriptor = os.open(name, OPEN_ENTRY, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise BadEntry("it cannot be opened, or is a link or a socket") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadEntry("it is not a regular file")
            why = why_unsafe(status, self._group)
            if why:
                raise BadEntry(why, UNSAFE)
            payload = read_entry(descriptor, status.st_size, key)
            with contextlib.suppress(OSError):  # another member's, in a group's store
                os.utime(descriptor)
            return payload
        finally:
            os.close(descriptor)

    # -- writing ---------------------------------------------------------------
    def _write(
        self, folder: int, name: str, key: bytes, parts: Sequence[Any], may_exist: bool
    ) -> None:
        head = entry_head(key, parts)
        size_bytes = len(head) + sum(map(len, parts))
        with contextlib.suppress(OSError):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            is_same = stat.S_ISREG(there.st_mode) and there.st_size == size_bytes
            if is_same and may_exist:
                return  # readers check it
        staged = f".staged-{secrets.token_hex(8)}"
        descriptor = os.open(staged, _CREATE, 0o600, dir_fd=folder)
        try:
            with open(descriptor, "wb") as file:
                if self._group is not None:
                    os.fchown(descriptor, -1, self._group)
                    os.fchmod(descriptor, 0o640)
                file.write(head)
                file.writelines(parts)
                if size_bytes >= SYNCED_BYTES:
                    file.flush()
                    os.fsync(descriptor)
            os.replace(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(staged, dir_fd=folder)
            raise


def entry_head(key: bytes, parts: Sequence[Any]) -> bytes:
    """Return the header of an entry, with its key."""
    counts = len(key), sum(map(len, parts))
    checksum = hashlib.sha256(_COUNTS.pack(*counts) + key)
    for part in parts:
        checksum.update(part)
    return HEADER.pack(MAGIC, *counts, checksum.digest()) + key


def read_entry(descriptor: int, size_bytes: int, key: bytes) -> bytearray:
    """Return the payload of an entry, read once and checked.

    Raises
    ------
    BadEntry
        The entry does not match the key, is damaged, or cannot be read.
    """
    try:
        return _read_entry(descriptor, size_bytes, key)
    except OSError as error:
        raise BadEntry(f"it cannot be read: {error.strerror}") from error


def _read_entry(descriptor: int, size_bytes: int, key: bytes) -> bytearray:
    head = os.pread(descriptor, HEADER.size + len(key), 0)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise BadEntry("it is not a kept result")
    _, key_bytes, payload_bytes, digest = HEADER.unpack_from(head)
    # Before the payload is read: the sizes in a damaged header may be anything.
    if HEADER.size + key_bytes + payload_bytes != size_bytes:
        raise BadEntry("it is shorter or longer than it should be")
    if key_bytes != len(key) or head[HEADER.size :] != key:
        raise BadEntry("it is another result's")
    payload = _read_all(descriptor, HEADER.size + key_bytes, payload_bytes)
    checksum = hashlib.sha256(_COUNTS.pack(key_bytes, payload_bytes) + key)
    checksum.update(payload)
    if checksum.digest() != digest:
        raise BadEntry("its checksum does not match")
    return payload


def _read_all(descriptor: int, offset: int, size_bytes: int) -> bytearray:
    payload = bytearray(size_bytes)
    view, done = memoryview(payload), 0
    while done < size_bytes:
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise BadEntry("it is shorter than it should be")
        done += count
    return payload
