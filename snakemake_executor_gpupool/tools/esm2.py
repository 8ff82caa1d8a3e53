"""``esm2-embed``: ESM-2 embeddings of the proteins in a FASTA file, on fair-esm.

The top level imports the standard library only: reading a FASTA file happens in
a process that never loads torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.tolerance import Tolerance
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.tools import esm2_checkpoints
from snakemake_executor_gpupool.tools.arrays import array_format, check_ids, write_arrays
from snakemake_executor_gpupool.tools.esm2_module import SHAPES
from snakemake_executor_gpupool.tools.esm2_options import DEFAULTS, TRAINED_LENGTH, Options
from snakemake_executor_gpupool.tools.fasta import (
    Record,
    both_cases,
    check_letters,
    read_fasta,
)
from snakemake_executor_gpupool.tools.finite import damaged_parts, is_finite, names_of, not_finite
from snakemake_executor_gpupool.tools.params import named, one_file, seen_by_load, seen_by_run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Arrays = dict[str, np.ndarray[Any, Any]]

logger = logging.getLogger(__name__)

#: What fair-esm's ESM-2 alphabet has a token for (``esm/constants.py``).
ALPHABET = frozenset("LAGVSERTIDPKQNFYMHWCXBUZO.-")
#: Letters of sequence files that it has none for; it offers ``<unk>`` for such
#: (``Alphabet.get_idx``), as the Hugging Face tokenizer does.
UNKNOWN = frozenset("J*")
LETTERS = both_cases(ALPHABET | UNKNOWN)
#: Start and end of a sequence.
ADDED_TOKENS = 2
#: Milliseconds of one sequence of L residues in the 8M model, alone in its batch, on one core:
#: START + LINEAR * L + QUADRATIC * L**2 (R² 0.998 over lengths of 30 to 600).
START_MS, LINEAR_MS, QUADRATIC_MS = 5.2, 0.168, 3.04e-4
#: Measured on 6 and 30 layers, contacts included: at most 1e-6 of an array's largest number in
#: fp32 (7e-6 in contacts), 7e-3 in bf16, 9e-4 in fp16. NF4's sums are those of fp32.
TOLERANCE = {
    "fp32": Tolerance(2e-5, 1e-5),
    "nf4": Tolerance(2e-5, 1e-5),
    "bf16": Tolerance(0.0, 0.03),
    "fp16": Tolerance(0.0, 0.004),
}
#: Token budgets of a micro-batch. On a CPU a larger one is no faster, for its arrays no longer
#: fit the caches; attention maps of a larger one may not fit a GPU.
CPU_TOKENS, CUDA_TOKENS, CONTACT_TOKENS = 1024, 16384, 2048
#: Those of a reproducible run, whose batches are filled up: enough to occupy the device.
CPU_SHAPE_TOKENS, CUDA_SHAPE_TOKENS = 256, 4096


class Esm2Embed(Tool):
    """ESM-2 embeddings of every protein of a FASTA file.

    Input ``fasta`` (or the first): proteins, plain or gzip. Output ``embeddings``
    (or the first): ``.npz``, ``.pt`` or ``.parquet``, in input order. The user
    reference is ``docs/tools/esm2-embed.md``; the params are those of
    :class:`~snakemake_executor_gpupool.tools.esm2_options.Options`.

    An item is a :class:`~snakemake_executor_gpupool.tools.fasta.Record` whose
    sequence is what the model sees. A result maps ``"layer6"`` and the like to a
    float32 array of shape (D,) or, per token, (L, D), and ``"contacts"`` to one
    of shape (L, L).
    """

    reload_on = ("model", "precision")
    # These shape the items themselves: two that are equal after truncation are duplicates.
    write_params = ("max_length", "long_sequences", "strip_stop")
    defaults = DEFAULTS
    devices = ("cuda", "cpu")
    pads = True
    tolerance = TOLERANCE
    reproducible = "shape"
    version = "3"

    _encoder: Any = None
    _contact_head: Any = None
    _letters: Any = None

    # -- the model ---------------------------------------------------------
    def load(self, device: str) -> None:
        """Read the weights and put them on ``device``.

        Raises
        ------
        InputError
            There are no such weights; the message says where to put them.
        """
        _check_installed()
        from snakemake_executor_gpupool.tools.esm2_forward import Encoder

        options = Options.from_params(seen_by_load(self))
        module = esm2_checkpoints.load_model(options.model)
        self._letters = _letter_tokens(module.alphabet)
        self._encoder = Encoder(module, options.precision)
        self.to(device)

    def to(self, device: str) -> None:
        """Move the weights to another device and give the old one's memory back."""
        import torch

        self._encoder.to(device)
        if self._contact_head is not None:
            self._contact_head.to(device)
        self.device = device
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def run(self, items: list[Record]) -> list[Arrays]:
        """Embed sequences that share a batch.

        Returns
        -------
        list of dict
            One result per item, of arrays that hold no others' memory.

        Raises
        ------
        InputError
            The model has no such layer, or no contact head; or a result is not finite.
        """
        options = Options.from_params(seen_by_run(self))
        results = self._computed(items, options)
        bad = names_of(i.id for i, result in zip(items, results) if not is_finite(*result.values()))
        if bad:
            parts = damaged_parts(self._encoder.model)
            if self._contact_head is not None:
                parts += damaged_parts(self._contact_head)
            raise not_finite(bad, options.model, options.precision, parts)
        return results

    def _computed(self, items: Sequence[Record], options: Options) -> list[Arrays]:
        import torch

        layers = options.resolve_layers(self._encoder.layers)
        with torch.inference_mode():
            lengths = [len(item.sequence) for item in items]
            if self.device == "cpu" and self.batch_shape is None and not options.contacts:
                return self._computed_rows(items, layers, options.pool)
            tokens = self._tokens(items)
            if not options.contacts:
                is_fixed = self.batch_shape is not None
                states = self._encoder.hidden_states(tokens, layers, always_mask=is_fixed)
                return _results(states, layers, lengths, options.pool)
            head = self._loaded_contact_head(options.model)
            states, attentions = self._encoder.states_and_attentions(tokens, layers)
            results = _results(states, layers, lengths, options.pool)
            for place, (result, length) in enumerate(zip(results, lengths)):
                # One by one: a regression of many pairs treats the last ones in another way.
                end, only = length + ADDED_TOKENS, slice(place, place + 1)
                weights = attentions[only, :, :, :end, :end].contiguous()
                contacts = head(tokens[only, :end], weights)[0]
                result["contacts"] = contacts.float().cpu().numpy().copy()
        return results

    def _computed_rows(
        self, items: Sequence[Record], layers: Sequence[int], pool: str
    ) -> list[Arrays]:
        """Embed sequences one behind the other, which spares a CPU the padding and the mask."""
        import numpy as np
        import torch

        lengths = [len(item.sequence) + ADDED_TOKENS for item in items]
        tokens: Any = np.concatenate([self._tokens_of(item) for item in items])
        states = self._encoder.hidden_rows(torch.from_numpy(tokens), lengths, layers)
        results: list[Arrays] = [{} for _ in items]
        for layer in layers:
            for result, rows in zip(results, states[layer].split(lengths)):
                residues = rows[1:-1]
                found = residues.mean(dim=0) if pool == "mean" else residues
                result[f"layer{layer}"] = found.numpy().copy()
        return results

    def _tokens_of(self, item: Record) -> Any:
        """Return the tokens of one sequence, int64, with its start and end."""
        import numpy as np

        alphabet = self._encoder.model.alphabet
        letters = np.frombuffer(item.sequence.encode(), np.uint8)
        return np.concatenate([[alphabet.cls_idx], self._letters[letters], [alphabet.eos_idx]])

    def _tokens(self, items: Sequence[Record]) -> Tensor:
        """Return int64 tokens of shape (B, T), padded at the end.

        T is that of the longest, or of a reproducible run's rung.
        """
        import numpy as np
        import torch

        alphabet = self._encoder.model.alphabet
        length = max(len(item.sequence) for item in items) + ADDED_TOKENS
        if self.batch_shape is not None:
            length = self.batch_shape.tokens
        tokens: Any = np.full((len(items), length), alphabet.padding_idx, np.int64)
        for row, item in zip(tokens, items):
            row[: len(item.sequence) + ADDED_TOKENS] = self._tokens_of(item)
        return torch.from_numpy(tokens).to(self.device)

    def _loaded_contact_head(self, model: str) -> Any:
        if self._contact_head is None:
            head = esm2_checkpoints.load_contact_head(model, self._encoder.model)
            self._contact_head = head.to(self.device)
        return self._contact_head

    # -- the files -----------------------------------------------------------
    def extra_model_files(self) -> list[Path]:
        """Return the contact regression that lies beside a checkpoint, where there is one."""
        checkpoint = Path(str(self.params.model))
        # One that names no file is refused, with a sentence, when it is loaded.
        return [esm2_checkpoints.beside(checkpoint)] if checkpoint.name else []

    def read(self, job: Job) -> Iterator[Record]:
        """Yield the proteins as the model will see them.

        Raises
        ------
        InputError
            A param, the output's suffix, the file or a letter in it is wrong,
            a sequence is longer than the model takes, or the output cannot hold an id.
        """
        options = Options.from_params(self.params)
        output = one_file("esm2-embed", job, "output", "embeddings")
        array_format(output)
        shape = esm2_checkpoints.known_shape(options.model)
        if shape is not None:
            options.resolve_layers(shape.layers)
        path = one_file("esm2-embed", job, "input", "fasta")
        records = [_prepared(path, record, options) for record in read_fasta(path)]
        check_ids(output, [record.id for record, _ in records])
        _report_truncated(path, records, options)
        for record, sequence in records:
            yield Record(record.id, sequence[: options.max_length])

    def write(self, job: Job, results: list[Arrays]) -> None:
        """Write all arrays to the output, in the order of the input."""
        write_arrays(one_file("esm2-embed", job, "output", "embeddings"), job.item_names, results)

    def items_of_call(self, values: Sequence[Any]) -> list[Record]:
        """Return the records of sequences; a warning says how many were cut."""
        options = Options.from_params(self.params)
        given = [Record(*named("esm2-embed", "sequences", value)) for value in values]
        records = [_prepared("esm2-embed", record, options) for record in given]
        _report_truncated("esm2-embed", records, options)
        return [Record(r.id, sequence[: options.max_length]) for r, sequence in records]

    def item(self, value: Any) -> Record:
        """Return the record of a sequence, named by its start, or of an (id, sequence) pair.

        Raises
        ------
        InputError
            It is neither, or no protein; the message says which letter is none.
        """
        return self.items_of_call([value])[0]

    # -- what the pool should know of an item ----------------------------------
    def key(self, item: Record) -> str:
        """Return a hash of the sequence: records with other ids are duplicates all the same."""
        return content_hash(item.sequence)

    def name(self, item: Record) -> str:
        """Return the record's id."""
        return item.id

    def cost(self, item: Record) -> float:
        """Return milliseconds, measured on the 8M model and scaled by the sums that others do."""
        shape = esm2_checkpoints.guessed_shape(str(self.params.model))
        small = SHAPES["esm2_t6_8M_UR50D"]
        depth, width = shape.layers / small.layers, shape.width / small.width
        length = len(item.sequence)
        by_residue = START_MS + LINEAR_MS * length * width**2
        return depth * (by_residue + QUADRATIC_MS * length**2 * width)

    def tokens(self, item: Record) -> int:
        """Return the tokens of a sequence: its residues, a start and an end."""
        return len(item.sequence) + ADDED_TOKENS

    def batch_tokens(self, device: str) -> int:
        """Return the padded tokens of a micro-batch to start with."""
        budget = CUDA_TOKENS if device.startswith("cuda") else CPU_TOKENS
        return min(budget, CONTACT_TOKENS) if self.params.contacts else budget

    def shape_tokens(self, device: str) -> int:
        """Return the padded tokens of a batch in a reproducible run."""
        budget = CUDA_SHAPE_TOKENS if device.startswith("cuda") else CPU_SHAPE_TOKENS
        return min(budget, CONTACT_TOKENS) if self.params.contacts else budget


def _check_installed() -> None:
    try:
        import esm
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"esm2-embed needs fair-esm and torch, and there is no module {error.name!r}; install "
            "the Python packages fair-esm, torch and numpy in the rule's environment"
        ) from error
    if not hasattr(esm, "ESM2"):
        raise InputError(
            f"esm2-embed needs the Python package fair-esm 2, but {esm.__file__} is "
            "of another one; remove that and install fair-esm"
        )


def _prepared(path: str, record: Record, options: Options) -> tuple[Record, str]:
    """Return a record and its letters as the alphabet has them, checked, not yet cut."""
    check_letters(path, record, LETTERS, "which is no letter of a protein")
    sequence = record.sequence.upper()
    if options.strip_stop and sequence.endswith("*"):
        sequence = sequence[:-1]
    if not sequence:
        raise InputError(f"{path}: the record {record.id!r} has no residues")
    if len(sequence) > options.max_length and not options.truncate:
        raise InputError(_too_long(path, record.id, len(sequence), options.max_length))
    return record, sequence


def _too_long(path: str, name: str, length: int, limit: int) -> str:
    trained = ", as ESM-2 was trained on" if limit == TRAINED_LENGTH else ""
    return (
        f"{path}: the record {name!r} has {length} residues; max_length is {limit}{trained}. "
        "Remove it, set long_sequences to 'truncate' to embed its start, or raise max_length"
    )


def _report_truncated(path: str, records: Sequence[tuple[Record, str]], options: Options) -> None:
    cut = [record.id for record, sequence in records if len(sequence) > options.max_length]
    if cut:
        names = ", ".join(cut[:5]) + (", ..." if len(cut) > 5 else "")
        logger.warning(
            "%s: truncated to %d residues: %d of %d sequences (%s)",
            path,
            options.max_length,
            len(cut),
            len(records),
            names,
        )


def _letter_tokens(alphabet: Any) -> Any:
    """Return the token of every byte, int64 of shape (256,)."""
    import numpy as np

    tokens: Any = np.full(256, alphabet.unk_idx, np.int64)
    for letter in ALPHABET:
        tokens[ord(letter)] = alphabet.get_idx(letter)
    return tokens


def _results(
    states: dict[int, Tensor], layers: Sequence[int], lengths: Sequence[int], pool: str
) -> list[Arrays]:
    """Cut a batch's hidden states into each sequence's own arrays."""
    import torch

    from snakemake_executor_gpupool.tools.esm2_forward import residue_means

    results: list[Arrays] = [{} for _ in lengths]
    for layer in layers:
        hidden = states[layer]
        if pool == "mean":
            rows = residue_means(hidden, torch.tensor(lengths, device=hidden.device)).cpu().numpy()
        else:
            padded = hidden.cpu().numpy()
            rows = [row[1 : length + 1] for row, length in zip(padded, lengths)]
        for result, row in zip(results, rows):
            result[f"layer{layer}"] = row.copy()
    return results
