"""One sample's proteins as a table: a row per protein, a column per embedding dimension.

Without pandas on purpose: importing it takes longer than all of this.
"""

import csv
import sys
from pathlib import Path

import numpy as np


def kept_proteins(path):
    """Return (protein, description, length) of the proteins that passed the quality check."""
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(r["protein"], r["description"], r["length"]) for r in rows if not r["dropped"]]


def main(job):
    """Join the checked proteins with their embeddings."""
    proteins = kept_proteins(job.input.checked)
    with np.load(job.input.embeddings) as embeddings:
        vectors = np.stack([embeddings[protein] for protein, _, _ in proteins])
    columns = [f"e{i}" for i in range(vectors.shape[1])]
    with Path(job.output.table).open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["sample", "protein", "description", "length", *columns])
        for protein, vector in zip(proteins, vectors, strict=True):
            numbers = [f"{value:.7g}" for value in vector]
            writer.writerow([job.wildcards.sample, *protein, *numbers])
    print(f"{job.wildcards.sample}: {len(proteins)} proteins, {len(columns)} dimensions")


# Left open: a traceback is written after all of this.
sys.stdout = sys.stderr = Path(snakemake.log[0]).open("w")  # noqa: SIM115
main(snakemake)
