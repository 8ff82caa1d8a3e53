"""Whether ``write`` has written a job's outputs: checked at once, without a latency wait.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from snakemake_executor_gpupool.errors import ContractError


class Expected(NamedTuple):
    """What is known of a job's outputs, each by its index.

    Attributes
    ----------
    tool
        The name of the class that writes them.
    touched
        Those that Snakemake creates itself if the tool has not.
    directories
        Those declared as directories; None: not known.
    is_certain
        Whether the tool must write all others.
    """

    tool: str
    touched: frozenset[int] = frozenset()
    directories: frozenset[int] | None = None
    is_certain: bool = True


def refuse_unwritten(
    expected: Expected,
    places: Mapping[str, str],
    folders: Mapping[str, str],
    outputs: Iterable[str],
    there_before: Iterable[str],
) -> None:
    """Check what ``write`` has left.

    Parameters
    ----------
    places
        The temporary path of each output.
    folders
        The temporary directory of each directory of outputs.
    there_before
        Outputs whose final paths existed before.

    Raises
    ------
    ContractError
        An output is missing or of the wrong kind, or there are further files.
    """
    outputs = list(outputs)
    missing = [
        path
        for number, path in enumerate(outputs)
        if number not in expected.touched and not os.path.lexists(places[path])
    ]
    beside = _beside(places, folders)
    direct = [path for path in missing if os.path.lexists(path) and path not in there_before]
    if not expected.is_certain and not beside and not direct:
        if missing:
            said = f"{expected.tool}.write() did not write {_all(missing)}"
            print(f"gpupool: {said}", file=sys.stderr)
        missing = []
    problems = []
    if missing:
        problems.append(f"did not write {_all(missing)}")
    if direct:
        problems.append(
            f"wrote to {_all(direct)} directly: job.output has temporary paths, which are "
            "renamed once everything is written"
        )
    if beside:
        problems.append(f"left {_all(beside)} beside its outputs, which would be lost")
    problems += _wrong_kinds(expected, places, outputs)
    if problems:
        raise ContractError(
            f"{expected.tool}.write() {', and '.join(problems)}. It has to write the paths in "
            f"job.output, and these alone{_also(missing, beside)}"
        )


def _also(missing: list[str], beside: list[str]) -> str:
    if not beside:
        return ""
    if any(name.startswith(path) for name in beside for path in missing):
        return "; the library has added a suffix to the name: declare the output with it"
    return "; declare others as outputs of the rule"


def _all(paths: Iterable[str]) -> str:
    paths = list(paths)
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more


def _beside(places: Mapping[str, str], folders: Mapping[str, str]) -> list[str]:
    """Return files beside the outputs; hidden files and empty locks do not count."""
    known = {*places.values()}
    names = []
    for parent, folder in folders.items():
        for name in _listed(folder):
            path = os.path.join(folder, name)
            if path in known or name.startswith("."):
                continue
            is_lock = name.endswith(".lock") and os.path.isfile(path) and not os.path.getsize(path)
            if not is_lock and os.path.abspath(path) not in map(os.path.abspath, known):
                names.append(os.path.join(parent, name))
    return names


def _listed(folder: str) -> list[str]:
    """Return the names in a directory, in order; none if it is gone, or is none any longer."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _wrong_kinds(
    expected: Expected, places: Mapping[str, str], outputs: Iterable[str]
) -> list[str]:
    if expected.directories is None:
        return []
    problems = []
    for number, path in enumerate(outputs):
        place, is_directory = places[path], number in expected.directories
        if os.path.exists(place) and os.path.isdir(place) != is_directory:
            kind, declared = ("file", "directory") if is_directory else ("directory", "file")
            how = "" if is_directory else ": declare it as directory()"
            problems.append(f"made a {kind} of {path}, declared as a {declared}{how}")
    return problems
