"""``linear-head``: class scores of embeddings by one trained linear layer.

The top level imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.tolerance import Tolerance
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.tools.finite import is_finite, not_finite
from snakemake_executor_gpupool.tools.params import (
    choice,
    one_file,
    optional_text,
    seen_by_load,
    seen_by_run,
    text,
)
from snakemake_executor_gpupool.tools.tables import check_id, table_format, write_table

if TYPE_CHECKING:
    import numpy as np

    from snakemake_executor_gpupool.tools.linear_head_weights import Head

    Array = np.ndarray[Any, Any]

ACTIVATIONS = ("softmax", "sigmoid", "linear")
DEFAULTS: dict[str, Any] = {"model": None, "activation": "softmax", "array": None}
NAME = "linear-head"
#: Products that are held at a time, so that they stay in a core's cache.
PRODUCTS = 1 << 17


class Embedding(NamedTuple):
    """One embedding: its id and a float32 array of shape (D,)."""

    id: str
    vector: Array


class Score(NamedTuple):
    """What the layer makes of one embedding: the class names, and float32 of shape (C,)."""

    classes: tuple[str, ...]
    scores: Array


class Options(NamedTuple):
    """The params of one job.

    Attributes
    ----------
    model
        File of the weights.
    activation
        What turns the layer's outputs into scores.
    array
        Which of several arrays per sequence is taken (``"layer6"``); empty: the only one.
    """

    model: str
    activation: str
    array: str

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Options:
        """Check a job's params.

        Raises
        ------
        InputError
            A value is none that the param can take; the message names both.
        """
        return cls(
            model=text(params, "model", "the path of the trained weights"),
            activation=choice(params, "activation", ACTIVATIONS),
            array=optional_text(params, "array", "the name of an array, as 'layer6'"),
        )


class LinearHead(Tool):
    """Class scores of embeddings by a linear layer.

    Input ``embeddings`` (or the first): ``.npz`` or ``.parquet`` as the embedding
    tools write them. Output ``scores`` (or the first): ``.tsv`` or ``.parquet``, a
    row per embedding. The user reference is ``docs/tools/linear-head.md``.

    An item is an :class:`Embedding`, a result a :class:`Score`.
    """

    reload_on = ("model",)
    write_params = ("array",)
    defaults = DEFAULTS
    devices = ("cpu",)
    pads = False
    tolerance = Tolerance()
    reproducible = "always"
    version = "3"

    _head: Head

    # -- the model ---------------------------------------------------------
    def load(self, device: str) -> None:
        """Read the weights.

        Raises
        ------
        InputError
            The file is missing, or holds no weights of a linear layer.
        """
        from snakemake_executor_gpupool.tools.linear_head_weights import read_head

        self._head = read_head(Options.from_params(seen_by_load(self)).model)
        self.device = device

    def run(self, items: list[Embedding]) -> list[Score]:
        """Score embeddings.

        Each embedding's sums are done by themselves: what it shares its batch with changes no
        bit of its scores.

        Raises
        ------
        InputError
            An embedding is not as long as the layer is wide, a score is not finite, or the
            activation says nothing of a layer with one row.
        """
        import numpy as np

        options = Options.from_params(seen_by_run(self))
        head = self._head
        _check_activation(head, options)
        for item in items:
            if len(item.vector) != head.weight.shape[1]:
                raise InputError(
                    f"the embedding {item.id!r} has {len(item.vector)} dimensions; "
                    f"{options.model} takes {head.weight.shape[1]}; embed with the model that "
                    "it was trained on"
                )
        vectors = np.stack([item.vector for item in items]).astype(np.float64)
        logits = _products(vectors, head.weight) + head.bias
        if head.is_binary:
            # What a first row of zeros would give.
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = _activated(logits, "softmax" if head.is_binary else options.activation)
            scores = scores.astype(np.float32)
        bad = [item.id for item, row in zip(items, scores) if not is_finite(row)]
        if bad:
            raise not_finite(bad, options.model)
        return [Score(head.classes, row.copy()) for row in scores]

    # -- the files -----------------------------------------------------------
    def read(self, job: Job) -> Iterator[Embedding]:
        """Yield the embeddings, in the order of the file.

        Raises
        ------
        InputError
            A param, the output's suffix or the file is wrong.
        """
        from snakemake_executor_gpupool.tools.vectors import read_vectors

        options = Options.from_params(self.params)
        output = one_file(NAME, job, "output", "scores")
        table_format(output)
        path = one_file(NAME, job, "input", "embeddings")
        for name, vector in read_vectors(path, options.array):
            check_id(output, name)
            yield Embedding(name, vector)

    def write(self, job: Job, results: list[Score]) -> None:
        """Write the table: ``id``, a column per class, ``label`` (the class of highest score).

        Of a layer with one class there is nothing to choose from, and no ``label``.
        """
        path = one_file(NAME, job, "output", "scores")
        classes = results[0].classes if results else ()
        columns: dict[str, list[Any]] = {"id": job.item_names}
        for place, name in enumerate(classes):
            columns[name] = [float(result.scores[place]) for result in results]
        if len(classes) != 1:
            columns["label"] = [classes[int(result.scores.argmax())] for result in results]
        write_table(path, columns)

    def item(self, value: Any) -> Embedding:
        """Return the embedding of a vector, or of an (id, vector) pair.

        Raises
        ------
        InputError
            It is neither, or not all of it are finite numbers.
        """
        import numpy as np

        from snakemake_executor_gpupool.tools.vectors import checked

        has_id = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
        name, vector = value if has_id else ("", value)
        try:
            np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"linear-head takes vectors or (id, vector) pairs; got {value!r:.100}"
            ) from error
        return Embedding(name, checked("linear-head", name, vector))

    # -- what the pool should know of an item ----------------------------------
    def key(self, item: Embedding) -> str:
        """Return a hash of the vector: equal ones are duplicates under any id."""
        return content_hash(item.vector)

    def name(self, item: Embedding) -> str:
        """Return the embedding's id."""
        return item.id

    def batch_tokens(self, device: str) -> int:
        """Return how many embeddings share a batch."""
        return 4096


def _check_activation(head: Head, options: Options) -> None:
    if len(head.weight) > 1:
        return
    if head.is_binary and options.activation == "linear":
        raise InputError(
            f"param activation: {options.model} has one row and the names of two classes, and "
            "'linear' gives one number; take softmax or sigmoid, or leave one name in the file"
        )
    if not head.is_binary and options.activation == "softmax":
        raise InputError(
            f"param activation: {options.model} has one row, and over one class softmax is 1 for "
            "everybody. Set activation to sigmoid, or give the file the names of two classes, "
            "the second being the one that high outputs mean"
        )


def _products(vectors: Array, weight: Array) -> Array:
    """Return the scalar products of vectors and rows, float64 of shape (B, C).

    A matrix product would group each sum by how many vectors there are. These are sums over the
    last axis, which numpy does one by one.
    """
    import numpy as np

    (count, width), classes = vectors.shape, len(weight)
    sums: Array = np.empty((count, classes))
    some = max(min(PRODUCTS // width, classes), 1)
    many = max(PRODUCTS // (width * some), 1)
    for first in range(0, classes, some):
        part = weight[first : first + some]
        for start in range(0, count, many):
            products = vectors[start : start + many, None, :] * part
            sums[start : start + many, first : first + some] = products.sum(axis=2)
    return sums


def _activated(logits: Array, activation: str) -> Array:
    """Return scores, float64 of shape (B, C)."""
    import numpy as np

    scores = logits
    if activation == "sigmoid":
        # By way of tanh: exp() of a large negative logit would overflow.
        scores = 0.5 * (1 + np.tanh(0.5 * logits))
    elif activation == "softmax":
        powers: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    return scores
