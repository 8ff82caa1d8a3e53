"""Writing named arrays to one file, whose suffix says the format: .npz, .pt or .parquet.

Every sequence has one or several arrays, told apart by a label (``"layer6"``).
Where all have exactly one, the label is left out: the array is then called by
the sequence's id alone.

=========== ============================== =========================================
suffix      one array per sequence         several
=========== ============================== =========================================
.npz        ``file[id]``                   ``file["id/label"]``
.pt         ``{id: tensor}``               ``{"id/label": tensor}``
.parquet    columns ``id``, ``embedding``  columns ``id`` and one for each label
=========== ============================== =========================================

Files are the same to the byte for the same arrays, whatever they are called and whenever they are
written, by the same versions of the libraries (which .pt and .parquet name inside). The top level
imports the standard library only; numpy, torch and pyarrow are imported where a format needs them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from snakemake_executor_gpupool.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]

#: What each format needs to be installed.
MODULES = {".npz": "numpy", ".pt": "torch", ".parquet": "pyarrow"}
#: A Parquet row group holds about this many values (0.5 GiB of float32), well within the
#: 2**31 that the offsets of its lists can count.
ROW_GROUP_VALUES = 1 << 27
#: A name in a .npz file, with a label, has at most 65,535 bytes.
MAX_ID_BYTES = 65_000
#: What the comment of each member of a .npz file starts with; the array's label follows. Names
#: alone do not tell an id with a slash from an id and a label.
LABEL_COMMENT = b"gpupool label "


def array_format(path: str) -> str:
    """Return the format of an output file, by its suffix.

    Returns
    -------
    str
        ``".npz"``, ``".pt"`` or ``".parquet"``.

    Raises
    ------
    InputError
        The suffix is none of these, or what writes the format is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in MODULES:
        raise InputError(
            f"output {path}: cannot write {suffix or 'a file without a suffix'!r}; the suffix must "
            f"be one of {', '.join(MODULES)}"
        )
    if importlib.util.find_spec(MODULES[suffix]) is None:
        raise InputError(
            f"output {path}: {suffix} needs the Python package {MODULES[suffix]}; install it, or "
            "choose another suffix"
        )
    return suffix


def check_ids(path: str, ids: Iterable[str]) -> None:
    """Refuse ids that the format of an output cannot hold, before anything is computed.

    Raises
    ------
    InputError
        There is one; the message says what to do.
    """
    if array_format(path) != ".npz":
        return
    for name in ids:
        reason = ""
        if name.endswith(".npy"):
            reason = "ends in .npy, which NumPy takes off"  # file["x.npy"] is the array "x"
        elif "\0" in name:
            reason = "has a NUL in it, at which names in archives end"
        elif len(name.encode()) > MAX_ID_BYTES:
            reason = f"has more than {MAX_ID_BYTES:,} bytes"
        if reason:
            raise InputError(
                f"output {path}: the id {_shown(name)} cannot be a name in .npz: it {reason}; "
                "change it, or write .parquet or .pt"
            )


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 60 else f"{name[:50]!r}..."


def write_arrays(path: str, ids: Sequence[str], results: Sequence[Arrays]) -> None:
    """Write the arrays of all sequences to one file, in order.

    Parameters
    ----------
    path
        Output; its suffix says the format.
    ids
        One unique id per sequence.
    results
        Per sequence its arrays by label, float32 of one or two dimensions; the
        labels are the same for all.

    Raises
    ------
    InputError
        The format is unknown, or an id cannot be a name in it.
    OSError
        The file cannot be written.
    """
    writers: dict[str, Callable[[str, Sequence[str], Sequence[Arrays]], None]] = {
        ".npz": _write_npz,
        ".pt": _write_pt,
        ".parquet": _write_parquet,
    }
    check_ids(path, ids)
    writers[array_format(path)](path, ids, results)


def _named(ids: Sequence[str], results: Sequence[Arrays]) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, label, array): the label is empty where a sequence has one array."""
    for name, arrays in zip(ids, results):
        for label, array in arrays.items():
            yield (name, "", array) if len(arrays) == 1 else (f"{name}/{label}", label, array)


def _write_npz(path: str, ids: Sequence[str], results: Sequence[Arrays]) -> None:
    """Write an archive that ``numpy.load`` reads.

    ``numpy.savez`` takes names as keywords, so that an id "file" breaks it, and
    stamps the time into the archive.
    """
    import zipfile

    from numpy.lib import format as npy

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, label, array in _named(ids, results):
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.comment = LABEL_COMMENT + label.encode()
            with archive.open(entry, "w", force_zip64=array.nbytes >= 1 << 31) as file:
                npy.write_array(file, array, allow_pickle=False)


def _write_pt(path: str, ids: Sequence[str], results: Sequence[Arrays]) -> None:
    import torch

    # A copy: an array that came from another process may be read-only, which tensors are not.
    tensors = {name: torch.tensor(array) for name, _, array in _named(ids, results)}
    # Given a path, it would write the file's name into the file.
    with Path(path).open("wb") as file:
        torch.save(tensors, file)


def _write_parquet(path: str, ids: Sequence[str], results: Sequence[Arrays]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    groups = _row_groups(results)
    first = next(groups, slice(0, 0))
    table = _table(pa, ids[first], results[first])
    with parquet.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        for rows in groups:
            writer.write_table(_table(pa, ids[rows], results[rows]))


def _row_groups(results: Sequence[Arrays]) -> Iterator[slice]:
    start = values = 0
    for end, arrays in enumerate(results, start=1):
        values += sum(array.size for array in arrays.values())
        if values >= ROW_GROUP_VALUES or end == len(results):
            yield slice(start, end)
            start, values = end, 0


def _table(pa: Any, ids: Sequence[str], results: Sequence[Arrays]) -> Any:
    labels = list(results[0]) if results else ["embedding"]
    names = ["embedding"] if len(labels) == 1 else labels
    columns = [_column(pa, [arrays[label] for arrays in results]) for label in labels]
    return pa.table([pa.array(ids, pa.string()), *columns], names=["id", *names])


def _column(pa: Any, arrays: Sequence[Any]) -> Any:
    """Return a column of lists of float32, or of lists of such lists, without copying by item."""
    import numpy as np

    flat = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.empty(0, np.float32)
    values = pa.array(flat, pa.float32())
    if arrays and arrays[0].ndim == 2:
        widths: Any = np.repeat([a.shape[1] for a in arrays], [a.shape[0] for a in arrays])
        values = pa.ListArray.from_arrays(_offsets(widths), values)
    return pa.ListArray.from_arrays(_offsets([len(a) for a in arrays]), values)


def _offsets(lengths: Any) -> Any:
    import numpy as np

    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
