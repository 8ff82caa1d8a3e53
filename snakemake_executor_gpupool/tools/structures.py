"""Writing predicted structures: one file of many models, or a file each; as PDB or mmCIF.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.fasta import Record
from snakemake_executor_gpupool.tools.finite import is_finite
from snakemake_executor_gpupool.tools.mmcif import cif_lines

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PDB, CIF = ".pdb", ".cif"
SUFFIXES = (PDB, CIF)
#: Suffixes that somebody may expect to work.
OTHER_SUFFIXES = frozenset((".mmcif", ".ent", ".gz", ".zip"))
#: What the columns of a PDB file can count.
MAX_MODELS, MAX_RESIDUES, MAX_SERIALS = 9_999, 9_999, 99_999
#: Atoms of a residue in a chain, hydrogens left out.
ATOMS = {
    "A": 5, "R": 11, "N": 8, "D": 8, "C": 6, "Q": 9, "E": 9, "G": 4, "H": 10, "I": 8, "L": 8,
    "K": 9, "M": 8, "F": 11, "P": 7, "S": 6, "T": 7, "W": 14, "Y": 12, "V": 7,
}  # fmt: skip
#: What fits into the columns of a PDB file, with a sign and three decimals, in Å; a model that
#: predicts more is wrong.
LARGEST_COORDINATE = 999.999
#: Longest part of a path that file systems take.
LONGEST_NAME = 255


class Structure(NamedTuple):
    """A predicted structure of one protein; the arrays have one entry per atom.

    Attributes
    ----------
    chains
        Residues in each chain, those without atoms included.
    chain
        int32 of shape (A,): the chain of an atom, from 0.
    number
        int32 of shape (A,): the number of its residue in that chain, from 1.
    residue, atom
        A names each, as ``"GLY"`` and ``"CA"``.
    xyz
        float32 of shape (A, 3), in Å.
    plddt
        float32 of shape (A,), 0 to 100.
    ptm
        Predicted TM-score, 0 to 1, of all chains.
    """

    chains: list[int]
    chain: Array
    number: Array
    residue: list[str]
    atom: list[str]
    xyz: Array
    plddt: Array
    ptm: float


def is_plausible(structure: Structure) -> bool:
    """Tell whether coordinates and scores are finite, and coordinates of a protein's size."""
    import numpy as np

    is_small = bool((np.abs(structure.xyz) < LARGEST_COORDINATE).all())  # NaN is not, either
    return is_small and is_finite(structure.plddt, structure.ptm)


def pdb_lines(structure: Structure) -> Iterator[str]:
    """Yield the ``ATOM`` and ``TER`` lines of a PDB file (format version 3.3)."""
    numbers, places = structure.number.tolist(), structure.xyz.tolist()
    chains = [chr(ord("A") + chain) for chain in structure.chain.tolist()]
    atoms = zip(structure.atom, structure.residue, chains, numbers, places, structure.plddt)
    serial, last = 0, ""
    for atom, residue, chain, number, (x, y, z), plddt in atoms:
        serial += 1
        if last and last[4] != chain:
            yield f"TER   {serial:>5}      {last}\n"
            serial += 1
        last = f"{residue:>3} {chain}{number:>4}"
        # Proteins hold C, N, O and S alone: the first letter of an atom's name is its element.
        yield (
            f"ATOM  {serial:>5}  {atom:<3} {last}    {x:8.3f}{y:8.3f}{z:8.3f}"
            f"{1:6.2f}{plddt:6.2f}          {atom[0]:>2}  \n"
        )
    yield f"TER   {serial + 1:>5}      {last}\n"


def check_target(target: Any, records: Sequence[Record]) -> None:
    """Refuse an output that the structures cannot be written to, before they are computed.

    Parameters
    ----------
    target
        A path that ends in ``.pdb`` or ``.cif``: one file of all structures. A list of such
        paths: one file per structure, named after the ids. Any other path: a directory of
        ``.pdb`` files.
    records
        The proteins, chains parted by colons.

    Raises
    ------
    InputError
        Nothing of the kind was given, ids and file names do not fit, or a file of that
        format cannot hold so much.
    """
    if not target or not isinstance(target, (str, list)):
        raise InputError(
            "esmfold needs an output (structures): a .pdb or .cif file, several, or a folder"
        )
    ids = [record.id for record in records]
    if isinstance(target, list):
        paths = _by_id(target, ids)
        for record in records:
            _check_size(paths[record.id], record)
        return
    suffix = Path(target).suffix.lower()
    if suffix in OTHER_SUFFIXES:
        raise InputError(
            f"output {target}: structures are written as {' or '.join(SUFFIXES)}, not as {suffix}"
        )
    if suffix == PDB and len(ids) > MAX_MODELS:
        raise InputError(
            f"output {target}: a .pdb file can number {MAX_MODELS:,} models, and there are "
            f"{len(ids):,} sequences; write a .cif file, or one .pdb file each into a directory"
        )
    for record in records:
        if suffix not in SUFFIXES:
            _check_file_name(target, record.id)
        _check_size(target, record)


def _check_size(path: str, record: Record) -> None:
    """Refuse a protein that has more than a PDB file can number."""
    if Path(path).suffix.lower() == CIF:
        if not record.id.isprintable():
            raise InputError(f"output {path}: the id {record.id!r} cannot be in a .cif file")
        return
    chains = record.sequence.split(":")
    residues = max(map(len, chains))
    serials = sum(ATOMS.get(letter, 0) for letter in record.sequence) + len(chains)
    if residues > MAX_RESIDUES or serials > MAX_SERIALS:
        raise InputError(
            f"output {path}: a .pdb file can number {MAX_RESIDUES:,} residues in a chain and "
            f"{MAX_SERIALS:,} atoms; the record {record.id!r} has {residues:,} and {serials:,}; "
            "write a .cif file"
        )


def write_structures(target: Any, ids: Sequence[str], structures: Sequence[Structure]) -> None:
    """Write structures to what ``target`` names.

    In a file of several, each is a model, in the order of ``ids``, and the top of the file
    says which is which.
    """
    if isinstance(target, list):
        paths = _by_id(target, ids)
        for name, structure in zip(ids, structures):
            _write(paths[name], [name], [structure])
    elif Path(target).suffix.lower() in SUFFIXES:
        _write(target, ids, structures)
    else:
        Path(target).mkdir()
        for name, structure in zip(ids, structures):
            _write(str(Path(target, f"{name}{PDB}")), [name], [structure])


def _write(path: str, ids: Sequence[str], structures: Sequence[Structure]) -> None:
    is_cif = Path(path).suffix.lower() == CIF
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(cif_lines(ids, structures) if is_cif else _models(ids, structures))


def _models(ids: Sequence[str], structures: Sequence[Structure]) -> Iterator[str]:
    if len(ids) == 1:
        yield from pdb_lines(structures[0])
    else:
        for number, name in enumerate(ids, start=1):
            yield f"REMARK 999 MODEL {number} {name}\n"
        for number, structure in enumerate(structures, start=1):
            yield f"MODEL     {number:>4}\n"
            yield from pdb_lines(structure)
            yield "ENDMDL\n"
    yield "END\n"


def _by_id(paths: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    by_id = {Path(path).name[: -len(Path(path).suffix)]: path for path in paths}
    kind = all(Path(path).suffix.lower() in SUFFIXES for path in paths)
    if not kind or sorted(by_id) != sorted(ids) or len(by_id) < len(paths):
        odd = sorted(set(by_id) ^ set(ids))[:3]
        raise InputError(
            f"the {len(paths)} outputs (structures) must be named after the {len(ids)} sequences, "
            f"ID.pdb or ID.cif; these differ: {', '.join(odd) or 'a name is there twice'}"
        )
    return by_id


def _check_file_name(target: str, name: str) -> None:
    if "/" in name or name.startswith(".") or len(os.fsencode(name + PDB)) > LONGEST_NAME:
        raise InputError(
            f"output {target}: the id {name!r} cannot be the name of a file in it; "
            "change it, or let the output be one file of all structures, .pdb or .cif"
        )
