"""A worker that holds all models of a chain, and runs short requests through them at once.

::

    coordinator → worker     chain {batch, offset, store, chains, hashes, item_limit_s}
                                                       [job of each stage..., payload... of each]
    worker → coordinator     stage {batch, stage, chains, last, load_s, versions} [result...]
                                                                 one for each stage

``load_s`` and ``versions`` are there if the stage's model was loaded for it.

A dispatch goes from the stage number ``offset`` to the chain's end; :mod:`.chain_step` is of those
through one stage. The job of its first stage is ready: outputs are written under their own names.
The jobs that follow are not: Snakemake has not released them, and may still remove their old
outputs. Their outputs are staged, for the next stage to read, and for a file process to publish
once the job is ready, if its inputs still have the digests that are reported here. Those of the
last stage nobody here reads: a file process writes them from the results, once the job is ready, on
the same terms. Results also go to the coordinator, for equal items of other jobs. A chain that
fails at a stage, or is not short there, ends before it: the coordinator serves the rest job by job,
where errors are reported.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.tool_api.contract import all_items
from snakemake_executor_gpupool.tool_api.memory import release_memory
from snakemake_executor_gpupool.tool_api.short_requests import is_short
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.payload import load_payload
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.chain import (
    Chain,
    Packed,
    is_misplaced,
    known_results,
    unpack_chains,
)
from snakemake_executor_gpupool.worker.chain_models import ChainModels
from snakemake_executor_gpupool.worker.chain_results import StageResults
from snakemake_executor_gpupool.worker.chain_step import StageSteps
from snakemake_executor_gpupool.worker.channel import Channel, latency_of
from snakemake_executor_gpupool.worker.describe import (
    batch_budget,
    describe_item,
    group_of,
    versions,
)
from snakemake_executor_gpupool.worker.file_hashes import hashes_of
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.late_files import wait_for_blobs
from snakemake_executor_gpupool.worker.loaded import RestoredTools
from snakemake_executor_gpupool.worker.memory import peak_memory_mib, settle_memory
from snakemake_executor_gpupool.worker.observed import OBSERVER
from snakemake_executor_gpupool.worker.output_capture import job_log, tell_error
from snakemake_executor_gpupool.worker.outputs import outermost, staged_outputs
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.run_store import RunStore
from snakemake_executor_gpupool.worker.staging import (
    Staging,
    logs_put_back,
    size_bytes,
)
from snakemake_executor_gpupool.worker.staging_folders import StagingFolders
from snakemake_executor_gpupool.worker.unchanged import Unchanged
from snakemake_executor_gpupool.worker.written import Expected


class ChainServer:
    """The tools of a chain in one process, each with its model, and the answers to frames."""

    def __init__(
        self,
        channel: Channel,
        tool_classes: list[type[Tool]],
        spool: Spool,
        unchanged: Unchanged | None = None,
    ) -> None:
        self._unchanged = unchanged or Unchanged("")
        #: It has imported other code than it was to: requests are served job by job.
        self._is_spoiled = False
        self._channel = channel
        self._classes = tool_classes
        self._spool = spool
        self._restored = RestoredTools(tool_classes)
        self._store = RunStore(channel)
        require = self._require_unchanged
        self._models = ChainModels(tool_classes, self._restored, spool, require)
        self._device = "cpu"
        self._results = StageResults(tool_classes, self._models, self._store, require)
        parts = self._models, self._results, self._store, len(tool_classes)
        self._steps = StageSteps(channel, spool, *parts)
        #: By their roots: each run has one of its own.
        self._stagings: dict[str, Staging] = {}
        self._folders = StagingFolders()
        #: Whether to say what the content of the outputs of the first jobs is.
        self._hashes = False
        #: Which stage of the chain a dispatch begins at.
        self._offset = 0
        self._handlers: dict[str, Callable[[Frame], None]] = {
            "load": self._load,
            "move": self._move,
            "chain": self._run_chains,
            "step": self._run_step,
        }

    def handle(self, frame: Frame) -> None:
        """Answer one frame."""
        self._handlers[frame.type](frame)

    # -- the models ------------------------------------------------------------
    def _load(self, frame: Frame) -> None:
        self._device = frame.meta["device"]
        started_s = time.perf_counter()
        try:
            params_of_stages = [load_payload(params) for params in frame.blobs]
            # A request counts by its first stage; each stage forms its own micro-batches.
            first = self._models.start(params_of_stages, self._device)
            budget = batch_budget(first, self._device)
        except Exception as error:
            self._channel.send({"type": "load_failed", "error": tell_error(error)})
            return
        settle_memory()
        figures: dict[str, Any] = {
            "seconds": time.perf_counter() - started_s,
            "imported_s": self._models.imported_s,
            "batch_tokens": budget,
            "quick_tokens": 0,  # requests are gathered by what a dispatch costs
        }
        figures |= {"peak_mib": peak_memory_mib(self._device), "versions": versions()}
        self._channel.send({"type": "loaded", **figures})

    def _load_later(self, stage: int, chains: list[Chain]) -> dict[str, Any]:
        """Load a stage's model if requests have come so far; return what that took."""
        number = self._offset + stage
        try:
            return self._models.load_later(number) if any(c.is_whole for c in chains) else {}
        except Exception:  # serving the jobs by themselves reports the error
            for chain in chains:
                chain.is_whole = False
            return {"lost": True}

    def _move(self, frame: Frame) -> None:
        away = frame.meta["away"]
        try:
            self._models.move(frame.meta["device"])
            if away:
                release_memory()
        except Exception as error:
            self._channel.send({"type": "move_failed", "error": tell_error(error)})
            return
        self._channel.send({"type": "moved", "away": away})

    def _require_unchanged(
        self,
        reader: Callable[[], Tool] | None = None,
        items: Callable[[], Sequence[Any]] = tuple,
    ) -> None:
        """Compare with what was expected, and with a reader what tools have read besides.

        A process for which that does not hold does nothing any longer.
        """
        try:
            self._unchanged.require()
            if reader is not None:
                self._unchanged.reads.note(OBSERVER, reader, items)
        except GpupoolError:
            self._is_spoiled = True
            raise

    # -- a dispatch --------------------------------------------------------------
    def _run_step(self, frame: Frame) -> None:
        self._steps.run(frame, self._device, is_refused=self._is_refused(frame))

    def _is_refused(self, frame: Frame) -> bool:
        """Whether jobs are to be served one by one: there a missing file is reported."""
        wait_s = latency_of(frame)
        return self._is_spoiled or bool(wait_s and wait_for_blobs(frame.blobs, wait_s))

    def _run_chains(self, frame: Frame) -> None:
        self._offset = frame.meta["offset"]
        stages = len(self._classes) - self._offset
        chains = [] if self._is_refused(frame) else unpack_chains(frame, stages)
        self._hashes = frame.meta["hashes"]
        for stage in range(stages):
            if self._run_stage(stage, chains, frame.meta, self._store.of(frame)):
                return

    def _run_stage(
        self, stage: int, chains: list[Chain], meta: dict[str, Any], kept: KeptResults | None
    ) -> bool:
        """Run one stage of all intact chains, and report it; return whether it was the last."""
        loaded = self._load_later(stage, chains)
        started_s = time.perf_counter()
        whole = [chain for chain in chains if chain.is_whole]
        self._results.computed_s = 0.0
        self._compute(stage, whole, kept, meta.get("item_limit_s"))
        files_from_s = time.perf_counter()
        done: list[dict[str, Any]] = []
        for number, chain in enumerate(chains):
            self._guarded(chain, self._end_stage, number, done)
        is_last = not done or self._is_last(stage)
        with self._spool.bundle() as bundle:
            for each in done:
                for parts in chains[each["chain"]].parts:
                    bundle.add(parts)
            blobs = bundle.take()
        # Before anybody may look at what was written; where it is staged, nobody does.
        keep = self._next_places() if stage == 0 else ()
        self._folders.clear(keep, below=[os.path.abspath(root) for root in self._stagings])
        answer = {"type": "stage", "batch": meta["batch"], "stage": self._offset + stage, **loaded}
        ended_s, peak_mib = time.perf_counter(), peak_memory_mib(self._device)
        answer |= {"computed_s": self._results.computed_s, "files_s": ended_s - files_from_s}
        seconds = ended_s - started_s
        self._channel.send(
            {**answer, "last": is_last, "chains": done, "seconds": seconds, "peak_mib": peak_mib},
            blobs,
        )
        return is_last

    def _next_places(self) -> set[str]:
        """Return the directories that the next dispatch writes to, if there is one already."""
        frame = self._channel.waiting()
        if frame is None or frame.type != "chain" or not frame.meta["chains"]:
            return set()
        with contextlib.suppress(Exception):  # met again when it is its turn
            cwd, job = frame.meta["chains"][0]["cwd"], load_payload(frame.blobs[0])
            return {os.path.dirname(os.path.abspath(os.path.join(cwd, p))) for p in job.output}
        return set()

    def _end_stage(self, chain: Chain, number: int, done: list[dict[str, Any]]) -> None:
        """Write a stage's outputs, add its report, and read the next stage's inputs.

        Nothing here reads those of the last stage: a file process writes them for its job.
        """
        is_last = self._is_last(chain.stage)
        if not is_last:
            self._write_stage(chain)
        done.append(self._told_of(number, chain))
        if not is_last:
            # Before the stage is reported: publishing its outputs moves them.
            self._read_stage(chain, chain.stage + 1)

    def _is_last(self, stage: int) -> bool:
        return self._offset + stage + 1 == len(self._classes)

    def _class_of(self, stage: int) -> type[Tool]:
        return self._classes[self._offset + stage]

    @staticmethod
    def _guarded(chain: Chain, act: Any, *arguments: Any) -> None:
        """Do a step of an intact chain; an error ends the chain, and is not reported.

        Serving the job by itself meets the same error, and reports it.
        """
        if chain.is_whole:
            try:
                act(chain, *arguments)
            except Exception:
                chain.is_whole = False

    def _staging_of(self, chain: Chain) -> Staging:
        root = chain.meta["staged"]
        if root not in self._stagings:
            there = self._stagings.items()
            self._stagings = {known: each for known, each in there if os.path.isdir(known)}
            self._stagings[root] = Staging(root, chain.meta["lent"])
        return self._stagings[root]

    def _read_stage(self, chain: Chain, stage: int) -> None:
        if chain.view is None:
            staging = self._staging_of(chain)
            chain.view = staging.view(chain.meta["cwd"], chain.later_files())
        chain.stage = stage
        tool = self._restored.for_job(self._class_of(stage), chain.job)
        try:
            with chain.at_work() as job, job_log(job), explained_inputs(job):
                # Now that its inputs are there: params may name some of them.
                chain.take_digests(group_of(tool, job.output))
                items = all_items(tool, job)
                described = [
                    describe_item(tool, item, position) for position, item in enumerate(items)
                ]
                self._require_unchanged()
        except BaseException:
            chain.view.remove(chain.job.log)
            raise
        firsts: dict[str, int] = {}
        for position, each in enumerate(described):
            firsts.setdefault(each.key, position)
        chain.keys = list(firsts)
        chain.items = [items[position] for position in firsts.values()]
        places = {key: place for place, key in enumerate(firsts)}
        chain.order = [places[each.key] for each in described]
        chain.names = [each.name for each in described]
        tokens = [described[position].tokens for position in firsts.values()]
        is_brief = is_short(tokens, tool.short_tokens())
        chain.is_whole = is_brief and not is_misplaced(chain)
        if not chain.is_whole:
            chain.view.remove(chain.job.log)

    def _compute(
        self, stage: int, chains: list[Chain], kept: KeptResults | None, limit_s: float | None
    ) -> None:
        """Compute the stage's items of all chains in common batches, duplicates once."""
        if not chains:
            return
        head, params = chains[0].meta["models"][stage], chains[0].jobs[stage].params
        items = {key: item for chain in chains for key, item in zip(chain.keys, chain.items)}
        known = known_results(chains) if stage == 0 else {}
        place = self._offset + stage
        try:
            results = self._results.of(place, head, params, items, known, kept, limit_s)
        except GpupoolError:
            for chain in chains:
                chain.is_whole = False
            return
        for chain in chains:
            self._guarded(chain, self._take_results, results, not self._is_last(stage))

    @staticmethod
    def _take_results(chain: Chain, results: dict[str, Packed], is_written: bool = True) -> None:
        packed = [results[key] for key in chain.keys]  # one that failed ends the chain
        chain.parts = [each.parts for each in packed]
        chain.results = [packed[place].copy() for place in chain.order] if is_written else []

    # -- files -------------------------------------------------------------------
    def _write_stage(self, chain: Chain) -> None:
        """Write a stage's outputs, those of a job that is ready under their own names."""
        tool = self._restored.for_job(self._class_of(chain.stage), chain.job)
        updates = {chain.job.output[n]: source for n, source in chain.meta["updates"]}
        try:
            with chain.at_work() as job, logs_put_back(job), job_log(job, chain.log_text()):
                content = None if chain.stage else updates.get
                touched = frozenset(chain.meta["touched"][chain.stage])
                expected = Expected(type(tool).__name__, touched)
                with staged_outputs(job.output, content, expected, self._folders) as staged:
                    changes = {"params": tool.params, "item_names": chain.names}
                    tool.write(job.replace(output=staged, **changes), chain.results)
                    self._require_unchanged()
                    self._unchanged.reads.require_none_in(chain.meta["cwd"])
                    # Those of later stages are looked at when they are published.
                    if self._hashes and chain.stage == 0:
                        chain.note_first(hashes_of(staged))
            if chain.stage:
                self._note_written(chain)
        except BaseException:
            if chain.view is not None and chain.stage:
                chain.view.remove([*chain.job.output, *chain.job.log])
            raise

    @staticmethod
    def _note_written(chain: Chain) -> None:
        """Raise for outputs of a later stage that contain the path where they were written."""
        assert chain.view is not None
        places = {path: os.path.join(chain.view.path, path) for path in chain.job.output}
        chain.note_written(places, os.path.basename(chain.meta["staged"]).encode())

    def _told_of(self, number: int, chain: Chain) -> dict[str, Any]:
        """Return the report on a chain that has finished a stage."""
        fields = {"chain": number, "keys": chain.keys, "items": len(chain.order)}
        if chain.stage == 0:
            fields["written"] = chain.hashes
            return {**fields, "digests": [], "outputs": [], "logs": [], "bytes": 0}
        assert chain.view is not None
        staging = self._staging_of(chain)
        logs = staging.inner(chain.view, chain.job.log)
        fields.update({"digests": chain.digests, "logs": logs})
        if self._is_last(chain.stage):
            return {**fields, "outputs": [], "bytes": 0, "order": chain.order, "names": chain.names}
        fields["outputs"] = staging.inner(chain.view, chain.job.output)
        there = [path for path in outermost(chain.job.output) if chain.view.has(path)]
        paths = [os.path.join(chain.view.path, path) for path in there]
        return {**fields, "bytes": sum(map(size_bytes, paths))}
