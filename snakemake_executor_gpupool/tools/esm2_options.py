"""The params of ``esm2-embed``, checked and typed. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.params import PRECISIONS, choice, flag, text, whole

#: ESM-2 was trained on at most 1,024 tokens, of which two are the start and the end of the
#: sequence (Lin et al. 2023, doi:10.1126/science.ade2574, supplementary methods).
TRAINED_LENGTH = 1022

DEFAULTS: dict[str, Any] = {
    "model": "esm2_t6_8M_UR50D",
    "precision": "fp32",
    "layers": None,
    "pool": "mean",
    "contacts": False,
    "max_length": TRAINED_LENGTH,
    "long_sequences": "refuse",
    "strip_stop": False,
}


class Options(NamedTuple):
    """The params of one job.

    Attributes
    ----------
    model
        A fair-esm name, a checkpoint file or a directory in the Hugging Face format.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: the precision of the matrix products; or
        ``"nf4"``: weights in four bits each, products in float32.
    layers
        Layers asked for, as asked; empty: the last.
    pool
        ``"mean"`` over residues, or ``"per_token"``.
    contacts
        Whether contact maps are asked for.
    max_length
        The most residues of a sequence that the model sees.
    truncate
        Whether longer sequences are cut, not refused.
    strip_stop
        Whether one ``*`` at the end of a sequence is removed.
    """

    model: str
    precision: str
    layers: tuple[int, ...]
    pool: str
    contacts: bool
    max_length: int
    truncate: bool
    strip_stop: bool

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Options:
        """Check a job's params.

        Raises
        ------
        InputError
            A value is none that the param can take; the message names both.
        """
        options = cls(
            model=text(params, "model", "the name of a model, or the path of a checkpoint"),
            precision=choice(params, "precision", (*PRECISIONS, "nf4")),
            layers=_layers(params),
            pool=choice(params, "pool", ("mean", "per_token")),
            contacts=flag(params, "contacts"),
            max_length=whole("max_length", params["max_length"], at_least=1),
            truncate=choice(params, "long_sequences", ("refuse", "truncate")) == "truncate",
            strip_stop=flag(params, "strip_stop"),
        )
        if options.contacts and options.precision != "fp32":
            raise InputError(
                f"param contacts needs precision fp32, not {options.precision}: contact maps are "
                "products of attention weights too small for less"
            )
        return options

    def resolve_layers(self, layers: int) -> list[int]:
        """Return the layers asked for as indices 0 (the embedding) to ``layers`` (the last).

        Negative ones count from the end, -1 being the last, as in fair-esm.

        Raises
        ------
        InputError
            The model has no such layer.
        """
        for layer in self.layers:
            if not -(layers + 1) <= layer <= layers:
                raise InputError(
                    f"param layers: {self.model} has the layers 0 to {layers} (or -1 to "
                    f"-{layers + 1}, from the last); it has no layer {layer}"
                )
        return list(dict.fromkeys(layer % (layers + 1) for layer in self.layers or (layers,)))


def _layers(params: Mapping[str, Any]) -> tuple[int, ...]:
    """Read one layer, several, or text of them as a command line gives it."""
    value = params["layers"]
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(whole("layers", entry) for entry in values)
