"""A tool, the jobs it is tested on, and the runs that the probes compare."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.frontends.commandline.check.compare import Comparison
from snakemake_executor_gpupool.frontends.commandline.check.fresh import FreshProcess, packed
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.contract import checked_run, items_of
from snakemake_executor_gpupool.tool_api.micro_batches import cut
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Params
from snakemake_executor_gpupool.wire.payload import load_bytes
from snakemake_executor_gpupool.worker.describe import (
    Described,
    batch_budget,
    describe_item,
    describe_model,
)
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files

#: How many items are also computed alone, in other orders, with others, and in other processes.
SAMPLE_ITEMS = 8
#: At least so many of each job among them, if it has that many.
SAMPLE_ITEMS_OF_JOB = 2
#: Models that are loaded side by side; jobs of others are only read.
MAX_MODELS = 3
#: A fresh process may take this long, or :data:`LIMIT_FACTOR` times as long as everything before.
MIN_LIMIT_S = 60.0
LIMIT_FACTOR = 10.0


class WrongCount(ContractError):
    """``run`` returned no list, or not one result per item."""


@dataclass(eq=False)
class Item:
    """One item of one job.

    Attributes
    ----------
    job, place
        The job's number, and the item's place in it.
    meta
        Its ``key``, ``cost``, ``tokens`` and ``name``.
    label
        What messages call it.
    """

    job: int
    place: int
    value: Any
    meta: Described
    label: str

    def __str__(self) -> str:
        return self.label

    @functools.cached_property
    def data(self) -> bytes:
        """The item as it crosses between processes."""
        return packed(self.value)


@dataclass(eq=False)
class Trial:
    """One tool tested on the inputs of some jobs.

    Attributes
    ----------
    spec
        The tool's name, resolved: another process finds the same class by it.
    search_path
        ``sys.path`` of that process.
    titles
        What messages call the jobs.
    tolerance
        By how much two results may differ; see :class:`.compare.Comparison`.
    varied
        (param, value) pairs to try beside the jobs' own params.
    from_rule
        The jobs come from a Snakefile, so options cannot supply what they lack.
    directories, touched
        Outputs that are a ``directory()``, and those that Snakemake makes itself.
    warnings, notes
        Possible problems that cannot be tested, and remarks on harmless oddities.
    """

    tool_class: type[Tool]
    jobs: Sequence[Job]
    spec: str
    search_path: Sequence[str] = ()
    titles: Sequence[str] = ("the job",)
    device: str = "cpu"
    tolerance: float = 1e-4
    varied: Sequence[tuple[str, Any]] = ()
    from_rule: bool = False
    directories: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    def remark(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def fresh(self) -> FreshProcess:
        """What asks the tool in processes of its own."""
        so_far_s = time.monotonic() - self.started_s
        return FreshProcess(self.spec, self.search_path, MIN_LIMIT_S + LIMIT_FACTOR * so_far_s)

    # -- the inputs ------------------------------------------------------------------
    def reader(self, job: int) -> Tool:
        """Return a fresh instance, as the process that reads and writes files has it."""
        return for_files(self.tool_class, self.jobs[job].params)

    @functools.cached_property
    def items(self) -> list[Item]:
        """The items of all jobs, in order."""
        items = []
        for job in range(len(self.jobs)):
            tool = self.reader(job)
            for place, value in enumerate(items_of(tool, self.jobs[job])):
                meta = describe_item(tool, value, place)
                label = f"item {meta.name}"
                if len(self.jobs) > 1:
                    label += f" of {self.titles[job]}"
                items.append(Item(job, place, value, meta, label))
        return items

    def items_of(self, job: int) -> list[Item]:
        """Return one job's items."""
        return [item for item in self.items if item.job == job]

    @functools.cached_property
    def described(self) -> list[dict[str, Any]]:
        """Which model each job needs, and which jobs' items may share a batch."""
        return [
            describe_model(self.reader(number), job.output) for number, job in enumerate(self.jobs)
        ]

    def model(self, job: int) -> str:
        """Return which model a job needs."""
        return str(self.described[job]["model"])

    def batchmates(self, job: int) -> tuple[str, str]:
        """Return what jobs have in common whose items may share a batch."""
        return self.model(job), str(self.described[job]["group"])

    @functools.cached_property
    def models(self) -> list[str]:
        """The models that are tried, at most a few, of the jobs that have items, in their order."""
        return list(dict.fromkeys(self.model(item.job) for item in self.items))[:MAX_MODELS]

    @functools.cached_property
    def sample(self) -> list[Item]:
        """A few different items of each job, spread evenly from the smallest to the largest."""
        taken: list[Item] = []
        seen: set[Any] = set()
        most = max(SAMPLE_ITEMS // len(self.jobs), SAMPLE_ITEMS_OF_JOB)
        for job in range(len(self.jobs)):
            if self.model(job) in self.models:
                fresh: dict[Any, Item] = {}
                for item in self.items_of(job):
                    fresh.setdefault((self.batchmates(job), content_of(item.value)), item)
                chosen = _spread([item for key, item in fresh.items() if key not in seen], most)
                seen.update(key for key, item in fresh.items() if item in chosen)
                taken += chosen
        return taken

    # -- the model -------------------------------------------------------------------
    @functools.cached_property
    def _loaded(self) -> dict[str, Tool]:
        return {}

    def tool(self, job: int = 0) -> Tool:
        """Return the loaded instance that serves a job."""
        model = self.model(job)
        if model not in self._loaded:
            self._loaded[model] = self.load(job)
        return self._loaded[model]

    def tool_of(self, model: str) -> Tool:
        """Return the loaded instance of a model."""
        return self.tool(next(n for n in range(len(self.jobs)) if self.model(n) == model))

    def load(self, job: int, changes: Mapping[str, Any] | None = None) -> Tool:
        """Return another instance, loaded for a job, with some params changed."""
        holder = LoadedTool(self.tool_class, self.load_params(job, changes))
        holder.load(self.device)
        self._holders[holder.tool] = holder
        return holder.show(self.run_params(job, changes))

    @functools.cached_property
    def _holders(self) -> dict[Tool, LoadedTool]:
        return {}

    def move(self, tool: Tool, device: str) -> None:
        """Move a loaded instance, as a worker does."""
        self._holders[tool].move(device)

    def load_params(self, job: int, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the params that a worker that loads a job's model is given."""
        return {**self.jobs[job].params, **(changes or {})}

    def run_params(self, job: int, changes: Mapping[str, Any] | None = None) -> Params:
        """Return the params that ``run`` sees for a job's items."""
        params = {**self.tool_class.defaults, **self.jobs[job].params, **(changes or {})}
        return Params(params)

    # -- runs ------------------------------------------------------------------------
    def call(
        self, tool: Tool, items: Sequence[Item], changes: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Call ``run`` once as a worker does, whose items and results cross between processes."""
        copies = [load_bytes(item.data) for item in items]
        return [_travelled(result) for result in self.call_here(tool, items, copies, changes)]

    def call_here(
        self,
        tool: Tool,
        items: Sequence[Item],
        values: Sequence[Any],
        changes: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Call ``run`` once with these values of some items; return its very results."""
        shown = self._holders[tool].show(self.run_params(items[0].job, changes))
        try:
            return checked_run(shown, list(values))
        except ContractError as error:
            raise WrongCount(str(error)) from None

    def batches(self, tool: Tool, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Cut items into batches within the tool's token budget, in this order."""
        budget = batch_budget(tool, self.device)
        for batch in cut([item.meta.tokens for item in items], budget, tool.pads):
            yield [items[position] for position in batch]

    def alone(
        self, tool: Tool, items: Sequence[Item], changes: Mapping[str, Any] | None = None
    ) -> dict[Item, Any]:
        """Compute each item by itself."""
        return {item: self.call(tool, [item], changes)[0] for item in items}

    def sample_of(self, model: str) -> list[Item]:
        """Return the items of the sample that a model computes."""
        return [item for item in self.sample if self.model(item.job) == model]

    @functools.cached_property
    def twice(self) -> tuple[dict[Item, Any], dict[Item, Any]]:
        """The result of each item of the sample, alone, and computed again.

        Each model is asked before the next one is loaded.
        """
        first: dict[Item, Any] = {}
        again: dict[Item, Any] = {}
        for model in self.models:
            items = self.sample_of(model)
            if items:
                first |= self.alone(self.tool_of(model), items)
                again |= self.alone(self.tool_of(model), items)
        return first, again

    @property
    def base(self) -> dict[Item, Any]:
        """The result of each item of the sample, alone: what others are compared with."""
        return self.twice[0]

    def differing(self, results: Mapping[Item, Any]) -> Item | None:
        """Return the first item whose result is not the one that it had alone; None: none."""
        return next(
            (i for i, result in results.items() if not self.same(self.base[i], result)), None
        )

    @functools.cached_property
    def _comparison(self) -> Comparison:
        return Comparison(self.tolerance, self.base.values())

    def same(self, one: Any, other: Any) -> bool:
        """Tell whether two results agree."""
        return self._comparison.same(one, other)

    @functools.cache  # noqa: B019 - a trial lives as long as its process
    def results(self, job: int) -> list[Any]:
        """Return the results of all items of a job, in batches as the pool would make them.

        A batch that fails is computed item by item; another probe reports the failure.
        """
        items = self.items_of(job)
        results: dict[Item, Any] = {}
        for batch in self.pool_batches(items):
            try:
                results |= zip(batch, self.call(self.tool(job), batch), strict=True)
            except Exception:
                results |= self.alone(self.tool(job), batch)
        return [results[item] for item in items]

    def pool_batches(self, items: Sequence[Item]) -> list[list[Item]]:
        """Cut items that may share batches as the pool does: in order of their length."""
        if not items:
            return []
        tool = self.tool(items[0].job)
        values, budget = [item.value for item in items], batch_budget(tool, self.device)
        places = self.reader(items[0].job).micro_batches(values, budget)
        return [[items[place] for place in batch] for batch in places]


def _travelled(result: Any) -> Any:
    """Return a result as it arrives in another process; unchanged if it cannot be sent."""
    try:
        return load_bytes(packed(result))
    except Exception:
        return result


def content_of(value: Any) -> str:
    """Return an item's content as a hash; of one that cannot be pickled only its kind."""
    try:
        return content_hash(value)
    except Exception:
        return type(value).__qualname__


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return so many items, spread evenly from the fewest tokens to the most, in their order."""
    places = sorted(range(len(items)), key=lambda place: items[place].meta.tokens)
    if len(places) > most:
        step = (len(places) - 1) / (most - 1)
        places = sorted({places[round(step * number)] for number in range(most)})
    return [items[place] for place in sorted(places)]
