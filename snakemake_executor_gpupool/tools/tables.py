"""Writing a small table of named columns as ``.tsv`` or ``.parquet``.

The top level imports the standard library only.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import InputError

SUFFIXES = (".tsv", ".parquet")
#: csv writes these as they are, and readers take them for the end of a row or of the text.
UNWRITABLE = frozenset("\0\r")


def table_format(path: str) -> str:
    """Return ``".tsv"`` or ``".parquet"``, by the suffix of an output.

    Raises
    ------
    InputError
        The suffix is another one, or what writes the format is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"output {path}: a table's suffix must be one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"output {path}: .parquet needs the Python package pyarrow; install it, or write .tsv"
        )
    return suffix


def check_id(path: str, name: str) -> None:
    """Refuse an id that a table cannot hold so that every reader of such files reads it.

    Raises
    ------
    InputError
        It is one; the message says what to do.
    """
    if table_format(path) == ".tsv" and not UNWRITABLE.isdisjoint(name):
        raise InputError(
            f"output {path}: the id {name!r} has a NUL or a carriage return in it, which a .tsv "
            "file cannot hold; change it, or write .parquet"
        )


def write_table(path: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a table; numbers in ``.tsv`` have seven significant digits, as float32 has."""
    if table_format(path) == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {float: pa.float32(), int: pa.int64()}
        arrays = [
            pa.array(values, kinds.get(type(values[0]) if values else str, pa.string()))
            for values in columns.values()
        ]
        parquet.write_table(pa.table(arrays, names=list(columns)), path)
        return
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values()):
            writer.writerow([f"{v:.7g}" if isinstance(v, float) else v for v in row])
