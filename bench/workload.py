"""The bench's input: FASTA files as a proteome study has them, seeded.

A few proteins per file, lengths log-normal, the residues in the proportions of
reviewed UniProt entries, and a known share of the sequences already present in
another file. Standard library only, so that one seed gives one workload
whatever is installed.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

#: Per cent of residues in reviewed UniProtKB entries.
BACKGROUND = {
    "A": 8.25, "R": 5.53, "N": 4.06, "D": 5.46, "C": 1.38, "Q": 3.93, "E": 6.72,
    "G": 7.07, "H": 2.27, "I": 5.91, "L": 9.65, "K": 5.80, "M": 2.41, "F": 3.86,
    "P": 4.74, "S": 6.65, "T": 5.36, "W": 1.10, "Y": 2.92, "V": 6.86,
}  # fmt: skip
SHORTEST, LONGEST, MEDIAN_LENGTH, LENGTH_SPREAD = 30, 600, 180, 0.5
MAX_PER_FILE = 4
DUPLICATE_SHARE = 0.4
#: What a model adds to a sequence: a start and an end token.
EXTRA_TOKENS = 2

Record = tuple[str, str]


@dataclass(frozen=True)
class Facts:
    """What a workload holds."""

    files: int
    records: int
    unique: int
    tokens: int
    unique_tokens: int
    median_length: float
    longest: int

    def __str__(self) -> str:
        return (
            f"{self.files} FASTA files, {self.records} records, {self.unique} unique sequences, "
            f"{self.tokens} tokens ({self.unique_tokens} unique), "
            f"median length {self.median_length:g}, longest {self.longest}"
        )


def protein(rng: random.Random) -> str:
    """Draw one protein: a start methionine, then background residues."""
    drawn = rng.lognormvariate(math.log(MEDIAN_LENGTH), LENGTH_SPREAD)
    length = min(LONGEST, max(SHORTEST, round(drawn)))
    return "M" + "".join(rng.choices(list(BACKGROUND), list(BACKGROUND.values()), k=length - 1))


def generate(files: int = 120, seed: int = 0) -> list[list[Record]]:
    """Return the records, (id, sequence), of each file.

    Of all records ``DUPLICATE_SHARE`` repeat a sequence of another file; which
    ones is drawn, so that duplicates are spread over the files.
    """
    rng = random.Random(seed)
    sizes = [rng.randint(1, MAX_PER_FILE) for _ in range(files)]
    slots = [(file, place) for file, size in enumerate(sizes) for place in range(size)]
    rng.shuffle(slots)
    originals = round(len(slots) * (1 - DUPLICATE_SHARE))
    homes: dict[str, set[int]] = {}
    chosen: dict[tuple[int, int], str] = {}
    for count, (file, place) in enumerate(slots):
        repeats = [] if count < originals else [s for s, at in homes.items() if file not in at]
        sequence = rng.choice(repeats) if repeats else protein(rng)
        homes.setdefault(sequence, set()).add(file)
        chosen[file, place] = sequence
    return [
        [(f"s{file:04d}_p{place + 1}", chosen[file, place]) for place in range(size)]
        for file, size in enumerate(sizes)
    ]


def facts(workload: list[list[Record]]) -> Facts:
    """Count what a workload holds."""
    sequences = [sequence for records in workload for _, sequence in records]
    unique = set(sequences)
    lengths = [len(sequence) for sequence in sequences]
    return Facts(
        files=len(workload),
        records=len(sequences),
        unique=len(unique),
        tokens=sum(lengths) + EXTRA_TOKENS * len(sequences),
        unique_tokens=sum(map(len, unique)) + EXTRA_TOKENS * len(unique),
        median_length=statistics.median(lengths),
        longest=max(lengths),
    )


def write(directory: Path, files: int = 120, seed: int = 0) -> Facts:
    """Write the workload as ``sNNNN.fasta`` files into ``directory``, and count it."""
    directory.mkdir(parents=True, exist_ok=True)
    workload = generate(files, seed)
    for number, records in enumerate(workload):
        text = "".join(f">{name}\n{wrapped(sequence)}\n" for name, sequence in records)
        (directory / f"s{number:04d}.fasta").write_text(text)
    return facts(workload)


def wrapped(sequence: str, width: int = 60) -> str:
    """Break a sequence into lines, as databases write them."""
    return "\n".join(sequence[i : i + width] for i in range(0, len(sequence), width))
