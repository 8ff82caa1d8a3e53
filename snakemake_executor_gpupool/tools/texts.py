"""Reading short texts: a line each of ``.txt``, or a column of ``.tsv`` or ``.parquet``.

No row is left out, shifted or cut: what could be read in two ways is refused. Standard
library only, except for Parquet.
"""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.ids import Ids

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: How to write a text that has quotation marks in it.
QUOTING = (
    "a field that starts with a quotation mark is in quotation marks as a whole. If the mark is "
    'part of the text, double it and put the field in marks: """Best"" paper"'
)


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
        The file is missing, empty, damaged or of another kind, lacks a column, a row is
        not whole, a text or an id is missing, or two share an id. The message names the
        file and the row.
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
        texts = _checked(path, reader(path, column, id_column), has_ids=bool(id_column))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not texts:
        raise InputError(f"{path} has no texts")
    return texts


def _checked(path: str, pairs: Iterator[tuple[Any, Any]], has_ids: bool) -> list[Text]:
    ids, texts = Ids(path), []
    for row, (given, value) in enumerate(pairs, start=1):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise InputError(
                f"{path}, row {row}: there is no text; remove the row, or write what to embed"
            )
        if not isinstance(value, str):
            raise InputError(
                f"{path}, row {row}: {value!r:.60} is no text, but of the type "
                f"{type(value).__name__}; param column says which column to take"
            )
        texts.append(Text(ids.add(row, given if has_ids else row), value.strip()))
    return texts


def _decoded_lines(path: str) -> list[str]:
    """Return the lines of a file with their ends, which are those of Unix, Windows or old Macs."""
    data = Path(path).read_bytes()
    if data.startswith(UTF16_MARKS):
        raise InputError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} in line {line}); "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{path}, line {line}: there is a NUL, as in binary files and UTF-16; save it as UTF-8"
        )
    # Not str.splitlines(), which also splits at form feeds and the like within a text.
    end = "\n" if "\n" in text else "\r"
    lines = [line + end for line in text.split(end)]
    return lines[:-1] if lines[-1] == end else lines


def _lines(path: str, column: str, id_column: str) -> Iterator[tuple[Any, Any]]:
    for row, line in enumerate(_decoded_lines(path), start=1):
        text = line.rstrip("\r\n")
        if "\r" in text:
            raise InputError(
                f"{path}, row {row}: there is a carriage return within the line; remove it, or end "
                "all lines in the same way"
            )
        yield None, text


def _tsv(path: str, column: str, id_column: str) -> Iterator[tuple[Any, Any]]:
    csv.field_size_limit(sys.maxsize)
    lines = _decoded_lines(path)
    rows = csv.reader(lines, delimiter="\t", strict=True)
    header: list[str] = []
    single = _SingleColumn()
    for row in range(len(lines) + 1):
        start = rows.line_num
        where = f"{path}, row {row} (line {start + 1})" if row else f"{path}, header"
        try:
            fields = next(rows, None)
        except csv.Error as error:
            raise InputError(f"{where}: {_explained(error)}") from error
        if fields is None:
            return
        if not row:
            header = fields
            _check_columns(path, header, column, id_column)
            text, name = header.index(column), header.index(id_column) if id_column else None
            continue
        if len(fields) != len(header):
            raise InputError(f"{where}: {_odd_number(len(fields), len(header))}")
        if _look_like_rows(lines[start : rows.line_num], len(header)):
            raise InputError(
                f"{where}: by its quotation marks, all up to line {rows.line_num} is one row, but "
                f"each line looks like one; {QUOTING}. If it is one text, write it without line "
                "breaks, or the table as .parquet"
            )
        if len(header) == 1:
            single.check(where, lines[start : rows.line_num])
        yield None if name is None else fields[name], fields[text]


class _SingleColumn:
    """Refuses a text of several lines in a table of one column, unless all texts are quoted.

    There nothing else tells such a text from rows of which one begins and a later one ends with a
    quotation mark.
    """

    def __init__(self) -> None:
        self._several_lines = ""
        self._has_unquoted = False

    def check(self, where: str, lines: Sequence[str]) -> None:
        """Look at the lines of one row.

        Raises
        ------
        InputError
            There has been a text of several lines, and one that is not quoted.
        """
        if len(lines) > 1 and not self._several_lines:
            self._several_lines = (
                f"{where}: by its quotation marks, {len(lines)} lines make one text"
            )
        self._has_unquoted = self._has_unquoted or not lines[0].startswith('"')
        if self._several_lines and self._has_unquoted:
            raise InputError(
                f"{self._several_lines}, but in a table of one column they may be rows; {QUOTING}. "
                "If it is one text, quote all texts (csv.QUOTE_ALL), or write the table as .parquet"
            )


def _explained(error: csv.Error) -> str:
    message = str(error)
    if "end of data" in message:
        return f"a quotation mark is never closed; {QUOTING}"
    if "expected after" in message:
        return f"a field goes on after its closing quotation mark; {QUOTING}"
    if "new-line" in message:
        return "there is a carriage return within a field; remove it, or quote the field"
    return message


def _odd_number(fields: int, columns: int) -> str:
    if not fields:
        return "the row is blank; remove it"
    some = (
        "many: put a field that has one in quotation marks" if fields > columns else "few: add it"
    )
    return f"{fields} field(s), and the header has {columns}; there is a tab too {some}"


def _look_like_rows(lines: Sequence[str], columns: int) -> bool:
    """Tell whether lines that quotation marks make one row may be a row each.

    Then one mark opens a text and another one, rows later, happens to end one: each line has
    all the fields, and fields of the same kind beside the one with the mark.
    """
    if len(lines) == 1 or columns == 1:
        return False
    rows = [line.rstrip("\r\n").split("\t") for line in lines]
    if any(len(fields) != columns for fields in rows):
        return False
    opened = next((n for n, field in enumerate(rows[0]) if field.startswith('"')), columns)
    columns_of_rows = [column for n, column in enumerate(zip(*rows)) if n != opened]
    return all(len({_is_phrase(f) for f in column if f.strip()}) < 2 for column in columns_of_rows)


def _is_phrase(field: str) -> bool:
    """Tell whether a field has several words: ids and numbers, of whatever look, have one."""
    return len(field.split()) > 1


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
        if name and there.count(name) != 1:
            is_twice = name in there
            raise InputError(
                f"{path} has {'two columns' if is_twice else 'no column'} {name!r}; it has "
                f"{', '.join(there) or 'none'}. "
                + ("Rename one" if is_twice else f"Param {param} says which one to take")
            )
