"""How similar the samples are: by their proteins' embeddings, and by the proteins they share."""

import itertools
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")
import matplotlib.pyplot as plt


def read_tables(paths):
    """Return the samples' tables under each other."""
    return pd.concat([pd.read_csv(path, sep="\t") for path in paths], ignore_index=True)


def cosine_of_means(proteins, samples):
    """Return the cosine similarities of the samples' mean embeddings.

    All proteins' embeddings point roughly one way; without that common part
    what tells samples apart is seen.
    """
    columns = [name for name in proteins.columns if name[0] == "e" and name[1:].isdigit()]
    means = proteins.groupby("sample")[columns].mean().loc[samples].to_numpy(dtype="float64")
    centred = means - means.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norms > 0, norms, 1)
    return np.clip(unit @ unit.T, -1, 1)


def pair_table(cosine, proteins, samples, groups):
    """Return one row per pair of samples."""
    members = proteins.groupby("sample")["protein"].agg(set)
    rows = [
        (
            samples[i],
            samples[j],
            groups[i],
            groups[j],
            cosine[i, j],
            len(members[samples[i]] & members[samples[j]]),
        )
        for i, j in itertools.combinations_with_replacement(range(len(samples)), 2)
    ]
    names = ["sample_a", "sample_b", "group_a", "group_b", "cosine", "shared_proteins"]
    return pd.DataFrame(rows, columns=names)


def draw(cosine, samples, groups, path):
    """Draw the matrix, with lines between groups."""
    runs = [(group, len(list(run))) for group, run in itertools.groupby(groups)]
    ends = np.cumsum([length for _, length in runs])
    side = 3 + 0.16 * len(samples)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    image = axes.imshow(cosine, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=0.8)
        axes.axvline(end - 0.5, color="black", linewidth=0.8)
    axes.set_xticks([end - length / 2 - 0.5 for (_, length), end in zip(runs, ends, strict=True)])
    axes.set_xticklabels([group for group, _ in runs])
    axes.set_yticks(range(len(samples)), labels=samples, fontsize=6)
    axes.set_title("Similarity of samples by mean protein embedding")
    figure.colorbar(image, ax=axes, shrink=0.7, label="cosine (centred)")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main(job):
    """Compare all samples with each other."""
    samples, groups = list(job.params.samples), list(job.params.groups)
    proteins = read_tables(job.input.tables)
    cosine = cosine_of_means(proteins, samples)
    pair_table(cosine, proteins, samples, groups).to_parquet(job.output.table, index=False)
    draw(cosine, samples, groups, job.output.figure)
    unique = proteins["protein"].nunique()
    print(f"{len(samples)} samples, {len(proteins)} proteins, {unique} different ones")


# Left open: a traceback is written after all of this.
sys.stdout = sys.stderr = Path(snakemake.log[0]).open("w")  # noqa: SIM115
main(snakemake)
