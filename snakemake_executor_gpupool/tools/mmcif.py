"""The lines of an mmCIF file of predicted structures, which has none of a PDB file's limits.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakemake_executor_gpupool.tools.structures import Structure

#: Which model is which, in the words of ModelCIF, the dictionary of predicted structures.
MODEL_COLUMNS = ("ordinal_id", "model_id", "model_name")
#: What the readers at hand need of ``_atom_site``.
ATOM_COLUMNS = (
    "group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id",
    "label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y",
    "Cartn_z", "occupancy", "B_iso_or_equiv", "auth_seq_id", "auth_comp_id", "auth_asym_id",
    "auth_atom_id", "pdbx_PDB_model_num",
)  # fmt: skip
#: What may stand without quotes: no word that means something else.
PLAIN = re.compile(r"(?!(data|loop|save|stop|global)_)[A-Za-z0-9][!-~]*", re.IGNORECASE)


def cif_lines(ids: Sequence[str], structures: Sequence[Structure]) -> Iterator[str]:
    """Yield the lines of a file with a model for each structure, in order.

    Parameters
    ----------
    ids
        Their names, without white space.
    structures
        At least one.
    """
    yield "data_predicted\n#\n"
    yield from _head("ma_model_list", MODEL_COLUMNS)
    for number, name in enumerate(ids, start=1):
        yield f"{number} {number} {quoted(name)}\n"
    yield "#\n"
    yield from _head("atom_site", ATOM_COLUMNS)
    serial = 0
    for model, structure in enumerate(structures, start=1):
        for line in _atoms(structure, model):
            serial += 1
            yield f"ATOM {serial} {line}"
    yield "#\n"


def _head(category: str, columns: Sequence[str]) -> Iterator[str]:
    yield "loop_\n"
    for column in columns:
        yield f"_{category}.{column}\n"


def _atoms(structure: Structure, model: int) -> Iterator[str]:
    chains = [chr(ord("A") + chain) for chain in structure.chain.tolist()]
    numbers, places = structure.number.tolist(), structure.xyz.tolist()
    rows = zip(structure.atom, structure.residue, chains, numbers, places, structure.plddt.tolist())
    for atom, residue, chain, number, (x, y, z), plddt in rows:
        entity = ord(chain) - ord("A") + 1
        # Proteins hold C, N, O and S alone: the first letter of an atom's name is its element.
        yield (
            f"{atom[0]} {atom} . {residue} {chain} {entity} {number} ? {x:.3f} {y:.3f} {z:.3f} "
            f"1.00 {plddt:.2f} {number} {residue} {chain} {atom} {model}\n"
        )


def quoted(text: str) -> str:
    """Return a value without white space as the format has it, in quotes if need be."""
    if PLAIN.fullmatch(text):
        return text
    # Within quotes, the same quote is a letter unless white space follows it.
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"
