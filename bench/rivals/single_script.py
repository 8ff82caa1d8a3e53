"""The script one would write by hand for all files at once, and tune.

It loads the model once per process, computes each distinct sequence once, sorts
by length, and packs batches by a token budget; processes take the next batch
when they are free. The launcher sets the allocator's environment, which must be
there before Python starts.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

Record = tuple[str, str]
_loaded: tuple = ()


def read_fasta(path: Path) -> list[Record]:
    """Return (id, sequence) of every record."""
    blocks = path.read_text().split(">")[1:]
    parted = (block.partition("\n") for block in blocks)
    return [(head.split()[0], body.replace("\n", "")) for head, _, body in parted]


def pack(sequences: list[str], budget: int) -> list[list[str]]:
    """Group sequences of like length so that a padded batch keeps to the budget; long first."""
    batches: list[list[str]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if batches and (len(batches[-1]) + 1) * (len(batches[-1][0]) + 2) <= budget:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    return batches


def load(checkpoint: str, threads: int) -> None:
    """Load the model into this process."""
    global _loaded  # noqa: PLW0603 - a pool's initializer has no other place
    import esm
    import torch

    torch.set_num_threads(threads)
    model, alphabet = esm.pretrained.load_model_and_alphabet_local(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _loaded = (model.eval().to(device), alphabet.get_batch_converter(), device)


def embed(batch: list[str]) -> list[Record]:
    """Return (sequence, mean of the last layer) for a batch."""
    import torch

    model, convert, device = _loaded
    _, _, tokens = convert([("", sequence) for sequence in batch])
    with torch.inference_mode():
        layer = model.num_layers
        hidden = model(tokens.to(device), repr_layers=[layer])["representations"][layer]
    return [
        (s, row[1 : len(s) + 1].mean(0).cpu().numpy()) for s, row in zip(batch, hidden, strict=True)
    ]


def embed_all(batches: list[list[str]], options: argparse.Namespace) -> Iterator[list]:
    """Yield the results of all batches, computed here or in several processes."""
    if options.processes == 1:
        load(options.checkpoint, options.threads)
        yield from map(embed, batches)
        return
    start = (options.checkpoint, options.threads)
    context = multiprocessing.get_context("fork")
    with context.Pool(options.processes, initializer=load, initargs=start) as pool:
        yield from pool.imap_unordered(embed, batches)


def main() -> None:
    """Embed every FASTA file of a directory into an .npz file of the same stem."""
    parser = argparse.ArgumentParser()
    parser.add_argument("fasta", type=Path)
    parser.add_argument("npz", type=Path)
    parser.add_argument("checkpoint")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=int, default=512)
    options = parser.parse_args()

    files = {path.stem: read_fasta(path) for path in sorted(options.fasta.glob("*.fasta"))}
    unique = {sequence for records in files.values() for _, sequence in records}
    batches = pack(sorted(unique), options.budget)
    means = dict(pair for results in embed_all(batches, options) for pair in results)

    import numpy as np

    options.npz.mkdir(parents=True, exist_ok=True)
    for stem, records in files.items():
        np.savez(options.npz / f"{stem}.npz", **{name: means[seq] for name, seq in records})


if __name__ == "__main__":
    main()
