"""Reading FASTA files: plain or gzip, any line ends, and one clear message for whatever is wrong.

A whole file is checked before anything of it is used, so that no job computes
half of a broken input. Standard library only.
"""

from __future__ import annotations

import contextlib
import gzip
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from snakemake_executor_gpupool.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
#: First bytes of what is often given a FASTA's name, and what to do about it.
FOREIGN_MAGIC = {
    b"BZh": "bzip2-compressed; decompress it, or compress with gzip",
    b"\xfd7zXZ": "xz-compressed; decompress it, or compress with gzip",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; decompress it, or compress with gzip",
    b"PK\x03\x04": "a zip archive; unpack it, or compress with gzip",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}


class Record(NamedTuple):
    """One FASTA record: the first word of its header, and its letters without white space."""

    id: str
    sequence: str


def read_fasta(path: str) -> list[Record]:
    """Read all records of a FASTA file, in order.

    Compression is told by content, not by name: gzip (also of several members,
    as bgzip writes) is read like plain text. Line ends may be those of Unix,
    Windows or old Macs; a byte order mark, blank lines and white space within
    sequence lines are skipped. Letters keep their case.

    Parameters
    ----------
    path
        A regular file.

    Returns
    -------
    list of Record
        At least one; ids are unique and every sequence has at least one letter.

    Raises
    ------
    InputError
        The file is missing, unreadable, a directory or a pipe, empty, binary,
        truncated or not UTF-8; text comes before the first header; a record has
        no id or no sequence; or two records share an id. The message names the file.
    """
    _check_regular(path)
    try:
        with _open_text(path) as lines:
            records = list(_parse(path, lines))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x}); "
            "save it as UTF-8 or ASCII"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is a damaged or truncated gzip file ({error}); fetch or write it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not records:
        raise InputError(f"{path} is empty; expected FASTA records ('>' and an id, then letters)")
    return records


def _check_regular(path: str) -> None:
    """Refuse what is no file: opening a pipe that nobody writes to would wait forever."""
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a directory; expected a FASTA file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe or a device; write it to a file first")


@contextlib.contextmanager
def _open_text(path: str) -> Iterator[IO[str]]:
    with Path(path).open("rb") as raw:
        zipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    opener = gzip.open if zipped else open
    with opener(path, "rb") as file:
        _check_text(path, file.read(4096))
    with opener(path, "rt", encoding="utf-8-sig") as text:
        yield text


def _check_text(path: str, head: bytes) -> None:
    for magic, what in FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise InputError(f"{path} is {what}")
    if b"\0" in head:
        raise InputError(f"{path} is a binary file; expected FASTA text, plain or gzip-compressed")


def _parse(path: str, lines: IO[str]) -> Iterator[Record]:
    first_seen: dict[str, int] = {}
    name = ""
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith(">"):
            if name:
                yield _record(path, name, parts)
            name, parts = _new_id(path, number, text, first_seen), []
        elif text and not name:
            raise InputError(
                f"{path}, line {number}: {text[:20]!r} comes before any header; a FASTA record "
                "starts with a line of '>' and an id"
            )
        else:
            # Some sources write letters in groups of ten.
            parts.append("".join(text.split()))
    if name:
        yield _record(path, name, parts)


def _new_id(path: str, number: int, header: str, first_seen: dict[str, int]) -> str:
    words = header[1:].split(None, 1)
    if not words:
        raise InputError(f"{path}, line {number}: the header has no id; write one after the '>'")
    name = words[0]
    if "\0" in name:
        raise InputError(f"{path}, line {number}: the id {name!r} has a NUL in it; remove that")
    if name in first_seen:
        raise InputError(
            f"{path}, line {number}: the id {name!r} was already used on line {first_seen[name]}; "
            "ids (the first word of a header) must be unique, as they name the outputs"
        )
    first_seen[name] = number
    return name


def _record(path: str, name: str, parts: list[str]) -> Record:
    sequence = "".join(parts)
    if not sequence:
        raise InputError(
            f"{path}: the record {name!r} has no sequence; add it or remove the header"
        )
    return Record(name, sequence)


def both_cases(letters: Iterable[str]) -> frozenset[str]:
    """Return ASCII letters in upper and lower case, and what else is among them as it is."""
    return frozenset(letter for each in letters for letter in (each.upper(), each.lower()))


def check_letters(origin: str, record: Record, letters: frozenset[str], wrong: str) -> None:
    """Refuse a record with other letters than these, before anything changes their case.

    In upper case, some letters beyond ASCII are letters of proteins: a sharp s is two of them,
    ``SS``, and a dotless i is ``I``.

    Parameters
    ----------
    origin
        The file, for the message.
    letters
        All that may be there, in every case in which it may.
    wrong
        What the message says of another letter.

    Raises
    ------
    InputError
        There is another one; the message has it with its position.
    """
    if letters.issuperset(record.sequence):
        return
    for position, letter in enumerate(record.sequence, start=1):
        if letter not in letters:
            raise InputError(
                f"{origin}: the record {record.id!r} has {letter!r} at position {position}, "
                f"{wrong}; remove it, or write X for an unknown residue"
            )
