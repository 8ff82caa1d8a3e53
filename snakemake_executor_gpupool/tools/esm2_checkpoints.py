"""Where ESM-2 weights come from.

A model is one of

- a fair-esm name (``esm2_t6_8M_UR50D``): its files in ``torch.hub``'s cache,
  downloaded there if they are absent and that is allowed;
- a checkpoint file in fair-esm's format, its contact regression beside it;
- a directory in the Hugging Face format.

Run as a program, it writes a checkpoint of random weights, for tests and
benchmarks, and prints its path::

    python -m snakemake_executor_gpupool.tools.esm2_checkpoints --seeded t6_8M DIR

The top level imports the standard library only; torch and esm are imported
where weights are read.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import esm2_hub, esm2_huggingface, esm2_module
from snakemake_executor_gpupool.tools.esm2_module import SHAPES, Shape, Weights

#: Files from this size on are mapped, not read: only what is used is loaded, and no copy is
#: made. A smaller file is read as fast, and may then be replaced without harm.
MMAP_FROM_BYTES = 256 << 20
CONTACT_SUFFIX = "-contact-regression.pt"
#: What fair-esm's checkpoints put before the names of its module, and its loader removes.
FAIR_ESM_PREFIX = re.compile(r"^encoder\.(sentence_encoder\.)?")


def known_shape(model: str) -> Shape | None:
    """Return a model's shape if it can be told without reading weights."""
    if Path(model, esm2_huggingface.CONFIG).is_file():
        return esm2_huggingface.read_config(model).shape
    return SHAPES.get(model)


def guessed_shape(model: str) -> Shape:
    """Return a model's shape as far as its name tells; else that of the smallest."""
    stem = Path(model).name
    fitting = [shape for name, shape in SHAPES.items() if stem.startswith(_size_in(name))]
    return fitting[0] if fitting else SHAPES["esm2_t6_8M_UR50D"]


def load_model(model: str) -> Any:
    """Read a model's weights into fair-esm's module.

    Parameters
    ----------
    model
        A fair-esm name, a ``.pt`` file or a directory in the Hugging Face format.

    Returns
    -------
    esm.ESM2
        As :func:`esm2_module.build` makes it.

    Raises
    ------
    InputError
        There are no such weights, or they are no ESM-2 checkpoint. The message
        says where to put the files.
    """
    return esm2_module.build(_read_weights(model))


def load_contact_head(model: str, module: Any) -> Any:
    """Return the head that turns attention weights into contacts, on the CPU.

    Parameters
    ----------
    model
        As in :func:`load_model`.
    module
        What that returned.

    Raises
    ------
    InputError
        The checkpoint has no contact head; the message says where it belongs.
    """
    if module.contact_head is not None:
        return module.contact_head
    path = _contact_path(model)
    data = read_tensors(path)
    tensors = data.get("model") if isinstance(data, dict) else None
    if not isinstance(tensors, dict):
        raise InputError(f"{path} is not a contact regression: expected {{'model': tensors}}")
    shape = Shape(module.num_layers, module.embed_dim, module.attention_heads)
    return esm2_module.contact_head(path, shape, tensors)


def read_tensors(path: str) -> Any:
    """Read a file that ``torch.save`` wrote, without running code that it may hold.

    Beyond tensors and plain containers only ``argparse.Namespace`` is allowed,
    in which fair-esm's checkpoints keep their settings.

    Raises
    ------
    InputError
        The file is missing, unreadable, or no such file.
    """
    import torch

    try:
        mapped = Path(path).stat().st_size >= MMAP_FROM_BYTES and zipfile.is_zipfile(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = re.split(r"[.:]?\s*\n|\. ", str(error).strip())[0]
        raise InputError(
            f"{path} is not a checkpoint of plain tensors, or it is damaged ({reason})"
        ) from error


def _read_weights(model: str) -> Weights:
    if model in SHAPES:
        return _read_fair_esm(esm2_hub.cached(model, esm2_hub.WEIGHTS))
    if Path(model).is_dir():
        return esm2_huggingface.read(model, read_tensors)
    if Path(model).is_file():
        return _read_fair_esm(model)
    raise InputError(
        f"param model: {model!r} is neither a model of fair-esm ({', '.join(SHAPES)}) nor an "
        f"existing checkpoint file or directory, seen from {Path.cwd()}"
    )


def _read_fair_esm(path: str) -> Weights:
    data = read_tensors(path)
    try:
        config, tensors = data["cfg"]["model"], data["model"]
        layers, width = config.encoder_layers, config.encoder_embed_dim
        shape = Shape(int(layers), int(width), int(config.encoder_attention_heads))
        named = {FAIR_ESM_PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
        return Weights(path, shape, bool(config.token_dropout), named)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not an ESM-2 checkpoint in fair-esm's format, "
            f"{{'cfg': {{'model': settings}}, 'model': tensors}}: {error}"
        ) from error


def _contact_path(model: str) -> str:
    if model in SHAPES:
        return esm2_hub.cached(model, esm2_hub.CONTACTS)
    if Path(model).is_dir():
        raise InputError(f"param contacts: the checkpoint in {model} has no contact head")
    path = beside(Path(model))
    if not path.is_file():
        raise InputError(f"param contacts: {model} needs its contact regression in {path}")
    return str(path)


def beside(checkpoint: Path) -> Path:
    """Return where fair-esm looks for a checkpoint's contact regression."""
    return checkpoint.with_name(checkpoint.stem + CONTACT_SUFFIX)


def _size_in(name: str) -> str:
    """Return the part of a published name that says the shape: ``esm2_t6_8M``."""
    return name.rpartition("_")[0]


# -- seeded checkpoints ------------------------------------------------------------
def write_seeded_checkpoint(
    directory: str, layers: int, width: int, heads: int, seed: int = 0
) -> str:
    """Write a checkpoint of random weights in fair-esm's format, contact regression beside it.

    Every parameter varies, so that equal outputs mean equal computations: a
    library's default biases and norms would hide errors. Plain fair-esm loads
    the file too. The numbers mean nothing biologically.

    Parameters
    ----------
    directory
        Made if it is not there.
    layers, width, heads
        The architecture; ``width`` is a multiple of ``2 * heads``.
    seed
        The same seed gives the same tensors.

    Returns
    -------
    str
        Path of the checkpoint, such as ``esm2_t6_8M_seeded.pt`` (seed 0).
    """
    import torch

    shape = Shape(layers, width, heads)
    tensors = _draw_all(shape, seed)
    path = Path(directory, f"{_seeded_stem(shape, seed)}.pt")
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {name: tensors.pop(name) for name in sorted(tensors) if "contact_head" in name}
    torch.save({"model": head}, beside(path))
    torch.save({"cfg": {"model": _settings(shape)}, "model": tensors}, path)
    return str(path)


def _draw_all(shape: Shape, seed: int) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    sizes = sorted(esm2_module.expected_tensors(shape).items())
    frequencies = ".rot_emb.inv_freq"
    tensors = {n: _draw(n, size, generator) for n, size in sizes if not n.endswith(frequencies)}
    tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
    esm2_module.add_frequencies("", tensors, shape)
    return {_published(name): tensor for name, tensor in tensors.items()}


def _draw(name: str, size: tuple[int, ...], generator: Any) -> Any:
    """Draw one tensor: embeddings of order 1, matrices that keep the scale, norms around 1."""
    import torch

    drawn = torch.randn(size, generator=generator)
    if name == "embed_tokens.weight":
        return drawn
    if name == "contact_head.regression.weight":
        return 30 * drawn  # attention weights, less their averages, are small
    if len(size) > 1:
        return drawn / size[-1] ** 0.5
    return 0.1 * drawn + (1.0 if re.search(r"norm(_after)?\.weight$", name) else 0.0)


def _published(name: str) -> str:
    """Return the name that fair-esm's published checkpoints give a tensor of its module."""
    if name.startswith("contact_head."):
        return name
    return f"encoder.{name}" if name.startswith("lm_head.") else f"encoder.sentence_encoder.{name}"


def _settings(shape: Shape) -> Any:
    """Return fair-esm's settings in the one class with attributes that safe loading accepts."""
    settings: Any = OrderedDict()
    settings.encoder_layers, settings.encoder_embed_dim, settings.encoder_attention_heads = shape
    settings.token_dropout = True
    return settings


def _seeded_stem(shape: Shape, seed: int) -> str:
    sizes = [_size_in(name) for name, known in SHAPES.items() if known == shape]
    stem = sizes[0] if sizes else f"esm2_t{shape.layers}_{shape.width}x{shape.heads}"
    return f"{stem}_seeded" + (str(seed) if seed else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a seeded checkpoint of a published shape and print its path."""
    sizes = {_size_in(name)[len("esm2_") :]: shape for name, shape in SHAPES.items()}
    parser = argparse.ArgumentParser(
        prog="python -m snakemake_executor_gpupool.tools.esm2_checkpoints",
        description="Write an ESM-2 checkpoint of random weights, for tests and benchmarks.",
    )
    parser.add_argument(
        "--seeded",
        required=True,
        choices=list(sizes),
        metavar="SHAPE",
        help=f"published architecture: {', '.join(sizes)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("directory", help="made if it is not there")
    options = parser.parse_args(arguments)
    print(write_seeded_checkpoint(options.directory, *sizes[options.seeded], seed=options.seed))


if __name__ == "__main__":
    main()
