"""The public base class of a tool.

This module runs inside worker processes, possibly under the Python (>= 3.9) of a
rule's own environment: it imports nothing outside the standard library.

A tool's life, whoever calls it::

    tool = MyTool(params)         params: the job's own over the tool's defaults
    items = list(tool.read(job))

    tool = MyTool(params)         another object, in another process, for many jobs
    tool.load("cuda:0")           once per worker
    tool.params = ...; tool.run([item, item, ...])

    tool = MyTool(params)         another object again
    tool.write(job, results)      in the job's own item order
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.declared import DeclaredParams, given_names
from snakemake_executor_gpupool.tool_api.micro_batches import cut
from snakemake_executor_gpupool.tool_api.reproducible import (
    BatchShape,
    mode_here,
    next_rung,
    seed_from,
)
from snakemake_executor_gpupool.tool_api.short_requests import ShortTokens, short_tokens
from snakemake_executor_gpupool.tool_api.tolerance import Tolerance, Tolerances, tolerance_of
from snakemake_executor_gpupool.tool_api.values import Job, Params


class Tool:
    """One model and how to serve it.

    Subclass it in a script of the workflow or in a package. Only :meth:`read`,
    :meth:`run` and :meth:`write` are required; :meth:`load` is where weights are
    read, and where heavy imports belong, so that reading stays light.

    Attributes
    ----------
    params : Params
        The job's params, with :attr:`defaults` for missing ones. Set before every call; in
        :meth:`run` they are those of the current items. :meth:`read` and :meth:`write` see all
        of them, :meth:`load` and :meth:`run` only those that distinguish models, or items:
        reading another one there raises an error that names the line to add.
    device : str
        Where :meth:`load` or :meth:`to` last put the model: ``"cpu"`` or ``"cuda:0"``
        (logical index; a worker sees only its own devices). Several devices are
        separated by commas.
    batch_shape : BatchShape or None
        In a reproducible run of a tool with ``reproducible = "shape"``: how many items
        :meth:`run` has got (``rows``), and what to pad each of them to (``tokens``). Else None.
    """

    #: Params that choose the model: another value is another worker.
    reload_on: Sequence[str] = ("model",)
    #: Params for ``read`` and ``write`` alone (a format, a limit). They change items or files, so
    #: they neither reach ``run`` nor distinguish items.
    write_params: Sequence[str] = ()
    #: Default values of the tool's params. If this is not empty, other params (a rule's
    #: ``sample=...``, for example) are for ``read`` and ``write`` alone: ``load`` and ``run``
    #: cannot read them.
    defaults: Mapping[str, Any] = {}
    #: By how much an item's result may differ with the batch that it is computed in: one
    #: ``Tolerance(absolute, relative)``, or one for each value of the param ``precision``.
    #: ``Tolerance()``: not at all, to the bit. None: not known.
    tolerance: Tolerances = None
    #: False: every duplicate is computed by itself.
    deterministic: bool = True
    #: False: every micro-batch gets a fresh process, which ends after it.
    persistent: bool = True
    #: What the model can run on, the preferred first.
    devices: Sequence[str] = ("cuda", "cpu")
    #: How many devices one instance of the model needs.
    gpus_per_instance: int = 1
    #: The most tokens (padded, if ``pads``) of one micro-batch; a single item over it is refused.
    #: None: no bound.
    max_batch_tokens: int | None = None
    #: Up to how many tokens (items times the longest) a job is short: short jobs go before others,
    #: and through a chain of models in one dispatch. One number, or one for each value of the
    #: param ``precision``; 0: no job is. None: 128, and 1 for ``nf4`` (see :mod:`.merging`).
    max_short_tokens: ShortTokens = None
    #: Whether a batch is padded to its longest item.
    pads: bool = True
    #: Device memory that an instance needs, in MiB, if known.
    vram_mb: int | None = None
    #: Seconds. A micro-batch that takes longer than this, and longer than 20 times the estimate
    #: from its cost, counts as hung: its worker is killed and its items are tried again.
    batch_limit_s: float = 600.0
    #: How an item's result stays the same to the bit in a reproducible run, whatever shares its
    #: batch. ``"shape"``: :meth:`run` pads to :attr:`batch_shape`; ``"alone"``: it is called with
    #: one item at a time; ``"always"``: no result ever depends on the other items, in any bit;
    #: ``"never"``: it cannot. None: not said. The last two are refused in such a run.
    reproducible: str | None = None
    #: Version of the tool, for provenance and stores of results.
    version: str = "0"

    params: Params
    device: str
    batch_shape: BatchShape | None = None
    #: What finds an item's key where a pool, or a cold job, has created the object.
    _key_of: Any = None

    def __new__(cls, params: Mapping[str, Any] | None = None, *_: Any, **__: Any) -> Tool:
        """Set ``params`` and ``device``: a subclass's ``__init__`` need not call this one's."""
        tool = super().__new__(cls)
        tool._take(params if isinstance(params, Mapping) else None)
        tool.device = "cpu"
        return tool

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        if params is not None:
            self._take(params)

    def _take(self, params: Mapping[str, Any] | None) -> None:
        if isinstance(params, DeclaredParams):
            self.params = params.over(self.defaults)
        else:
            self.params = Params({**self.defaults, **(params or {})})

    # -- the model ---------------------------------------------------------
    def load(self, device: str) -> None:
        """Read the weights and put them on ``device``. Called once per worker."""

    def run(self, items: list[Any]) -> list[Any]:
        """Compute one result per item, in the same order.

        Return a list, a generator, or an array or tensor whose first axis is that of the items.
        Anything else fails all jobs of the tool at once.

        Results travel between processes: numpy arrays, tensors on the CPU and
        plain values do; device tensors and open files do not.
        """
        raise _lacking(self, "run")

    # -- the files ---------------------------------------------------------
    def read(self, job: Job) -> Iterable[Any]:
        """Yield or return the job's items, in order. Called without a loaded model."""
        raise _lacking(self, "read")

    def write(self, job: Job, results: list[Any]) -> None:
        """Write ``job.output``, all of it and nothing else, from one result per item.

        The results are in the order of ``read``.
        """
        raise _lacking(self, "write")

    def item(self, value: Any) -> Any:
        """Return the item for a value given to the Python API; by default the value itself."""
        return value

    def items_of_call(self, values: Sequence[Any]) -> list[Any]:
        """Return the items of one call of the Python API: :meth:`item` of each value."""
        return [self.item(value) for value in values]

    def results_of_call(self, items: list[Any], results: list[Any]) -> list[Any]:
        """Return what the Python API returns for the items of a call; by default their results."""
        return results

    # -- what the pool should know of an item --------------------------------
    def key(self, item: Any) -> bytes | str:
        """Return an item's key, by default its whole content; equal keys mean duplicates."""
        return content_hash(item)

    def name(self, item: Any) -> str:
        """Return an item's name for messages; empty: its position is used."""
        return ""

    def cost(self, item: Any) -> float:
        """Return the relative cost of an item, the weight in load balancing."""
        return 1.0

    def tokens(self, item: Any) -> int:
        """Return how many tokens of a micro-batch's budget an item takes."""
        return 1

    def batch_tokens(self, device: str) -> int:
        """Return the initial token budget of a micro-batch on that kind of device."""
        return self.max_batch_tokens or 64

    # -- a reproducible run, and randomness --------------------------------------
    def rung(self, item: Any) -> int:
        """Return the length that an item is padded to in a reproducible run.

        It may depend on the item, and on the params of model and run, and on nothing else. Called
        with and without a loaded model; the two may differ, the one with a model counts.
        """
        return next_rung(self.tokens(item))

    def shape_tokens(self, device: str) -> int:
        """Return how many tokens a batch has in a reproducible run: the rows of each rung.

        A batch of a rung has ``shape_tokens // rung`` rows, at least one. It may depend on params
        and on the kind of device, and on nothing else: not on how much memory is free. By default
        half of :meth:`batch_tokens`: fewer rows are filled up where items do not fill them.
        """
        return max(self.batch_tokens(device) // 2, 1)

    def seed_of(self, item: Any) -> int:
        """Return an item's seed, for :meth:`run` to draw random numbers from.

        It is made from the item's key and the run's seed (``--gpupool-seed``): the same wherever
        and whenever the item is computed. From 0 to 2**63 - 1.
        """
        key = self.key(item) if self._key_of is None else self._key_of(self, item)
        return seed_from(mode_here().seed, key)

    # -- what makes the model --------------------------------------------------
    def extra_model_files(self) -> Iterable[Any]:
        """Return paths of further files of the model, which no param names.

        For example files beside a named one, or those that a library finds by a prefix. Their
        content then identifies the model, as that of files named by params in :attr:`reload_on`
        always does. Called in the process that reads inputs, for every job; a missing file counts
        as missing.
        """
        return ()

    # -- derived -------------------------------------------------------------
    def model_params(self) -> dict[str, Any]:
        """Return the params that choose the model."""
        return {name: self.params.get(name) for name in self.reload_on}

    def run_params(self) -> dict[str, Any]:
        """Return the params that affect :meth:`run` beyond those of the model."""
        given = given_names(self.params)
        known = given & set(self.defaults) if self.defaults else given
        left_out = {*self.reload_on, *self.write_params, "gpupool_tool"}
        return {name: self.params[name] for name in sorted(known - left_out)}

    def short_tokens(self) -> int:
        """Return up to how many tokens a job is short, at its precision."""
        return short_tokens(self.max_short_tokens, str(self.params.get("precision", "")).lower())

    def result_tolerance(self) -> Tolerance | None:
        """Return by how much results may differ, at the job's precision; None: not known.

        Override it where other params matter: it may read all of them.
        """
        return tolerance_of(self.tolerance, str(self.params.get("precision", "")).lower())

    # -- cold ------------------------------------------------------------------
    @classmethod
    def main(cls, snakemake: Any) -> None:
        """Do the job of a Snakemake ``script:`` cold: load, read, run, write.

        The last line of a script that holds a tool: ``MyTool.main(snakemake)``. Nothing
        happens while the pool loads the script for its class, when ``snakemake`` is None.
        """
        if snakemake is None:
            return
        from snakemake_executor_gpupool.worker.cold import run_script

        run_script(cls, snakemake)

    def micro_batches(self, items: Sequence[Any], budget: int) -> Iterator[list[int]]:
        """Yield index lists of micro-batches, longest items first, within a token budget."""
        tokens = [self.tokens(item) for item in items]
        order = sorted(range(len(items)), key=lambda index: -tokens[index])
        for batch in cut([tokens[index] for index in order], budget, self.pads):
            yield [order[position] for position in batch]


def _lacking(tool: Tool, name: str) -> ContractError:
    from snakemake_executor_gpupool.tool_api.methods import missing_method

    kind: Any = type(tool)
    return ContractError(missing_method(kind, Tool, (name,)))
