"""One stage of a chain by itself, in the worker that holds the chain's models.

::

    coordinator → worker     step {batch, stage, keys, known, head, store, item_limit_s, load_next}
                                                                               [params, payload...]
    worker → coordinator     stage {batch, stage, last, chains, computed, load_s, lost, ...}
                                                                               [result...]

While a worker loads a model it does nothing else. So where one is still to be loaded and that takes
long, short requests go one stage at a time: here they are computed, and while the next model is
loaded, other processes write the outputs, and read them for the jobs that follow. ``known`` are
positions of items whose blobs are their results, ``computed`` those that have one now. What has
failed is served by itself, where errors are reported.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.payload import load_payload, pack
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.chain import Packed
from snakemake_executor_gpupool.worker.chain_models import ChainModels
from snakemake_executor_gpupool.worker.chain_results import StageResults
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.memory import peak_memory_mib
from snakemake_executor_gpupool.worker.run_store import RunStore


class StageSteps:
    """Computes stages by themselves, with the models and results that dispatches of several have.

    Parameters
    ----------
    stages
        How many stages the chain has.
    """

    def __init__(
        self,
        channel: Channel,
        spool: Spool,
        models: ChainModels,
        results: StageResults,
        store: RunStore,
        stages: int,
    ) -> None:
        self._channel = channel
        self._spool = spool
        self._models = models
        self._results = results
        self._store = store
        self._stages = stages

    def run(self, frame: Frame, device: str, *, is_refused: bool) -> None:
        """Compute the items of a ``step`` frame, none if it ``is_refused``, and answer it."""
        meta = frame.meta
        loaded = {} if is_refused else self._loaded(meta["stage"])
        started_s, self._results.computed_s = time.perf_counter(), 0.0
        found: dict[str, Packed] = {}
        if not is_refused and "lost" not in loaded:
            with contextlib.suppress(Exception):  # serving the jobs one by one reports the error
                found = self._computed(frame)
        places = [place for place, key in enumerate(meta["keys"]) if key in found]
        with self._spool.bundle() as bundle:
            for place in places:
                bundle.add(found[meta["keys"][place]].parts)
            blobs = bundle.take()
        answer = {"type": "stage", "batch": meta["batch"], "stage": meta["stage"], "last": True}
        answer |= {"chains": [], "computed": places, **loaded}
        answer |= {"computed_s": self._results.computed_s, "peak_mib": peak_memory_mib(device)}
        self._channel.send({**answer, "seconds": time.perf_counter() - started_s}, blobs)
        following = meta["stage"] + 1
        if meta["load_next"] and places and following < self._stages:
            self._load_ahead(following)

    def _loaded(self, stage: int) -> dict[str, Any]:
        """Load a stage's model if it is not there; return what is said of that."""
        try:
            return self._models.load_later(stage)
        except Exception:  # serving the jobs one by one reports the error
            return {"lost": True}

    def _computed(self, frame: Frame) -> dict[str, Packed]:
        meta, params = frame.meta, load_payload(frame.blobs[0])
        known: dict[str, Packed] = {}
        items: dict[str, Any] = {}
        are_known = set(meta["known"])
        for place, (key, blob) in enumerate(zip(meta["keys"], frame.blobs[1:])):
            if place in are_known:
                known[key] = Packed(pack(load_payload(blob)))
            elif key not in items:
                items[key] = load_payload(blob)
        kept = self._store.of(frame)
        stage, limit_s = meta["stage"], meta["item_limit_s"]
        return self._results.of(stage, meta["head"], params, items, known, kept, limit_s)

    def _load_ahead(self, stage: int) -> None:
        """Load a model that is needed next, unless there is more to do before."""
        if self._channel.waiting() is None:
            self._models.load_ahead(stage)
