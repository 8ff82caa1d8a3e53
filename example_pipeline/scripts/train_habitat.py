"""Train the layer that tells habitats apart, and measure it on genera that it has not seen.

The labels are those of ``data/proteins.tsv``: where the organism of a protein lives. Every
protein counts once, however many samples have it.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
#: Set once, not tuned: there are too few proteins to hold out a second part of them.
STRENGTH = 0.1


def read_embeddings(paths):
    """Return accession → vector of all proteins; a header's id is ``sp|ACCESSION|NAME``."""
    vectors = {}
    for path in paths:
        with np.load(path) as file:
            vectors.update({name.split("|")[1]: file[name] for name in file.files})
    return vectors


def read_labels(path):
    """Return accession → (habitat, genus)."""
    with Path(path).open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["accession"]: (row["habitat"], row["organism"].split()[0]) for row in rows}


def classifier():
    """Return an untrained model: features scaled, then logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=5000))


def as_layer(trained):
    """Return weight and bias of one layer that does what scaler and regression do."""
    scaler, regression = trained.steps[0][1], trained.steps[1][1]
    weight, bias = regression.coef_ / scaler.scale_, regression.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # two classes are kept as one row
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def measured(vectors, habitats, genera):
    """Return (figure, value) pairs, every protein predicted by a model without its genus."""
    folds = GroupKFold(min(FOLDS, len(set(genera))))
    predicted = cross_val_predict(classifier(), vectors, habitats, groups=genera, cv=folds)
    shares = np.unique(habitats, return_counts=True)[1] / len(habitats)
    return [
        ("proteins", len(habitats)),
        ("habitats", len(shares)),
        ("genera", len(set(genera))),
        ("accuracy", f"{accuracy_score(habitats, predicted):.3f}"),
        ("balanced_accuracy", f"{balanced_accuracy_score(habitats, predicted):.3f}"),
        ("accuracy_of_the_commonest", f"{max(shares):.3f}"),
        ("balanced_accuracy_of_the_commonest", f"{1 / len(shares):.3f}"),
    ]


def main(job):
    """Train on all proteins; measure by cross-validation."""
    embeddings, labels = read_embeddings(job.input.embeddings), read_labels(job.input.proteins)
    accessions = sorted(embeddings)
    vectors = np.stack([embeddings[accession] for accession in accessions])
    habitats, genera = (
        np.array(column) for column in zip(*(labels[a] for a in accessions), strict=True)
    )
    figures = measured(vectors, habitats, genera)
    Path(job.output.accuracy).write_text("".join(f"{name}\t{value}\n" for name, value in figures))
    print("\n".join(f"{name}: {value}" for name, value in figures))
    trained = classifier().fit(vectors, habitats)
    weight, bias = as_layer(trained)
    np.savez(job.output.weights, weight=weight, bias=bias, classes=trained.classes_.astype(str))


# Left open: a traceback is written after all of this.
sys.stdout = sys.stderr = Path(snakemake.log[0]).open("w")  # noqa: F821, SIM115
main(snakemake)  # noqa: F821
