"""Writing predicted structures: a directory or list of PDB files, or one file of many models.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.tool import InputError

SUFFIX = ".pdb"
#: Suffixes that somebody may expect to work.
OTHER_SUFFIXES = frozenset((".cif", ".mmcif", ".ent", ".gz", ".zip"))
#: Longest part of a path that file systems take.
LONGEST_NAME = 255


def check_target(target: Any, ids: Sequence[str]) -> None:
    """Refuse an output that the structures cannot be written to, before they are computed.

    Parameters
    ----------
    target
        A path that ends in ``.pdb``: one file of all structures. A list of such paths:
        one file per structure, named after the ids. Any other path: a directory of such files.
    ids
        The ids of the structures.

    Raises
    ------
    InputError
        Nothing of the kind was given, or ids and file names do not fit.
    """
    if not target or not isinstance(target, (str, list)):
        raise InputError("esmfold needs an output (structures): a .pdb file, several, or a folder")
    if isinstance(target, list):
        _by_id(target, ids)
        return
    suffix = Path(target).suffix.lower()
    if suffix in OTHER_SUFFIXES:
        raise InputError(f"output {target}: structures are written as {SUFFIX}, not as {suffix}")
    if suffix != SUFFIX:
        for name in ids:
            _check_file_name(name)


def write_structures(target: Any, ids: Sequence[str], atoms: Sequence[str]) -> None:
    """Write structures, given as ``ATOM`` and ``TER`` lines, to what ``target`` names.

    In a file of several, each is a ``MODEL``, in the order of ``ids``, and remarks at the
    top say which is which.
    """
    if isinstance(target, list):
        paths = _by_id(target, ids)
        for name, lines in zip(ids, atoms):
            _write(paths[name], [lines])
    elif Path(target).suffix.lower() == SUFFIX:
        _write(target, _models(ids, atoms) if len(ids) > 1 else atoms)
    else:
        Path(target).mkdir()
        for name, lines in zip(ids, atoms):
            _write(os.path.join(target, f"{name}{SUFFIX}"), [lines])  # noqa: PTH118 - a plain id


def _models(ids: Sequence[str], atoms: Sequence[str]) -> Iterator[str]:
    for number, name in enumerate(ids, start=1):
        yield f"REMARK 999 MODEL {number} {name}\n"
    for number, lines in enumerate(atoms, start=1):
        yield f"MODEL     {number:>4}\n{lines}ENDMDL\n"


def _write(path: str, parts: Any) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(parts)
        file.write("END\n")


def _by_id(paths: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    found = {Path(path).name[: -len(SUFFIX)]: path for path in paths}
    kind = all(Path(path).suffix.lower() == SUFFIX for path in paths)
    if not kind or sorted(found) != sorted(ids) or len(found) < len(paths):
        odd = sorted(set(found) ^ set(ids))[:3]
        raise InputError(
            f"the {len(paths)} outputs (structures) must be named after the {len(ids)} sequences, "
            f"ID{SUFFIX}; these differ: {', '.join(odd) or 'a name is there twice'}"
        )
    return found


def _check_file_name(name: str) -> None:
    if "/" in name or name.startswith(".") or len(os.fsencode(name + SUFFIX)) > LONGEST_NAME:
        raise InputError(
            f"the id {name!r} cannot be the name of a file; change it, or let the output be one "
            f"{SUFFIX} file of all structures"
        )
