"""Reading short texts: a line each of ``.txt``, or a column of ``.tsv`` or ``.parquet``.

Standard library only, except for Parquet.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

from snakemake_executor_gpupool.tool_api.values import InputError


class Text(NamedTuple):
    """One text and its id."""

    id: str
    text: str


def read_texts(path: str, column: str, id_column: str) -> list[Text]:
    """Read all texts of a file, in order.

    Parameters
    ----------
    path
        ``.txt``, ``.tsv`` or ``.parquet``; text is UTF-8.
    column
        The column of a table that holds the texts.
    id_column
        The column that holds their ids; empty: ids are the numbers of the rows, from 1.

    Returns
    -------
    list of Text
        Ids are unique and every text has something else than white space.

    Raises
    ------
    InputError
        The file is missing, empty, damaged or of another kind, lacks a column, a text
        is empty, or two share an id. The message names the file and the row.
    """
    readers: dict[str, Callable[[str, str, str], Iterator[tuple[Any, Any]]]] = {
        ".txt": _lines,
        ".tsv": _tsv,
        ".parquet": _parquet,
    }
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InputError(f"input {path}: texts are read from {', '.join(readers)}")
    try:
        texts = _checked(path, reader(path, column, id_column))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not texts:
        raise InputError(f"{path} has no texts")
    return texts


def _checked(path: str, pairs: Iterator[tuple[Any, Any]]) -> list[Text]:
    first_seen: dict[str, int] = {}
    texts = []
    for row, (given, value) in enumerate(pairs, start=1):
        name = str(row if given is None else given)
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"{path}, row {row}: there is no text; remove the row, or write what to embed"
            )
        if name in first_seen:
            raise InputError(
                f"{path}, row {row}: the id {name!r} was already used in row {first_seen[name]}; "
                "ids must be unique, as they name the outputs"
            )
        first_seen[name] = row
        texts.append(Text(name, value.strip()))
    return texts


def _lines(path: str, column: str, id_column: str) -> Iterator[tuple[Any, Any]]:
    # Not str.splitlines(), which also splits at form feeds and the like within a text.
    with Path(path).open(encoding="utf-8-sig") as file:
        for line in file:
            yield None, line


def _tsv(path: str, column: str, id_column: str) -> Iterator[tuple[Any, Any]]:
    csv.field_size_limit(sys.maxsize)
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        _check_columns(path, list(rows.fieldnames or ()), column, id_column)
        try:
            for row in rows:
                yield row[id_column] if id_column else None, row[column]
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: {error}") from error


def _parquet(path: str, column: str, id_column: str) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: reading it needs the Python package pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, column, id_column)
            wanted = [column, *([id_column] if id_column else [])]
            for batch in file.iter_batches(columns=wanted):
                texts = batch.column(column).to_pylist()
                ids = batch.column(id_column).to_pylist() if id_column else [None] * len(texts)
                yield from zip(ids, texts)
    except pa.ArrowException as error:
        raise InputError(f"{path} is damaged, or no Parquet file ({error})") from error


def _check_columns(path: str, there: list[str], column: str, id_column: str) -> None:
    for param, name in (("column", column), ("id_column", id_column)):
        if name and name not in there:
            raise InputError(
                f"{path} has no column {name!r}; it has {', '.join(there) or 'none'}. "
                f"Param {param} says which one to take"
            )
