"""A small transformer on letters, for tests of reproducible runs: its bits depend on its batch.

``Attending`` pads to the longest of its batch, or to ``self.batch_shape``; ``Careless`` to the
longest always, though its class says otherwise. Inputs are lines of letters, outputs the numbers of
each as hexadecimal floats, so that files show every bit; those of ``Spelled`` are letters again,
quite other ones where a single bit differs.
"""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.tool_api.values import Job

WIDTH, HEADS, LAYERS = 48, 4, 2


class Attending(Tool):
    """Two layers of attention and products over letters, from seeded weights."""

    defaults = {"model": 1, "scale": 1.0, "die": ""}
    reproducible = "shape"
    max_short_tokens = 64
    net: Any

    def load(self, device: str) -> None:
        import torch
        from torch import nn

        torch.manual_seed(int(self.params.model))
        layers = [
            nn.ModuleList([nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)])
            for _ in range(LAYERS)
        ]
        self.net = nn.ModuleDict(
            {"embed": nn.Embedding(27, WIDTH), "layers": nn.ModuleList(layers)}
        )
        self.net = self.net.to(device).eval().requires_grad_(requires_grad=False)

    def read(self, job: Job) -> list[str]:
        return Path(job.input[0]).read_text().split()

    def tokens(self, item: str) -> int:
        return len(item)

    def cost(self, item: str) -> float:
        return len(item)

    def batch_tokens(self, device: str) -> int:
        return 320

    def padded(self, items: list[str]) -> int:
        if self.batch_shape is None:
            return max(map(len, items))
        assert len(items) == self.batch_shape.rows
        return self.batch_shape.tokens

    def run(self, items: list[str]) -> list[Any]:
        import torch
        from torch.nn import functional

        if self.params.die and Path(self.params.die).exists():
            Path(self.params.die).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        letters = torch.zeros(len(items), self.padded(items), dtype=torch.long)
        for row, item in zip(letters, items, strict=False):
            row[: len(item)] = torch.tensor([ord(letter) - 96 for letter in item])
        letters = letters.to(self.device)
        present = letters > 0
        x = self.net["embed"](letters) * self.params.scale
        for mix, turn in self.net["layers"]:
            shape = (*letters.shape, 3, HEADS, WIDTH // HEADS)
            query, key, value = mix(x).view(shape).permute(2, 0, 3, 1, 4)
            mask = present[:, None, None, :]
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = x + torch.tanh(turn(mixed.transpose(1, 2).reshape(x.shape)))
        sums = (x * present.unsqueeze(-1)).sum(dim=1) / present.sum(dim=1, keepdim=True)
        return list(sums.cpu().numpy())

    def write(self, job: Job, results: list[Any]) -> None:
        lines = [" ".join(float(number).hex() for number in row) for row in results]
        Path(job.output[0]).write_text("\n".join(lines) + "\n")


class Spelled(Attending):
    """Writes a word for each item, which tells every bit of its numbers."""

    def write(self, job: Job, results: list[Any]) -> None:
        words = []
        for row in results:
            digits = hashlib.sha256(row.tobytes()).digest()
            words.append("".join(chr(97 + digit % 26) for digit in digits[: 4 + digits[0] % 24]))
        Path(job.output[0]).write_text("\n".join(words) + "\n")


class Careless(Attending):
    """Pads to its batch, whatever it is told."""

    def padded(self, items: list[str]) -> int:
        return max(map(len, items))


class Unsaid(Attending):
    """Does not say how it follows."""

    reproducible = None


class Alone(Unsaid):
    """Is computed one item at a time."""

    reproducible = "alone"
