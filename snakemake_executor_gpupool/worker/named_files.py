"""The content of files that params and items name.

A path does not identify a file's content: results kept by the path alone would become stale.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from snakemake_executor_gpupool.worker.file_digests import sha256_of, sha256_of_large
from snakemake_executor_gpupool.worker.staging import examined

#: Digests of larger files, weights mostly, are noted on disk.
NOTED_BYTES = 64 * 1024**2
#: Larger ones, databases mostly, count by size, times of change and some bytes.
WHOLE_BYTES = 64 * 1024**3
#: How much is read at the start, in the middle and at the end of such a file.
SAMPLE_BYTES = 64 * 1024
#: Longer texts are not paths.
LONGEST_PATH = 4096
#: Nor is a longer part of one the name of a file: Linux has no longer ones.
LONGEST_NAME = 255
#: A file or directory that was changed less than so long ago may change again without a visible
#: difference in its time of change.
SETTLED_S = 2.0
#: So long after that was found nobody looks whether it has settled.
UNSETTLED_S = 0.05
#: How many digests are cached.
MAX_DIGESTS = 10_000
#: Directories below a model's that hold no weights.
PASSED_OVER = ("__pycache__", ".git", ".cache", ".snakemake", ".ipynb_checkpoints")
#: Kinds of values that hold no text.
_TEXTLESS = frozenset((type(None), bool, int, float, complex))
#: A file that names the parts of a model, which lie beside it.
INDEX_SUFFIX = ".index.json"

#: Keys of kept results rest on these digests.
_new_hash = functools.partial(hashlib.blake2b, digest_size=32)
_DIGESTS: OrderedDict[tuple[Any, ...], str] = OrderedDict()
_LISTINGS: dict[tuple[Any, ...], frozenset[str]] = {}
#: Until when the working directory counts as one that is still changing.
_UNSETTLED = {"until_s": 0.0}


class Bounds(NamedTuple):
    """How much of a directory is read, and what a larger one counts as.

    Attributes
    ----------
    files, size_bytes
        The most that a directory may hold in all.
    beyond
        What a larger directory counts as; None: a different value each time, so that no result
        is shared.
    """

    files: float
    size_bytes: float
    beyond: str | None = ""


#: A model's directory counts as a whole.
MODEL = Bounds(float("inf"), float("inf"))
#: A word among a run's params may happen to be the name of a directory of results.
RUN_PARAM = Bounds(1000, NOTED_BYTES)
ITEM = Bounds(1000, NOTED_BYTES, beyond=None)


def contents_of(value: Any, bounds: Bounds, outputs: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Return the name and a digest of the content of each file or directory that a value names.

    Parameters
    ----------
    value
        A text, a path, or a container or plain object that holds such.
    bounds
        Of directories.
    outputs
        The job's outputs: a directory that holds them is not a model, whatever its name.

    Returns
    -------
    list of (str, str)
        In the order of the value; empty if it names none that exists.
    """
    if type(value) is str and not _may_be_path(value):
        return []
    contents = []
    for path in _paths_in(value):
        content = _content(path, bounds) if not _is_above(path, outputs) else ""
        if content:
            contents.append((path, content))
    return contents


def params_digest(params: Mapping[str, Any], outputs: Iterable[str]) -> str:
    """Return a digest of the files that a job's params name; empty: they name none.

    Also of those that neither its model nor its results depend on, for they may be read with its
    inputs, or when its outputs are written.
    """
    contents = contents_of(list(params.values()), RUN_PARAM, outputs)
    return hashlib.sha256(repr(contents).encode()).hexdigest() if contents else ""


def content_of(path: str) -> str:
    """Return a digest of a file's content; empty: it does not exist."""
    return _content(path, MODEL)


def roots_of(value: Any, bounds: Bounds, outputs: Iterable[str] = ()) -> list[str]:
    """Return the files and directories whose content :func:`contents_of` covers, in full."""
    files = [(path, _content(path, bounds)) for path in _paths_in(value)]
    return [path for path, content in files if content and not _is_above(path, outputs)]


def _is_above(path: str, files: Iterable[str]) -> bool:
    return any(os.path.abspath(file).startswith(os.path.abspath(path) + os.sep) for file in files)


def _paths_in(value: Any) -> Iterable[str]:
    """Return the texts that may be paths of existing files, in the order of the value."""
    texts: list[str] = []
    if _gather_texts(value, texts, set()):
        listing = _listing() if texts else None  # one look for all
        return [text for text in texts if _may_be_path(text, listing)]
    return _paths_among(value, set())


def _gather_texts(value: Any, texts: list[str], seen: set[int]) -> bool:
    """Add the texts of what most params are, in order; return whether there is nothing else."""
    kind = type(value)
    if kind is str:
        texts.append(value)
    elif kind is dict or kind is list or kind is tuple:
        if id(value) in seen:
            return True
        seen.add(id(value))
        for part in itertools.chain.from_iterable(value.items()) if kind is dict else value:
            if type(part) not in _TEXTLESS and not _gather_texts(part, texts, seen):
                return False
    else:
        return kind in _TEXTLESS
    return True


def _paths_among(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield the same of a value of any kind."""
    if isinstance(value, (str, bytes)):
        if _may_be_path(value):
            yield os.fsdecode(value)
        return
    if isinstance(value, os.PathLike):
        yield os.fsdecode(value)
        return
    if value is None or isinstance(value, (bool, int, float, complex)) or id(value) in seen:
        return
    seen.add(id(value))
    for part in _parts(value):
        yield from _paths_among(part, seen)


def _parts(value: Any) -> Iterator[Any]:
    if hasattr(value, "dtype"):
        # Arrays, and columns of tables: only texts and objects can be paths.
        if getattr(value.dtype, "kind", "") in ("O", "U", "S"):
            yield value.tolist()
    elif hasattr(value, "columns") and hasattr(value, "to_numpy"):
        yield value.to_numpy()
    elif isinstance(value, dict):
        for pair in value.items():
            yield from pair
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(value, key=repr)
    elif not callable(value):
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[Any]:
    yield from getattr(value, "__dict__", {}).values()
    for klass in type(value).__mro__:
        slots = vars(klass).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(value, name, None)


def places_of_paths(texts: Sequence[str]) -> list[int]:
    """Return which of some texts may name files; of most it is seen that they do not."""
    return [
        place
        for place, text in enumerate(texts)
        # Its first part, up to a slash, would be longer than any name.
        if (len(text) <= LONGEST_NAME or text.find("/", 0, LONGEST_NAME + 1) >= 0)
        and _may_be_path(text)
    ]


def _may_be_path(value: str | bytes, listing: frozenset[str] | None = None) -> bool:
    if not 0 < len(value) < LONGEST_PATH:
        return False
    return _may_exist(value if type(value) is str else os.fsdecode(value), listing)


def _may_exist(path: str, listing: frozenset[str] | None) -> bool:
    """Return whether a text can be the path of an existing file, mostly without a system call.

    A relative path starts with an entry of the working directory. Listing that once is cheaper
    than a call for each of many sequences or sentences, perhaps over a network.
    """
    if "\0" in path or "\n" in path or not path.strip("./"):
        return False
    first = path.partition("/")[0]
    return first in ("", ".", "..") or _is_here(first, listing)


def _is_here(name: str, listing: frozenset[str] | None) -> bool:
    """Return whether the working directory has an entry of that name, a dangling link left out.

    ``listing``: its entries, if somebody has looked just now.
    """
    if len(name) > LONGEST_NAME:
        return False
    if listing is None:
        listing = _listing()
    if listing is not None:
        return name in listing
    try:
        return os.access(name, os.F_OK)  # half the time of a look that raises
    except ValueError:  # no file can have such a name
        return False


def _listing() -> frozenset[str] | None:
    """Return the entries of the working directory; None: it is still changing."""
    now_s = time.monotonic()
    if now_s < _UNSETTLED["until_s"]:  # looking for a name takes half the time of looking at both
        return None
    status = os.stat(".")
    ident = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    listing = _LISTINGS.get(ident)
    if listing is not None:
        return listing
    if not is_settled(status):
        _UNSETTLED["until_s"] = now_s + UNSETTLED_S
        return None
    _LISTINGS.clear()
    _LISTINGS[ident] = frozenset(os.listdir("."))
    return _LISTINGS[ident]


def is_settled(status: os.stat_result) -> bool:
    """Return whether a file has not been changed just now."""
    now_s = time.time()
    if abs(now_s - status.st_ctime) <= SETTLED_S:
        return False
    # This one can be set back by who has changed the file, the other cannot.
    return abs(now_s - status.st_mtime) > SETTLED_S


def _content(path: str, bounds: Bounds) -> str:
    """Return a digest of the content of a file or directory; empty: it does not exist."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            parts = _parts_of_index(path) if path.endswith(INDEX_SUFFIX) else []
            contents = [_content(part, bounds) for part in parts]
            return " ".join([_content_of_file(path, status), *contents])
        if stat.S_ISDIR(status.st_mode):
            return _content_of_directory(path, bounds)
    except (OSError, ValueError):
        pass  # missing or unreadable: then no tool reads it either
    return ""


def _parts_of_index(path: str) -> list[str]:
    """Return the files that the index of a model in several parts names."""
    try:
        with open(path, encoding="utf-8") as file:
            names = json.load(file)["weight_map"].values()
        parts = {os.path.join(os.path.dirname(path), name) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # an index of something else
    return sorted(part for part in parts if not part.endswith(INDEX_SUFFIX))


def _content_of_directory(path: str, bounds: Bounds) -> str:
    total, files, size_bytes = _new_hash(), [], 0
    for name in files_below(path):
        status = os.stat(os.path.join(path, name))
        files.append((name, status))
        size_bytes += status.st_size
        if len(files) > bounds.files or size_bytes > bounds.size_bytes:
            return os.urandom(16).hex() if bounds.beyond is None else bounds.beyond
    for name, status in sorted(files, key=lambda file: file[0]):
        try:
            content = _content_of_file(os.path.join(path, name), status)
        except OSError:
            content = ""  # nobody can read it; the others still count
        total.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return f"dir:{total.hexdigest()}"


def files_below(top: str) -> Iterator[str]:
    """Yield the regular files of a directory and of those below, links followed, once each."""
    entered = set()
    for directory, inner, files in os.walk(top, followlinks=True):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in entered:
            inner.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not _is_passed_over(name))
        for name in files:
            file = os.path.join(directory, name)
            if os.path.isfile(file):
                yield os.path.relpath(file, top)


def _is_passed_over(name: str) -> bool:
    return name in PASSED_OVER


def _content_of_file(path: str, status: os.stat_result) -> str:
    """Return a digest of a file, cached as long as the file does not change."""
    ident = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = _DIGESTS.get(ident)
    if known is None:
        known = _digest_of(path, status)
        if is_settled(status):
            _DIGESTS[ident] = known
            if len(_DIGESTS) > MAX_DIGESTS:
                _DIGESTS.popitem(last=False)
    return known


def _digest_of(path: str, status: os.stat_result) -> str:
    if status.st_size <= NOTED_BYTES:
        return examined(path, new_hash=_new_hash)[0]
    if status.st_size > WHOLE_BYTES:
        return _sampled(path, status)
    # A version that is not settled yet may be one of several with the same times.
    whole = sha256_of_large(path, status) if is_settled(status) else sha256_of(path)
    return f"{status.st_size}:{whole}"


def _sampled(path: str, status: os.stat_result) -> str:
    total = _new_hash()
    with open(path, "rb", buffering=0) as file:
        for start in (0, status.st_size // 2, status.st_size - SAMPLE_BYTES):
            file.seek(start)
            total.update(file.read(SAMPLE_BYTES))
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    return f"{status.st_size}:{times}:{total.hexdigest()}"
