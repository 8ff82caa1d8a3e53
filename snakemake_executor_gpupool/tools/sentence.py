"""``sentence-embed``: embeddings of short texts, on sentence-transformers.

The top level imports the standard library only: reading texts happens in a
process that never loads torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.tolerance import Tolerance
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.tools import hub
from snakemake_executor_gpupool.tools.arrays import array_format, check_ids, write_arrays
from snakemake_executor_gpupool.tools.finite import (
    damaged_parts,
    is_finite,
    listed,
    names_of,
    not_finite,
)
from snakemake_executor_gpupool.tools.params import (
    PRECISIONS,
    choice,
    flag,
    named,
    one_file,
    optional_text,
    optional_whole,
    seen_by_load,
    seen_by_run,
    text,
)
from snakemake_executor_gpupool.tools.sentence_limits import are_cut, set_limit
from snakemake_executor_gpupool.tools.sentence_shape import padded_to, rung_of
from snakemake_executor_gpupool.tools.texts import Text, read_texts

if TYPE_CHECKING:
    import numpy as np

    Vector = np.ndarray[Any, Any]

logger = logging.getLogger(__name__)

NAME = "sentence-embed"
DEFAULTS: dict[str, Any] = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "precision": "fp32",
    "normalize": False,
    "prompt": None,
    "max_tokens": None,
    "column": "text",
    "id_column": None,
}
#: The file of a model that says which parts it has, pooling among them.
MODULES = "modules.json"
#: UTF-8 bytes of a token: English has about four in the vocabulary of BERT, other scripts more.
BYTES_PER_TOKEN = 4
#: Start and end of a text.
ADDED_TOKENS = 2
#: Most sentence models see no more of a text; only guesses of cost depend on it.
USUAL_MAX_TOKENS = 512
#: Measured on MiniLM: at most 1e-6 of an array's largest number in fp32, 1.2e-2 in bf16 (which is
#: that of all sums), 1e-3 in fp16.
TOLERANCE = {
    "fp32": Tolerance(1e-6, 1e-5),
    "bf16": Tolerance(0.0, 0.05),
    "fp16": Tolerance(0.0, 0.01),
}
#: Token budgets of a micro-batch; sentence-transformers' own default of 32 texts is of this order.
CPU_TOKENS, CUDA_TOKENS = 2048, 32768
#: Those of a reproducible run, whose batches are filled up: enough to occupy the device.
CPU_SHAPE_TOKENS, CUDA_SHAPE_TOKENS = 256, 4096


class Embedded(NamedTuple):
    """What the model makes of one text.

    Attributes
    ----------
    vector
        float32 of shape (D,).
    cut_to
        How many tokens of the text the model saw; 0: all.
    """

    vector: Vector
    cut_to: int


class Options(NamedTuple):
    """The params of one job.

    Attributes
    ----------
    model
        Directory of a sentence-transformers model, or the name of a repository on the hub.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: the type of the weights.
    normalize
        Whether embeddings are scaled to length 1.
    prompt
        Text put before each text; empty: the model's own default, if it has one.
    max_tokens
        How much of a text the model sees; None: what the model says.
    column, id_column
        Columns of a table that hold texts and ids.
    """

    model: str
    precision: str
    normalize: bool
    prompt: str
    max_tokens: int | None
    column: str
    id_column: str

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Options:
        """Check a job's params.

        Raises
        ------
        InputError
            A value is none that the param can take; the message names both.
        """
        return cls(
            model=text(params, "model", "a directory, or the name of a model on the hub"),
            precision=choice(params, "precision", PRECISIONS),
            normalize=flag(params, "normalize"),
            prompt=optional_text(params, "prompt", "a text"),
            max_tokens=optional_whole(params, "max_tokens", at_least=1 + ADDED_TOKENS),
            column=text(params, "column", "the name of a column"),
            id_column=optional_text(params, "id_column", "the name of a column"),
        )


class SentenceEmbed(Tool):
    """Embeddings of texts by a sentence-transformers model.

    Input ``texts`` (or the first): ``.txt``, ``.tsv`` or ``.parquet``. Output
    ``embeddings`` (or the first): ``.npz``, ``.parquet``, ``.pt`` or ``.npy``, in input
    order. The user reference is ``docs/tools/sentence-embed.md``.

    An item is a :class:`~snakemake_executor_gpupool.tools.texts.Text`, a result an
    :class:`Embedded`; callers of the Python API get its vector.
    """

    reload_on = ("model", "precision", "max_tokens")
    write_params = ("column", "id_column")
    defaults = DEFAULTS
    devices = ("cuda", "cpu")
    pads = True
    tolerance = TOLERANCE
    reproducible = "shape"
    version = "2"

    _model: Any = None

    # -- the model ---------------------------------------------------------
    def load(self, device: str) -> None:
        """Read the weights and put them on ``device``.

        Raises
        ------
        InputError
            There are no such weights; the message says where to put them. Or the model has
            no positions for ``max_tokens``.
        """
        torch = hub.library("torch", NAME, "torch")
        library = hub.library("sentence_transformers", NAME, "sentence-transformers")
        options = Options.from_params(seen_by_load(self))
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

        def load(local: bool) -> Any:
            _check_modules(options.model, local)
            return library.SentenceTransformer(
                options.model,
                device=device,
                local_files_only=local,
                model_kwargs={"dtype": dtypes[options.precision]},
            )

        self._model = hub.found(options.model, "a sentence-transformers model", load)
        set_limit(self._model, options.model, options.max_tokens)
        # Texts are never packed into one row, which some kernels for attention would allow.
        if hasattr(self._model[0], "unpad_inputs"):
            self._model[0].unpad_inputs = False
        self._model.eval()
        self.device = device

    def to(self, device: str) -> None:
        """Move the weights to another device and give the old one's memory back."""
        import torch

        self._model.to(device)
        self.device = device
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def run(self, items: list[Text]) -> list[Embedded]:
        """Embed texts that share a batch.

        Raises
        ------
        InputError
            An embedding is not finite.
        """
        options = Options.from_params(seen_by_run(self))
        texts, prompt = [item.text for item in items], options.prompt or None
        shape = self.batch_shape
        with padded_to(self._model, shape.tokens) if shape else contextlib.nullcontext():
            vectors = self._model.encode(
                texts,
                prompt=prompt,
                batch_size=len(items),
                normalize_embeddings=options.normalize,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        rows = [row.astype("float32") for row in vectors]
        bad = names_of(item.id for item, row in zip(items, rows) if not _is_usable(row, options))
        if bad:
            raise not_finite(bad, options.model, options.precision, damaged_parts(self._model))
        limits = [
            self._model.max_seq_length if c else 0 for c in are_cut(self._model, texts, prompt)
        ]
        return [Embedded(row, limit) for row, limit in zip(rows, limits)]

    # -- the files -----------------------------------------------------------
    def read(self, job: Job) -> Iterator[Text]:
        """Yield the texts.

        Raises
        ------
        InputError
            A param, the output's suffix or the file is wrong.
        """
        options = Options.from_params(self.params)
        output = one_file(NAME, job, "output", "embeddings")
        if not output.lower().endswith(".npy"):
            array_format(output)
        path = one_file(NAME, job, "input", "texts")
        texts = read_texts(path, options.column, options.id_column)
        if not output.lower().endswith(".npy"):
            check_ids(output, [text.id for text in texts])
        yield from texts

    def write(self, job: Job, results: list[Embedded]) -> None:
        """Write all embeddings to the output, in the order of the input.

        The job's log says how many texts were longer than the model sees.
        """
        path = one_file(NAME, job, "output", "embeddings")
        _report_cut(one_file(NAME, job, "input", "texts"), job.item_names, results)
        if path.lower().endswith(".npy"):
            _write_matrix(path, [result.vector for result in results])
        else:
            arrays = [{"embedding": result.vector} for result in results]
            write_arrays(path, job.item_names, arrays)

    def item(self, value: Any) -> Text:
        """Return a text, named by its start, or one of an (id, text) pair.

        Raises
        ------
        InputError
            It is neither, or empty.
        """
        return Text(*named(NAME, "texts", value))

    def results_of_call(self, items: list[Text], results: list[Embedded]) -> list[Vector]:
        """Return the vectors alone; a warning says how many texts were cut."""
        _report_cut(NAME, [item.id for item in items], results)
        return [result.vector for result in results]

    # -- what the pool should know of an item ----------------------------------
    def key(self, item: Text) -> str:
        """Return a hash of the text: those with other ids are duplicates all the same."""
        return content_hash(item.text)

    def name(self, item: Text) -> str:
        """Return the text's id."""
        return item.id

    def cost(self, item: Text) -> float:
        """Return the tokens: the short texts that models take cost little attention."""
        return float(self.tokens(item))

    def tokens(self, item: Text) -> int:
        """Return a guess at the tokens of a text, without the model's tokenizer."""
        most = optional_whole(self.params, "max_tokens", at_least=1) or USUAL_MAX_TOKENS
        shown = len(item.text.encode()) // BYTES_PER_TOKEN + 1 + ADDED_TOKENS
        return min(shown, most)

    def batch_tokens(self, device: str) -> int:
        """Return the token budget of a micro-batch."""
        return CPU_TOKENS if device == "cpu" else CUDA_TOKENS

    def shape_tokens(self, device: str) -> int:
        """Return the tokens of a batch in a reproducible run."""
        return CPU_SHAPE_TOKENS if device == "cpu" else CUDA_SHAPE_TOKENS

    def rung(self, item: Text) -> int:
        """Return the length that a text is padded to in a reproducible run.

        A guess, until there is the model's own tokenizer.
        """
        if self._model is None:
            return super().rung(item)
        options = Options.from_params(seen_by_run(self))
        return rung_of(self._model, item.text, options.prompt or None)


def _is_usable(vector: Vector, options: Options) -> bool:
    # Where a length overflows, dividing by it leaves nothing.
    is_empty = options.precision == "fp16" and not vector.any()
    return is_finite(vector) and not is_empty


def _report_cut(origin: str, names: Sequence[str], results: Sequence[Embedded]) -> None:
    cut = [name for name, result in zip(names, results) if result.cut_to]
    if cut:
        limit = max(result.cut_to for result in results)
        logger.warning(
            "%s: truncated to %d tokens: %d of %d texts (%s)",
            origin,
            limit,
            len(cut),
            len(results),
            listed(cut),
        )


def _check_modules(model: str, local: bool) -> None:
    """Refuse a model that does not say how its token embeddings are pooled.

    sentence-transformers would take their mean, also if the file was only not cached.
    """
    if os.path.isdir(model):  # noqa: PTH112 - as few imports as possible
        if not os.path.isfile(os.path.join(model, MODULES)):  # noqa: PTH113, PTH118
            raise FileNotFoundError(f"there is no {MODULES}")
        return
    from huggingface_hub import hf_hub_download

    # As sentence-transformers completes names.
    name = model if "/" in model else f"sentence-transformers/{model}"
    hf_hub_download(name, MODULES, local_files_only=local)


def _write_matrix(path: str, results: Sequence[Vector]) -> None:
    import numpy as np

    with open(path, "wb") as file:  # noqa: PTH123 - numpy.save would add a suffix to .NPY
        np.save(file, np.stack(results), allow_pickle=False)
