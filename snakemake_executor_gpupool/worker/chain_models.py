"""The models of a chain in one process: the first at once, the others when they are needed.

What the stages before have made can be used while a later stage's model is loaded, as if it had a
process of its own.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.payload import pack
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.batch import run_batch
from snakemake_executor_gpupool.worker.chain import Packed, tried_first
from snakemake_executor_gpupool.worker.chain_threads import ChainThreads
from snakemake_executor_gpupool.worker.describe import batch_budget, describe_model, versions
from snakemake_executor_gpupool.worker.import_time import ImportTime
from snakemake_executor_gpupool.worker.loaded import LoadedTool, RestoredTools, for_files
from snakemake_executor_gpupool.worker.memory import settle_memory
from snakemake_executor_gpupool.worker.numerics import claim_kind, is_of_kind
from snakemake_executor_gpupool.worker.observed import OBSERVER


class ChainModels:
    """Loads each model once, however many stages need it, and computes with them.

    Parameters
    ----------
    classes
        The tool of each stage.
    require_unchanged
        Raises if the process has imported other code than it was to.

    Attributes
    ----------
    tools
        Of the stages whose models are loaded.
    idents
        The identity of each one's model, as file processes describe it; empty: it has changed.
    imported_s
        How much of the last load was importing.
    """

    def __init__(
        self,
        classes: list[type[Tool]],
        restored: RestoredTools,
        spool: Spool,
        require_unchanged: Callable[[Callable[[], Tool]], None],
    ) -> None:
        self._classes = classes
        self._restored = restored
        self._spool = spool
        self._require_unchanged = require_unchanged
        self._params: list[dict[str, Any]] = []
        self._device = "cpu"
        self._by_model: dict[str, LoadedTool] = {}
        self._threads = ChainThreads()
        self.tools: dict[int, LoadedTool] = {}
        self.idents: dict[int, str] = {}
        self.imported_s = 0.0
        #: What loading took that was not told of yet.
        self._unsaid: dict[int, dict[str, Any]] = {}
        #: Loads that have failed, which was not told of yet.
        self._failed: dict[int, str] = {}

    def start(self, params: list[dict[str, Any]], device: str) -> Tool:
        """Load the first stage's model, and return its tool; ``params`` are those of all stages."""
        self._params, self._device = params, device
        self.tools, self.idents, self._by_model = {}, {}, {}
        self._unsaid, self._failed = {}, {}
        self._load(0)
        return self.tools[0].show(params[0])

    def _load(self, stage: int) -> None:
        tool_class, params = self._classes[stage], self._params[stage]
        reader = for_files(tool_class, params)
        model = describe_model(reader)["model"]
        if model not in self._by_model:
            self._restored.restore(tool_class)
            with OBSERVER.watching():
                loaded = LoadedTool(tool_class, params)
                with ImportTime() as imports:
                    loaded.load(self._device)
            self.imported_s = imports.seconds
            claim_kind(self._spool.shared_directories, self._device)
            self._by_model[model] = loaded
        self._require_unchanged(lambda: reader)
        # If the code or weights have changed meanwhile, results are not kept.
        is_same = describe_model(reader)["model"] == model
        self.tools[stage] = self._by_model[model]
        self.idents[stage] = model if is_same and is_of_kind() else ""

    def load_later(self, stage: int) -> dict[str, Any]:
        """Load a later stage's model; return what that took, nothing if it was there."""
        error = self._failed.pop(stage, None)
        if error is not None:
            raise RuntimeError(error)
        if stage in self.tools:
            return self._unsaid.pop(stage, {})
        started_s = time.perf_counter()
        self._load(stage)
        settle_memory()
        return {"load_s": time.perf_counter() - started_s, "versions": versions()}

    def load_ahead(self, stage: int) -> None:
        """Load a later stage's model before it is needed; :meth:`load_later` tells of it then."""
        try:
            took = self.load_later(stage)
        except Exception as error:
            self._failed[stage] = f"{type(error).__name__}: {error}"
        else:
            if took:
                self._unsaid[stage] = took

    def compute(
        self, stage: int, params: dict[str, Any], items: dict[str, Any], limit_s: float | None
    ) -> tuple[dict[str, Packed], float]:
        """Compute a stage's items in its micro-batches.

        Return the result of each item that has one, of some if an item takes longer than
        ``limit_s``, and how many seconds they took, as a rule.
        """
        loaded = self.tools[stage]
        tool = loaded.show(params)
        keys, values = list(items), list(items.values())
        batches: Iterable[list[int]] = [list(range(len(values)))]
        if loaded.same_bits is None:  # else it chooses its own batches
            reader = for_files(self._classes[stage], params)
            batches = reader.micro_batches(values, batch_budget(tool, self._device))
            batches = batches if limit_s is None else tried_first(batches)
        computed: dict[str, Packed] = {}
        times_s: list[float] = []
        # A reproducible run has said with how many threads.
        chooses_threads = loaded.same_bits is None and self._device == "cpu"
        for batch in batches:
            if chooses_threads:
                self._threads.settle(stage)
            started_s = time.perf_counter()
            outcomes = run_batch(tool, [values[i] for i in batch], loaded.same_bits)
            for index, outcome in zip(batch, outcomes):
                with contextlib.suppress(Exception):  # serving the job by itself reports the error
                    if outcome.error is None:
                        computed[keys[index]] = Packed(pack(outcome.result), outcome.result)
            times_s.append(time.perf_counter() - started_s)
            if chooses_threads:
                self._threads.took(stage, len(batch), times_s[-1])
            item_s = times_s[-1] / len(batch)
            if limit_s is not None and len(times_s) == 2 and item_s > limit_s:
                break  # several processes do the others sooner
        if limit_s is not None and len(times_s) > 1 and len(computed) > 1:
            # The first one also had what is done only once.
            return computed, sum(times_s[1:]) * len(computed) / (len(computed) - 1)
        return computed, sum(times_s)

    def move(self, device: str) -> None:
        """Move all that are loaded to another device."""
        for tool in self._by_model.values():
            tool.move(device)
        self._device = device
