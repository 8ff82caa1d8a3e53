"""A tool and its sample input, and the runs that the probes compare."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.compare import same
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Params
from snakemake_executor_gpupool.worker.cold import check_length
from snakemake_executor_gpupool.worker.describe import describe_item

#: How many items are also computed alone, in reverse and a second time.
SAMPLE_ITEMS = 8


@dataclass
class Trial:
    """One tool tried on the input of one job.

    Attributes
    ----------
    varied
        (param, value) pairs to try beside the job's own params.
    tolerance
        By how much two results may differ, relative to the larger of 1 and their size.
    notes
        What is worth saying but breaks nothing.
    """

    tool_class: type[Tool]
    job: Job
    spec: str
    device: str = "cpu"
    tolerance: float = 1e-4
    varied: Sequence[tuple[str, Any]] = ()
    notes: list[str] = field(default_factory=list)

    def same(self, one: Any, other: Any) -> bool:
        """Tell whether two results agree."""
        return same(one, other, self.tolerance)

    # -- the input -------------------------------------------------------------------
    @functools.cached_property
    def items(self) -> list[Any]:
        """The job's items."""
        return list(self.tool_class(self.job.params).read(self.job))

    @functools.cached_property
    def metas(self) -> list[dict[str, Any]]:
        """Key, cost, tokens and name of each item."""
        tool = self.tool_class(self.job.params)
        return [describe_item(tool, item, place) for place, item in enumerate(self.items)]

    def name(self, place: int) -> str:
        """Return what messages call an item."""
        return f"item {self.metas[place]['name']}"

    @functools.cached_property
    def sample(self) -> list[int]:
        """The places of a few different items, spread evenly from the least tokens to the most."""
        first: dict[str, int] = {}
        for place, item in enumerate(self.items):
            first.setdefault(content_hash(item), place)
        places = sorted(first.values(), key=lambda place: self.metas[place]["tokens"])
        if len(places) <= SAMPLE_ITEMS:
            return sorted(places)
        step = (len(places) - 1) / (SAMPLE_ITEMS - 1)
        return sorted({places[round(step * number)] for number in range(SAMPLE_ITEMS)})

    # -- the model -------------------------------------------------------------------
    @functools.cached_property
    def tool(self) -> Tool:
        """The tool, loaded."""
        return self.load({})

    def load(self, changes: dict[str, Any]) -> Tool:
        """Return another instance of the tool, loaded, with some params changed."""
        tool = self.tool_class({**self.job.params, **changes})
        tool.device = self.device
        tool.load(self.device)
        return tool

    def with_params(self, changes: dict[str, Any]) -> Params:
        """Return the params that ``run`` sees if some are changed."""
        return Params({**self.tool_class.defaults, **self.job.params, **changes})

    # -- runs ------------------------------------------------------------------------
    def run(self, tool: Tool, places: Sequence[int]) -> list[Any]:
        """Compute the items at ``places`` in that order, as many at once as a batch takes."""
        results: list[Any] = []
        for batch in self._batches(tool, places):
            outcome = tool.run([self.items[place] for place in batch])
            check_length(tool, outcome, len(batch))
            results.extend(outcome)
        return results

    def _batches(self, tool: Tool, places: Sequence[int]) -> Iterator[list[int]]:
        budget = tool.batch_tokens(self.device)
        batch: list[int] = []
        for place in places:
            sizes = [self.metas[other]["tokens"] for other in (*batch, place)]
            taken = max(sizes) * len(sizes) if tool.pads else sum(sizes)
            if batch and taken > budget:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    @functools.cached_property
    def results(self) -> list[Any]:
        """The results of all items, in batches."""
        return self.run(self.tool, range(len(self.items)))

    def alone(self, tool: Tool) -> dict[int, Any]:
        """Compute each item of the sample alone."""
        return {place: self.run(tool, [place])[0] for place in self.sample}
