"""One way to run ESM-2 over many sequences, timed in a process of its own; prints JSON.

    python esm2_speed.py WAY CHECKPOINT SEQUENCES BUDGET [--device cpu] [--precision fp32]

``WAY`` is ``extract`` (fair-esm's own loop), ``transformers`` or ``gpupool``; the figure
is what is between the first batch and the last mean embedding. ``load-fair-esm`` and
``load-gpupool`` time loading alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

Batch = list[str]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def extract(options: argparse.Namespace) -> tuple[list[Batch], Callable[[Batch], object]]:
    """Do as fair-esm's ``extract.py``: its batches, its model, mean over residues."""
    import esm

    model, alphabet = esm.pretrained.load_model_and_alphabet_local(options.checkpoint)
    model = model.eval().to(options.device, DTYPES[options.precision])
    data = esm.FastaBatchedDataset([str(i) for i in range(len(options.texts))], options.texts)
    batches = data.get_batch_indices(options.budget, extra_toks_per_seq=1)
    convert = alphabet.get_batch_converter()
    layer = model.num_layers

    def run(batch: Batch) -> object:
        _, _, tokens = convert([("", text) for text in batch])
        hidden = model(tokens.to(options.device), repr_layers=[layer], return_contacts=False)
        states = hidden["representations"][layer].float().cpu()
        return [states[i, 1 : len(text) + 1].mean(0).clone() for i, text in enumerate(batch)]

    return [[options.texts[i] for i in batch] for batch in batches], run


def transformers(options: argparse.Namespace) -> tuple[list[Batch], Callable[[Batch], object]]:
    """Use ``EsmModel`` with fused attention, on the very batches of gpupool."""
    from esm.data import Alphabet
    from transformers import EsmConfig, EsmModel

    batches, _ = gpupool(options)
    layers, width, heads = options.shape
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        position_embedding_type="rotary",
        token_dropout=True,
        attn_implementation="sdpa",
    )
    model = EsmModel(config, add_pooling_layer=False).eval()
    model = model.to(options.device, DTYPES[options.precision])
    convert = Alphabet.from_architecture("ESM-1b").get_batch_converter()

    def run(batch: Batch) -> object:
        _, _, tokens = convert([("", text) for text in batch])
        tokens = tokens.to(options.device)
        states = model(tokens, attention_mask=(tokens != 1).long()).last_hidden_state
        states = states.float().cpu()
        return [states[i, 1 : len(text) + 1].mean(0) for i, text in enumerate(batch)]

    return batches, run


def gpupool(options: argparse.Namespace) -> tuple[list[Batch], Callable[[Batch], object]]:
    """Use the tool as a worker does: its budget, its batches, its ``run``."""
    from snakemake_executor_gpupool.tools.esm2 import Esm2Embed
    from snakemake_executor_gpupool.tools.fasta import Record

    tool = Esm2Embed({"model": options.checkpoint, "precision": options.precision})
    tool.load(options.device)
    records = [Record(str(i), text) for i, text in enumerate(options.texts)]
    budget = options.budget or tool.batch_tokens(options.device)
    batches = [[options.texts[i] for i in batch] for batch in tool.micro_batches(records, budget)]
    return batches, lambda batch: tool.run([Record("", text) for text in batch])


def settle(options: argparse.Namespace) -> None:
    """Wait for the device."""
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()


def compute(options: argparse.Namespace) -> dict[str, float]:
    """Time a way over all sequences, after a batch that does not count."""
    ways = {"extract": extract, "transformers": transformers, "gpupool": gpupool}
    batches, run = ways[options.way](options)
    with torch.inference_mode():
        run(batches[0])
        settle(options)
        start_s = time.perf_counter()
        for batch in batches:
            run(batch)
        settle(options)
    wall_s = time.perf_counter() - start_s
    padded = sum(len(batch) * (max(map(len, batch)) + 2) for batch in batches)
    tokens = sum(len(text) + 2 for text in options.texts)
    squares = sum((len(text) + 2) ** 2 for text in options.texts)
    return {
        "seconds": wall_s,
        "tokens": tokens,
        "padded_tokens": padded,
        "token_sum": tokens,
        "square_sum": squares,
    }


def load(options: argparse.Namespace) -> dict[str, float]:
    """Time reading a checkpoint into a model; imports are done before."""
    import esm

    from snakemake_executor_gpupool.tools import esm2_checkpoints

    start_s = time.perf_counter()
    if options.way == "load-gpupool":
        esm2_checkpoints.load_model(options.checkpoint)
    else:
        esm.pretrained.load_model_and_alphabet_local(options.checkpoint)
    return {"seconds": time.perf_counter() - start_s}


def main() -> None:
    """Do one way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way")
    parser.add_argument("checkpoint")
    parser.add_argument("--sequences", type=Path)
    parser.add_argument("--budget", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    parser.add_argument("--shape", type=int, nargs=3)
    options = parser.parse_args()
    if options.way.startswith("load-"):
        print(json.dumps(load(options)))
        return
    options.texts = options.sequences.read_text().split()
    print(json.dumps(compute(options)))


if __name__ == "__main__":
    main()
