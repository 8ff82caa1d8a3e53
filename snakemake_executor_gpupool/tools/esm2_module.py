"""ESM-2's architecture, and how a checkpoint's tensors get into fair-esm's module.

The top level imports the standard library only; torch and esm are imported
where a module is built.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from snakemake_executor_gpupool.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

#: Parts of a checkpoint that neither embeddings nor contacts need. In the Hugging Face format,
#: learned positions are left over from ESM-1.
UNUSED = re.compile(r"lm_head\.|classifier\.|pooler\.|embeddings\.position_(ids|embeddings)")
CONTACT_HEAD = "contact_head."
#: Rotary frequencies that a checkpoint keeps once for all layers, and those of one layer.
SHARED_FREQUENCIES = "rot_emb.inv_freq"
FREQUENCIES = "layers.{}.self_attn.rot_emb.inv_freq"
#: What fair-esm's layer norms have.
LAYER_NORM_EPS = 1e-5


class Shape(NamedTuple):
    """What tells ESM-2 models apart: layers, width of the hidden states, attention heads."""

    layers: int
    width: int
    heads: int


#: Lin et al. 2023, doi:10.1126/science.ade2574, table S1; the names are fair-esm's.
SHAPES = {
    "esm2_t6_8M_UR50D": Shape(6, 320, 20),
    "esm2_t12_35M_UR50D": Shape(12, 480, 20),
    "esm2_t30_150M_UR50D": Shape(30, 640, 20),
    "esm2_t33_650M_UR50D": Shape(33, 1280, 20),
    "esm2_t36_3B_UR50D": Shape(36, 2560, 40),
    "esm2_t48_15B_UR50D": Shape(48, 5120, 40),
}


class Weights(NamedTuple):
    """A checkpoint as read: what to build, and the tensors by fair-esm's names.

    Attributes
    ----------
    origin
        The file or directory, for messages.
    shape
        The architecture.
    token_dropout
        Whether embeddings are scaled as in training; true for all published models.
    tensors
        Name to tensor, on the CPU.
    layer_norm_eps
        What layer norms add to the variance.
    """

    origin: str
    shape: Shape
    token_dropout: bool
    tensors: Tensors
    layer_norm_eps: float = LAYER_NORM_EPS


def build(weights: Weights) -> Any:
    """Make fair-esm's module hold the tensors, without initialising or copying any.

    Returns
    -------
    esm.ESM2
        float32, on the CPU, in evaluation mode, without gradients; no
        language-model head, and a contact head only if the checkpoint has one
        (else None).

    Raises
    ------
    InputError
        A tensor is missing, left over, or of another shape than the architecture says.
    """
    import torch

    model = _empty(weights.origin, weights.shape, weights.token_dropout)
    # Its logits are never asked for, and some checkpoints have none.
    model.lm_head = torch.nn.Identity()
    model.contact_head = None
    used = {name: tensor for name, tensor in weights.tensors.items() if not UNUSED.match(name)}
    head = {name: used.pop(name) for name in list(used) if name.startswith(CONTACT_HEAD)}
    add_frequencies(weights.origin, used, weights.shape)
    _fill(weights.origin, model, used)
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = weights.layer_norm_eps
    if head:
        model.contact_head = contact_head(weights.origin, weights.shape, head)
    return model


def contact_head(origin: str, shape: Shape, tensors: Tensors) -> Any:
    """Make fair-esm's head that turns attention weights into contacts, on the CPU.

    Raises
    ------
    InputError
        The tensors are not those of such a head for this shape.
    """
    head = _empty(origin, shape, token_dropout=True).contact_head
    return _fill(
        origin, head, {name.replace(CONTACT_HEAD, "", 1): t for name, t in tensors.items()}
    )


def expected_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that fair-esm keeps in a checkpoint."""
    state = _empty("", shape, token_dropout=True).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def add_frequencies(origin: str, tensors: Tensors, shape: Shape) -> None:
    """Give every layer the rotary frequencies that a checkpoint has, once or for each layer.

    Where it has none, they are computed as fair-esm computes them (``esm/rotary_embedding.py``).
    Those of published checkpoints were rounded to half precision, as in training: over a
    thousand residues that makes a difference of 1e-2 in an embedding.

    Raises
    ------
    InputError
        Layers differ in their frequencies, which no ESM-2 does, or they are no such numbers.
    """
    import torch

    size = shape.width // shape.heads
    names = [FREQUENCIES.format(number) for number in range(shape.layers)]
    shared = tensors.pop(SHARED_FREQUENCIES, None)
    stored = [] if shared is None else [(SHARED_FREQUENCIES, shared)]
    stored += [(name, tensors[name]) for name in names if name in tensors]
    frequencies = 1.0 / (10000 ** (torch.arange(0, size, 2).float() / size))
    if stored:
        frequencies = stored[0][1].float()
    for name, tensor in stored:
        if not torch.equal(tensor.float(), frequencies):
            raise InputError(f"{origin} is not ESM-2: its layers differ in {name}")
    tensors.update(dict.fromkeys(names, frequencies))


def _empty(origin: str, shape: Shape, token_dropout: bool) -> Any:
    """Make fair-esm's module without drawing random weights, whose memory stays untouched.

    A module on the "meta" device would do the same, but the first one in a
    process imports two seconds' worth of symbolic mathematics.
    """
    from esm.model.esm2 import ESM2
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):  # type: ignore[misc] # torch.overrides has no types
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            # Both the tensor's own methods and those of torch.nn.init.
            if func.__name__.endswith(("uniform_", "normal_")):
                return args[0] if args else kwargs["tensor"]
            return func(*args, **kwargs)

    if shape.layers < 1 or shape.heads < 1 or shape.width % (2 * shape.heads):
        raise InputError(f"{origin}: no ESM-2 can have the architecture {shape}")
    with Undrawn():
        return ESM2(shape.layers, shape.width, shape.heads, token_dropout=token_dropout)


def _fill(origin: str, module: Any, tensors: Tensors) -> Any:
    """Put tensors into a module in place of its own."""
    expected = module.state_dict()
    _check_names(origin, set(tensors), set(expected))
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{origin} does not fit its own architecture: {name} has the shape "
                f"{tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
            )
    module.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return module.eval().requires_grad_(requires_grad=False)


def _check_names(origin: str, names: set[str], expected: set[str]) -> None:
    missing, extra = sorted(expected - names), sorted(names - expected)
    if missing or extra:
        what = f"lacks {_some(missing)}" if missing else f"has the unknown {_some(extra)}"
        raise InputError(f"{origin} is no ESM-2 of the architecture it claims: it {what}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
