"""An ESM-2 checkpoint with seeded weights, in the format fair-esm loads from disk.

Run as a script, so that the bench itself never imports torch::

    python bench/checkpoint.py bench/out/esm2_t6_8M_seeded.pt
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

LAYERS, WIDTH, HEADS = 6, 320, 20
SEED = 0
#: fair-esm keeps these two in a file of their own.
REGRESSION = ("contact_head.regression.weight", "contact_head.regression.bias")


def write(path: Path) -> None:
    """Write the checkpoint, and beside it the contact head that fair-esm insists on."""
    import torch
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    torch.manual_seed(SEED)
    alphabet = Alphabet.from_architecture("ESM-1b")
    state = ESM2(LAYERS, WIDTH, HEADS, alphabet, token_dropout=True).state_dict()
    config = OrderedDict()  # the one class with attributes that torch's safe loading accepts
    config.encoder_layers = LAYERS
    config.encoder_embed_dim = WIDTH
    config.encoder_attention_heads = HEADS
    config.token_dropout = True
    regression = {name: state.pop(name) for name in REGRESSION}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": regression}, path.with_name(f"{path.stem}-contact-regression.pt"))
    torch.save({"cfg": {"model": config}, "model": state}, path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
