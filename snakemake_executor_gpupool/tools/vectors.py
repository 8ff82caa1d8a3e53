"""Reading embeddings back: one vector per id, from the files that ``arrays`` writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.arrays import LABEL_COMMENT
from snakemake_executor_gpupool.tools.finite import listed
from snakemake_executor_gpupool.tools.ids import Ids

if TYPE_CHECKING:
    import numpy as np

    Pairs = Iterator[tuple[str, np.ndarray[Any, Any]]]


#: What :mod:`.arrays` calls an array where an id has several.
LABELS = re.compile(r"layer\d+|contacts")


def read_vectors(path: str, array: str = "") -> Pairs:
    """Yield (id, vector) pairs in the order of the file.

    Parameters
    ----------
    path
        ``.npz`` or ``.parquet``.
    array
        Which of several arrays per id is taken, by its label (``"layer6"``);
        empty: there is one per id.

    Yields
    ------
    tuple of str and array
        The vector is float32 of shape (D,).

    Raises
    ------
    InputError
        The file is none of embeddings, has several arrays per id and ``array`` does not
        say which, an id is missing, without its array or there twice, or an array is no
        vector of finite numbers.
    """
    readers: dict[str, Callable[[str, str], Iterator[tuple[Any, Any]]]] = {
        ".npz": _npz,
        ".parquet": _parquet,
    }
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InputError(f"input {path}: embeddings are read from {', '.join(readers)}")
    ids, row = Ids(path), 0
    try:
        for row, (given, value) in enumerate(reader(path, array), start=1):
            name = ids.add(row, given)
            yield name, checked(path, name, value)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile, numpy and pyarrow each have their own
        raise InputError(f"{path} is damaged, or no file of embeddings ({error})") from error
    if not row:
        raise InputError(f"{path} has no embeddings")


def _npz(path: str, array: str) -> Iterator[tuple[Any, Any]]:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        members = file.zip.infolist()
        for member in members:
            if not member.filename.endswith(".npy"):
                raise InputError(f"{path} holds {member.filename!r}, which is no array")
        names = [member.filename[: -len(".npy")] for member in members]
        if all(member.comment.startswith(LABEL_COMMENT) for member in members):
            labels = [member.comment[len(LABEL_COMMENT) :].decode() for member in members]
            chosen = _by_label(path, names, labels, array)
        else:
            chosen = _by_name(path, names, array)
        for name, member in chosen:
            with file.zip.open(members[member]) as data:
                yield name, np.lib.format.read_array(data, allow_pickle=False)


def _by_label(
    path: str, names: Sequence[str], labels: Sequence[str], array: str
) -> list[tuple[str, int]]:
    """Return the ids and places of the arrays to take, where every array's label is known."""
    ids = [name[: -len(label) - 1] if label else name for name, label in zip(names, labels)]
    if not array and len(set(labels)) > 1:
        raise _several(path, dict.fromkeys(labels))
    taken = [place for place, label in enumerate(labels) if not array or label == array]
    _check_all_have(path, array, names, ids, {ids[place] for place in taken})
    return [(ids[place], place) for place in taken]


def _by_name(path: str, names: Sequence[str], array: str) -> list[tuple[str, int]]:
    """Return the same for a file that somebody else wrote: names may be ids or ids with labels."""
    if array:
        ending = f"/{array}"
        taken = {n: name[: -len(ending)] for n, name in enumerate(names) if name.endswith(ending)}
        known = set(taken.values())
        ids = [taken.get(place) or _prefix(name, known) for place, name in enumerate(names)]
        _check_all_have(path, array, names, ids, known)
        return [(name, place) for place, name in taken.items()]
    labels_of: dict[str, set[str]] = {}
    for name in names:
        owner, slash, label = name.rpartition("/")
        labels_of.setdefault(owner if slash else name, set()).add(label if slash else "")
    labels = {label: None for some in labels_of.values() for label in sorted(some)}
    is_grid = all(len(some) == len(labels) for some in labels_of.values())
    if len(labels) > 1 and (is_grid or all(map(LABELS.fullmatch, labels))):
        raise _several(path, labels)
    return [(name, place) for place, name in enumerate(names)]


def _prefix(name: str, known: set[str]) -> str:
    """Return the known id that a name starts with, before a slash; else the whole name."""
    places = [place for place, letter in enumerate(name) if letter == "/"]
    return next((name[:place] for place in places if name[:place] in known), name)


def _check_all_have(
    path: str, array: str, names: Sequence[str], ids: Sequence[str], known: set[str]
) -> None:
    if names and not known:
        raise InputError(f"{path} has no array ID/{array}; it has {listed(names)}")
    lacking = [name for name in dict.fromkeys(ids) if name not in known]
    if lacking:
        raise InputError(
            f"{path} has no array {array!r} of {listed(lacking)}; embed all with the same params"
        )


def _several(path: str, labels: Iterable[str]) -> InputError:
    return InputError(
        f"{path} seems to have several arrays per id: {listed(labels)}. Param array says which one "
        "to take; if these are parts of ids, write the file as .parquet, with columns id and "
        "embedding"
    )


def _parquet(path: str, array: str) -> Iterator[tuple[Any, Any]]:
    from pyarrow import parquet

    column = array or "embedding"
    with parquet.ParquetFile(path) as file:
        there = file.schema_arrow.names
        for name in ("id", column):
            if there.count(name) != 1:
                raise InputError(
                    f"{path} needs the columns id and {column}, once each; it has "
                    f"{', '.join(there)}. Param array says which one to take"
                )
        for batch in file.iter_batches(columns=["id", column]):
            ids, values = batch.column("id").to_pylist(), batch.column(column)
            for name, value in zip(ids, values):
                yield name, _numbers(value)


def _numbers(value: Any) -> Any:
    """Return a list of a Parquet column, by numpy's quick way if it holds plain numbers."""
    import pyarrow as pa

    if value.is_valid and not pa.types.is_nested(value.type.value_type):
        return value.values.to_numpy(zero_copy_only=False)
    return value.as_py() or ()


def checked(origin: str, name: str, value: Any) -> Any:
    """Return a value as float32 if it is one vector of finite numbers.

    Raises
    ------
    InputError
        It is not; the message names where it is from.
    """
    import numpy as np

    given: Any = np.asarray(value)
    if given.size and given.dtype.kind not in "fiu":
        raise InputError(f"{origin}: {name!r} holds values of the type {given.dtype}, not numbers")
    with np.errstate(over="ignore"):  # what is too large for float32 is said below
        vector = given.astype(np.float32)
    if vector.ndim != 1 or not vector.size:
        raise InputError(
            f"{origin}: {name!r} has the shape {vector.shape}; expected one vector per id, as "
            "'pool: mean' of esm2-embed makes it"
        )
    if not np.isfinite(vector).all():
        raise InputError(f"{origin}: {name!r} holds numbers that are not finite")
    return vector
