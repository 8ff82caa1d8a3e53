"""The results of a stage of a chain: those that are known, and those that are computed for it.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.chain import Memory, Packed
from snakemake_executor_gpupool.worker.chain_models import ChainModels
from snakemake_executor_gpupool.worker.loaded import for_files
from snakemake_executor_gpupool.worker.observed import OBSERVER
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.run_store import RunStore


class StageResults:
    """Computes what is missing, and keeps it: in memory for later dispatches, and across runs.

    Parameters
    ----------
    classes
        The tool of each stage.
    require_unchanged
        Raises if the process has imported other code than it was to, or if tools have read what
        a reader and its items do not account for.

    Attributes
    ----------
    computed_s
        What the last ones took to compute, as a rule.
    """

    def __init__(
        self,
        classes: list[type[Tool]],
        models: ChainModels,
        store: RunStore,
        require_unchanged: Callable[..., None],
    ) -> None:
        self._classes = classes
        self._models = models
        self._store = store
        self._require_unchanged = require_unchanged
        self._remembered = Memory()
        self.computed_s = 0.0

    def of(
        self,
        stage: int,
        head: Sequence[str],
        params: dict[str, Any],
        items: Mapping[str, Any],
        known: Mapping[str, Packed],
        kept: KeptResults | None,
        limit_s: float | None,
    ) -> dict[str, Packed]:
        """Return the results of a stage's items, by their own keys; those that failed have none.

        Parameters
        ----------
        stage
            Its number in the chain.
        head
            What the keys of all results start with.
        known
            Results that were computed for other jobs.
        limit_s
            Where computing an item takes longer, only some are computed.

        Raises
        ------
        GpupoolError
            What was computed may not be used.
        """
        results, space = dict(known), (head[0], head[1], head[2])
        for key in items:
            remembered = self._remembered.get((*space, key))
            if key not in results and remembered is not None:
                results[key] = Packed(remembered)
        missing = {key: item for key, item in items.items() if key not in results}
        with OBSERVER.watching():
            computed, self.computed_s = self._models.compute(stage, params, missing, limit_s)
        reader, values = for_files(self._classes[stage], params), list(missing.values())
        self._require_unchanged()
        if kept is not None and computed and space[1] == self._models.idents[stage]:
            keys = [(*space, key) for key in computed]
            kept = self._store.to_write(kept, reader, keys, lambda: values)
        else:
            kept = None
        self._require_unchanged(lambda: reader, lambda: values)
        for key, packed in computed.items():
            if kept is not None:
                kept.keep((*space, key), packed.parts)
            self._remembered.keep((*space, key), packed.parts)
        results.update(computed)
        return results
