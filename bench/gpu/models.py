"""Shapes of ESM-2, what a forward pass computes, and how fast a card multiplies matrices."""

from __future__ import annotations

import subprocess
import sys
import time

from measure import OUT

#: Layers, width and heads of published models.
SHAPES = {
    "8M": (6, 320, 20),
    "150M": (30, 640, 20),
    "650M": (33, 1280, 20),
    "3B": (36, 2560, 40),
}
WRITE = """
import sys
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
print(write_seeded_checkpoint(sys.argv[1], *map(int, sys.argv[2:])))
"""
#: Side of the matrices whose product is timed, and how often.
SIDE, TIMES = 8192, 10


def write_checkpoint(shape: str) -> str:
    """Return the path of a seeded checkpoint; written unless it is there already."""
    directory = OUT / f"seeded-{shape}"
    there = list(directory.glob("*_seeded.pt"))
    if there:
        return str(there[0])
    command = [sys.executable, "-c", WRITE, str(directory), *map(str, SHAPES[shape])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def forward_flops(shape: tuple[int, int, int], tokens: float, squares: float) -> float:
    """Return the floating-point operations of a forward pass, padding not counted.

    A layer multiplies each token by 12 width^2 weights and, in attention, twice by the width
    for each token of its sequence; a multiplication and an addition count as two.

    Parameters
    ----------
    shape
        Layers, width, heads.
    tokens, squares
        Sums over sequences of their tokens, and of these squared.
    """
    layers, width, _ = shape
    return layers * (24.0 * width**2 * tokens + 4.0 * width * squares)


def matrix_rate(device: str, precision: str) -> float:
    """Return the floating-point operations a second of a large matrix product on the device."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    side = SIDE if device.startswith("cuda") else 512
    one = torch.randn(side, side, device=device).to(dtype)
    other = torch.randn(side, side, device=device).to(dtype)
    for _ in range(3):
        one @ other
    _settle(device)
    start_s = time.perf_counter()
    for _ in range(TIMES):
        one @ other
    _settle(device)
    return TIMES * 2.0 * side**3 / (time.perf_counter() - start_s)


def _settle(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
