"""What ESMFold is given for a protein of one or several chains, and what that costs. Pure.

Chains are written ``A:B``, as fair-esm and ColabFold have it. The model knows one
chain only, so that chains are joined by a linker of glycines, and the positions of
each next chain jump, which tells the model that they are not neighbours
(``esm/esmfold/v1/misc.py`` of fair-esm). The linker is left out of all results.
"""

from __future__ import annotations

from typing import NamedTuple

#: The letters that ESMFold has atoms for.
RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWY")
#: Letters that stand for one of several amino acids, for a rare one, or for any.
UNKNOWN = frozenset("XBZJUO")
CHAIN_BREAK = ":"
#: A PDB file names chains by one letter.
MAX_CHAINS = 26

# Multiply-adds of the published model: by residue, by pair and by triple of residues. The language
# model has 36 layers of width 2560 (12 w**2 by residue, 2 w by pair). A block of the trunk has
# width 1024 by residue (attention and MLP) and 128 by pair (projections, MLP); its triangle
# updates (2 x 128) and triangle attentions (4 x 128) sum over triples. There are 48 blocks.
MODEL_RESIDUE, MODEL_PAIR = 36 * 12 * 2560**2, 36 * 2 * 2560
TRUNK_RESIDUE, TRUNK_PAIR, TRUNK_TRIPLE = 48 * 13 * 1024**2, 48 * 31 * 128**2, 48 * 6 * 128
#: A multiply-add over triples takes as long as six of the others, as these sums wait for memory:
#: measured on one CPU core with a block of the published widths. The estimate is then within 10%
#: for 128 to 512 residues (shorter ones take up to a third longer than it says).
TRIPLE_WEIGHT = 6
#: Passes through the trunk that a model's own setting asks for: the first and three recycles.
USUAL_PASSES = 4
GIGA = 1e9


class Joined(NamedTuple):
    """A protein as the model sees it; all lists have one entry per residue.

    Attributes
    ----------
    sequence
        All chains with the linkers between them.
    positions
        Position index of every residue, from 0.
    chains
        Which chain a residue belongs to, from 0; None in a linker.
    numbers
        Number of a residue in its own chain, from 1; 0 in a linker.
    """

    sequence: str
    positions: list[int]
    chains: list[int | None]
    numbers: list[int]


def join_chains(sequence: str, linker: int, offset: int) -> Joined:
    """Join the chains of ``A:B`` by ``linker`` glycines, positions jumping by ``offset``."""
    joined = Joined("", [], [], [])
    names = sequence.split(CHAIN_BREAK)
    for place, chain in enumerate(names):
        # The linker counts on from the chain before it.
        added = linker if place + 1 < len(names) else 0
        start = len(joined.positions)
        end = start + len(chain) + added
        joined.positions.extend(range(start + place * offset, end + place * offset))
        joined.chains.extend([place] * len(chain) + [None] * added)
        joined.numbers.extend([*range(1, len(chain) + 1), *[0] * added])
    return joined._replace(sequence=("G" * linker).join(names))


def joined_length(sequence: str, linker: int) -> int:
    """Return how many residues the model sees."""
    breaks = sequence.count(CHAIN_BREAK)
    return len(sequence) - breaks + breaks * linker


def giga_sums(length: int, recycles: int | None) -> float:
    """Return what folding so many residues takes, in 1e9 multiply-adds worth of time."""
    passes = USUAL_PASSES if recycles is None else recycles + 1
    triples = TRIPLE_WEIGHT * TRUNK_TRIPLE * length**3
    by_pass = TRUNK_RESIDUE * length + TRUNK_PAIR * length**2 + triples
    return (MODEL_RESIDUE * length + MODEL_PAIR * length**2 + passes * by_pass) / GIGA
