"""``esmfold``: structures of the proteins in a FASTA file, on transformers' ESMFold.

The top level imports the standard library only: reading a FASTA file happens in
a process that never loads torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.memory import is_out_of_memory, release_memory
from snakemake_executor_gpupool.tool_api.reproducible import mode_here
from snakemake_executor_gpupool.tool_api.tolerance import Tolerance
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.tools import hub
from snakemake_executor_gpupool.tools.esmfold_chains import (
    CHAIN_BREAK,
    MAX_CHAINS,
    RESIDUES,
    UNKNOWN,
    giga_sums,
    join_chains,
    joined_length,
)
from snakemake_executor_gpupool.tools.fasta import (
    Record,
    both_cases,
    check_letters,
    read_fasta,
)
from snakemake_executor_gpupool.tools.finite import damaged_parts, not_finite
from snakemake_executor_gpupool.tools.params import (
    PRECISIONS,
    choice,
    flag,
    named,
    one_file,
    optional_whole,
    seen_by_load,
    seen_by_run,
    text,
    whole,
)
from snakemake_executor_gpupool.tools.structures import (
    Structure,
    check_target,
    is_plausible,
    write_structures,
)
from snakemake_executor_gpupool.tools.tables import table_format, write_table

logger = logging.getLogger(__name__)

NAME = "esmfold"
#: ``linker`` and ``residue_offset`` are fair-esm's (``esm/esmfold/v1/esmfold.py``).
DEFAULTS: dict[str, Any] = {
    "model": "facebook/esmfold_v1",
    "precision": "fp32",
    "num_recycles": None,
    "chunk_size": None,
    "linker": 25,
    "residue_offset": 512,
    "strip_stop": False,
}
#: Budgets of a micro-batch in pairs of residues, which memory and most of the time go with. A CPU
#: gains nothing from batches of more than a few peptides.
CPU_PAIRS, CUDA_PAIRS = 128**2, 1024**2
#: In Å, points of pLDDT, and pTM; 0.01 is what the formats show of a pLDDT. Whatever the precision
#: of the language model, it reads each protein by itself, and the trunk's sums are those of fp32:
#: measured, at most 1.2e-5 of an array's largest number.
TOLERANCE = Tolerance(0.01, 1e-4)
IMPLAUSIBLE = "coordinates or scores that are not finite numbers, or too large for a protein"
#: What may be in a sequence, in upper and lower case.
LETTERS = both_cases(RESIDUES | UNKNOWN | {CHAIN_BREAK})
#: Attention over fewer rows at a time saves no more memory worth having.
SMALLEST_CHUNK = 4


class Options(NamedTuple):
    """The params of one job.

    Attributes
    ----------
    model
        Directory of a model, or the name of a repository on the Hugging Face hub.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: the type of the language model's weights.
    num_recycles
        Recycles of the trunk; None: what the model's settings say.
    chunk_size
        Rows that attention over pairs takes at a time; 0: all; None: what the settings say.
    linker
        Glycines between chains.
    residue_offset
        By how much position indices jump between chains.
    strip_stop
        Whether one ``*`` at the end of a sequence is removed.
    """

    model: str
    precision: str
    num_recycles: int | None
    chunk_size: int | None
    linker: int
    residue_offset: int
    strip_stop: bool

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
            num_recycles=optional_whole(params, "num_recycles", at_least=0),
            chunk_size=optional_whole(params, "chunk_size", at_least=0),
            linker=whole("linker", params["linker"], at_least=0),
            residue_offset=whole("residue_offset", params["residue_offset"], at_least=0),
            strip_stop=flag(params, "strip_stop"),
        )


class EsmFold(Tool):
    """Structures of every protein or complex of a FASTA file.

    Input ``fasta`` (or the first): proteins, plain or gzip; chains of a complex are
    parted by ``:``. Output ``structures`` (or the first): a ``.pdb`` or ``.cif`` file,
    a list of such files, or a directory; ``table``, if asked for: ``.tsv`` or ``.parquet``. The
    user reference is ``docs/tools/esmfold.md``.

    An item is a :class:`~snakemake_executor_gpupool.tools.fasta.Record`, a result a
    :class:`~snakemake_executor_gpupool.tools.structures.Structure`.
    """

    reload_on = ("model", "precision")
    write_params = ("strip_stop",)
    defaults = DEFAULTS
    devices = ("cuda", "cpu")
    pads = True
    batch_limit_s = 3600.0
    tolerance = TOLERANCE
    reproducible = "alone"
    version = "3"

    _model: Any = None
    _own_chunk_size: int | None = None

    # -- the model ---------------------------------------------------------
    def load(self, device: str) -> None:
        """Read the weights and put them on ``device``.

        Raises
        ------
        InputError
            There are no such weights; the message says where to put them.
        """
        for package in ("torch", "transformers"):
            hub.library(package, NAME, package)
        from snakemake_executor_gpupool.tools.esmfold_forward import load_model

        options = Options.from_params(seen_by_load(self))
        self._model = load_model(options.model, options.precision)
        self._own_chunk_size = self._model.trunk.chunk_size
        self.to(device)

    def to(self, device: str) -> None:
        """Move the weights to another device and give the old one's memory back."""
        import torch

        self._model.to(device)
        self.device = device
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def run(self, items: list[Record]) -> list[Structure]:
        """Fold proteins that share a batch.

        One that does not fit into memory alone is tried again with smaller chunks, unless the
        run is reproducible: how much memory is free must not tell on a structure.

        Raises
        ------
        InputError
            Coordinates or scores are not finite, or too large for a protein.
        """
        options = Options.from_params(seen_by_run(self))
        lengths = [joined_length(item.sequence, options.linker) for item in items]
        chunk = self._own_chunk_size if options.chunk_size is None else options.chunk_size
        while True:
            try:
                return self._fold(items, options, chunk or None)
            except Exception as error:
                chunk = min(chunk or max(lengths), max(lengths)) // 2
                is_final = len(items) > 1 or chunk < SMALLEST_CHUNK or mode_here().is_reproducible
                if is_final or not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback would keep the failed call's tensors alive.
            release_memory()
            logger.warning("%s: out of memory; again, %d rows at a time", items[0].id, chunk)

    def _fold(
        self, items: list[Record], options: Options, chunk_size: int | None
    ) -> list[Structure]:
        from snakemake_executor_gpupool.tools.esmfold_forward import fold

        proteins = [join_chains(i.sequence, options.linker, options.residue_offset) for i in items]
        structures = fold(self._model, proteins, options.num_recycles, chunk_size)
        bad = [item.id for item, structure in zip(items, structures) if not is_plausible(structure)]
        if bad:
            parts = damaged_parts(self._model)
            raise not_finite(bad, options.model, options.precision, parts, IMPLAUSIBLE)
        return structures

    # -- the files -----------------------------------------------------------
    def read(self, job: Job) -> Iterator[Record]:
        """Yield the proteins, upper case, letters without atoms as ``X``.

        Raises
        ------
        InputError
            A param, an output's name, the file or a letter in it is wrong.
        """
        options = Options.from_params(self.params)
        path = one_file(NAME, job, "input", "fasta")
        records = [_prepared(path, record, options) for record in read_fasta(path)]
        check_target(_target(job), records)
        if job.output.get("table"):
            table_format(job.output.table)
        unknown = [record.id for record in records if "X" in record.sequence]
        if unknown:
            logger.warning(
                "%s: residues without a known kind are folded, but have no atoms: %d of %d "
                "sequences (%s)",
                path,
                len(unknown),
                len(records),
                ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else ""),
            )
        yield from records

    def write(self, job: Job, results: list[Structure]) -> None:
        """Write the structures, and the table if there is one, in the order of the input."""
        write_structures(_target(job), job.item_names, results)
        table = job.output.get("table")
        if table:
            columns: dict[str, list[Any]] = {
                "id": job.item_names,
                "chains": [len(result.chains) for result in results],
                "length": [sum(result.chains) for result in results],
                "mean_plddt": [float(result.plddt.mean()) for result in results],
                "ptm": [result.ptm for result in results],
            }
            write_table(table, columns)

    def item(self, value: Any) -> Record:
        """Return the record of a sequence, named by its start, or of an (id, sequence) pair.

        Raises
        ------
        InputError
            It is neither, or no protein; the message says which letter is none.
        """
        return _prepared(
            NAME, Record(*named(NAME, "sequences", value)), Options.from_params(self.params)
        )

    # -- what the pool should know of an item ----------------------------------
    def key(self, item: Record) -> str:
        """Return a hash of the sequence: records with other ids are duplicates all the same."""
        return content_hash(item.sequence)

    def name(self, item: Record) -> str:
        """Return the record's id."""
        return item.id

    def cost(self, item: Record) -> float:
        """Return what the published model would take, in 1e9 multiply-adds worth of time."""
        length = joined_length(item.sequence, int(self.params.linker))
        return giga_sums(length, optional_whole(self.params, "num_recycles", at_least=0))

    def tokens(self, item: Record) -> int:
        """Return the pairs of residues, linkers included: what memory goes with."""
        return joined_length(item.sequence, int(self.params.linker)) ** 2

    def batch_tokens(self, device: str) -> int:
        """Return the budget of a micro-batch, in pairs of residues."""
        return CPU_PAIRS if device == "cpu" else CUDA_PAIRS


def _target(job: Job) -> Any:
    return job.output.get("structures", job.output[0] if job.output else None)


def _prepared(path: str, record: Record, options: Options) -> Record:
    sequence = record.sequence
    if options.strip_stop and sequence.endswith("*"):
        sequence = sequence[:-1]
    check_letters(path, Record(record.id, sequence), LETTERS, "which is no amino acid")
    sequence = sequence.upper()
    chains = sequence.split(CHAIN_BREAK)
    if len(chains) > MAX_CHAINS:
        raise InputError(
            f"{path}: the record {record.id!r} has {len(chains)} chains; a PDB file names "
            f"{MAX_CHAINS} at most"
        )
    for chain in chains:
        if not RESIDUES.intersection(chain):
            raise InputError(
                f"{path}: the record {record.id!r} has a chain without any known residue "
                f"({chain or 'an empty one'}); chains are parted by single colons"
            )
    return Record(
        record.id, "".join(a if a in RESIDUES or a == CHAIN_BREAK else "X" for a in sequence)
    )
