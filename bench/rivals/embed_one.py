"""What a rule runs today: import, load, embed one FASTA file, exit. Plain fair-esm."""

import sys

import esm
import numpy as np
import torch
from esm.data import FastaBatchedDataset


def main(fasta: str, npz: str, checkpoint: str) -> None:
    """Write the mean of the last layer for every sequence of one file."""
    model, alphabet = esm.pretrained.load_model_and_alphabet_local(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.eval().to(device)
    dataset = FastaBatchedDataset.from_file(fasta)
    labels, sequences, tokens = alphabet.get_batch_converter()(list(dataset))
    with torch.no_grad():
        layer = model.num_layers
        hidden = model(tokens.to(device), repr_layers=[layer])["representations"][layer]
    means = [
        row[1 : len(s) + 1].mean(0).cpu().numpy() for row, s in zip(hidden, sequences, strict=True)
    ]
    np.savez(npz, **dict(zip(labels, means, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
