"""A worker that holds all models of a chain, and runs short requests through them at once.

::

    coordinator → worker     chain {batch, store, staged, chains}
                                                       [job of each stage..., payload... of each]
    worker → coordinator     stage {batch, stage, chains, last} [result...]     one for each stage

The first stage's job is ready: its outputs are written under their own names. Those that
follow are not: Snakemake has not released their jobs, and may still clear the way for them.
What they write is staged, for the next stage to read and for a file process to publish once
the job is there, if its inputs still have the digests that are told here. Results go to the
coordinator, too, for equal items of other jobs. A chain that fails at a stage, or is not short
there, ends before it: the coordinator sends what is left the ordinary way, where errors are told.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from snakemake_executor_gpupool.tool_api.contract import all_items
from snakemake_executor_gpupool.tool_api.memory import release_memory
from snakemake_executor_gpupool.tool_api.short_requests import is_short
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.job_log import log_line
from snakemake_executor_gpupool.wire.payload import (
    is_float_array,
    load_bytes,
    load_payload,
    pack,
)
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.baseline import Baseline, work_for
from snakemake_executor_gpupool.worker.batch import run_batch
from snakemake_executor_gpupool.worker.describe import batch_budget, describe_item, describe_model
from snakemake_executor_gpupool.worker.guessed import GuessedJob, NotKnownYet
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.late_files import wait_for_blobs
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files
from snakemake_executor_gpupool.worker.memory import peak_memory_mib, settle_memory
from snakemake_executor_gpupool.worker.output_capture import job_log, tell_error
from snakemake_executor_gpupool.worker.outputs import outermost, staged_outputs
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.server import Channel, Server, latency_of
from snakemake_executor_gpupool.worker.staging import (
    NotStageable,
    Staging,
    View,
    digest,
    inside,
    is_complete,
    names,
    size_bytes,
)
from snakemake_executor_gpupool.worker.written import Expected

#: Bound of the results that a worker keeps at hand.
REMEMBERED_BYTES = 64 * 1024**2


class _Chain:
    """One request on its way through the models.

    Attributes
    ----------
    stage
        The one at hand.
    keys, items
        Of the distinct items of the stage at hand.
    order
        For each of the job's items, which of the distinct ones it is.
    digests
        Of the inputs of the stage at hand.
    view
        Where the files of jobs that are not ready lie; None: all are ready.
    written
        The outputs of jobs that are not ready, as far as they are there.
    """

    def __init__(self, meta: dict[str, Any], jobs: list[Job], items: list[Any]) -> None:
        self.meta = meta
        self.jobs = jobs
        self.keys: list[str] = meta["keys"]
        self.items = items
        self.order: list[int] = meta["order"]
        self.names: list[str] = meta["names"]
        self.results: list[Any] = []
        self.parts: list[list[Any]] = []
        self.digests: list[str] = []
        self.stage = 0
        self.view: View | None = None
        self.written: set[str] = set()
        self._known: dict[str, str] = {}
        self.is_whole = True

    @property
    def job(self) -> Job:
        """The job of the stage at hand."""
        return self.jobs[self.stage]

    def log_text(self) -> str:
        """Return what the log of the stage's job says first."""
        return log_line(len(self.order), len(self.keys), self.meta["by"])

    def later_files(self) -> list[str]:
        """Return what the jobs that are not ready write."""
        return [path for job in self.jobs[1:] for path in (*job.output, *job.log)]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Job]:
        """Give the stage's tool its job, where the job's files are.

        Raises
        ------
        NotKnownYet
            The tool has asked for what is not known of the job yet.
        """
        if self.stage == 0:
            with inside(self.meta["cwd"]):
                yield self.job
            return
        assert self.view is not None
        guess = GuessedJob(self.job)
        self.view.make_way([*self.job.output, *self.job.log])
        self._show_inputs()
        with inside(self.view.path):
            yield guess
        if guess.asked:
            raise NotKnownYet(f"{', '.join(guess.asked)} of {self.job}")

    def _show_inputs(self) -> None:
        """Have the inputs in the view: what the chain has written is, unless it was published."""
        assert self.view is not None
        for path in self.job.input:
            if path in self.written and self.view.has(path):
                continue
            self.view.show(path)
            if path in self.written:
                # Published, or a file of an earlier run, and the real one is dropped.
                with inside(self.view.path):
                    if digest(path) != self._known.get(path):
                        raise NotStageable(path)

    def take_digests(self) -> None:
        """Take down what the stage's inputs are."""
        self.digests = [digest(path) for path in self.job.input]
        self._known.update(zip(self.job.input, self.digests))


class _Packed:
    """A result: its packed parts, and itself where it has been computed just now."""

    def __init__(self, parts: list[Any], value: Any = None) -> None:
        self.parts = parts
        self._value = value

    def copy(self) -> Any:
        """Return the result as if it had come by a frame: a tool may change it as it writes."""
        if is_float_array(self._value):
            return self._value.copy()
        return load_bytes(b"".join(self.parts))


class Memory:
    """Latest results by key, within a bound: later dispatches may need them again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, ...]) -> list[Any] | None:
        """Return a packed result, or None."""
        whole = self._kept.get(key)
        return None if whole is None else [whole]

    def keep(self, key: tuple[str, ...], parts: list[Any]) -> None:
        """Keep a packed result; the oldest go when there are too many."""
        self._kept[key] = b"".join(parts)
        self._bytes += len(self._kept[key])
        while self._bytes > REMEMBERED_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)


class ChainServer(Server):
    """Several tools in one process, each with its model; the first one's is its own."""

    def __init__(
        self,
        channel: Channel,
        tool_class: type[Tool],
        spool: Spool,
        base_dir: str,
        more: list[type[Tool]],
    ) -> None:
        super().__init__(channel, tool_class, spool, base_dir)
        self._classes = [tool_class, *more]
        self._imported = {each: Baseline(each) for each in self._classes}
        self._tools: list[LoadedTool] = []
        #: What file processes would call each stage's model.
        self._idents: list[str] = []
        self._device = "cpu"
        self._remembered = Memory()
        self._staging = Staging("")
        self._handlers = {"load": self._load, "move": self._move, "chain": self._run_chains}

    # -- the models ------------------------------------------------------------
    def _load(self, frame: Frame) -> None:
        self._device = frame.meta["device"]
        started_s = time.perf_counter()
        try:
            params_of_stages = [load_payload(params) for params in frame.blobs]
            self._tools = self._loaded(params_of_stages)
            # Requests are counted by their first stage; each stage cuts its own micro-batches.
            first = self._tools[0].show(params_of_stages[0])
            budget = batch_budget(first, self._device)
        except Exception as error:
            self._channel.send({"type": "load_failed", "error": tell_error(error)})
            return
        settle_memory()
        figures = {"seconds": time.perf_counter() - started_s, "batch_tokens": budget}
        self._channel.send({"type": "loaded", **figures, "peak_mib": peak_memory_mib(self._device)})

    def _loaded(self, params_of_stages: list[dict[str, Any]]) -> list[LoadedTool]:
        """Load each model once, however many stages need it."""
        by_model: dict[str, LoadedTool] = {}
        tools = []
        self._idents = []
        for tool_class, params in zip(self._classes, params_of_stages):
            reader = for_files(tool_class, params)
            model = describe_model(reader)["model"]
            if model not in by_model:
                work_for(object(), self._imported[tool_class])
                by_model[model] = LoadedTool(tool_class, params)
                by_model[model].load(self._device)
            tools.append(by_model[model])
            # One that has changed meanwhile is nobody's: its results are not kept.
            self._idents.append(model if describe_model(reader)["model"] == model else "")
        return tools

    def _move(self, frame: Frame) -> None:
        device, away = frame.meta["device"], frame.meta["away"]
        try:
            for tool in {id(tool): tool for tool in self._tools}.values():
                tool.move(device)
            if away:
                release_memory()
        except Exception as error:
            self._channel.send({"type": "move_failed", "error": tell_error(error)})
            return
        self._channel.send({"type": "moved", "device": device, "away": away})

    # -- a dispatch --------------------------------------------------------------
    def _run_chains(self, frame: Frame) -> None:
        wait_s = latency_of(frame)
        if wait_s and wait_for_blobs(frame.blobs, wait_s):
            chains = []  # the ordinary way tells what cannot be seen here
        else:
            chains = unpack_chains(frame, len(self._tools))
        if self._staging.root != frame.meta["staged"]:
            self._staging = Staging(frame.meta["staged"])
        for stage in range(len(self._tools)):
            if self._run_stage(stage, chains, frame.meta, self._store(frame)):
                return

    def _run_stage(
        self, stage: int, chains: list[_Chain], meta: dict[str, Any], kept: KeptResults | None
    ) -> bool:
        """Run one stage of all chains that are whole, and tell; return whether it was the last."""
        started_s = time.perf_counter()
        self._compute(stage, [chain for chain in chains if chain.is_whole], kept)
        told: list[dict[str, Any]] = []
        for number, chain in enumerate(chains):
            self._guarded(chain, self._end_stage, number, told)
        is_last = not told or stage == len(self._tools) - 1
        with self._spool.bundle() as bundle:
            for each in told:
                for parts in chains[each["chain"]].parts:
                    bundle.add(parts)
            blobs = bundle.take()
        answer = {"type": "stage", "batch": meta["batch"], "stage": stage, "last": is_last}
        seconds, peak_mib = time.perf_counter() - started_s, peak_memory_mib(self._device)
        self._channel.send(
            {**answer, "chains": told, "seconds": seconds, "peak_mib": peak_mib}, blobs
        )
        return is_last

    def _end_stage(self, chain: _Chain, number: int, told: list[dict[str, Any]]) -> None:
        """Write a stage's outputs, take down what to tell, and read the next stage's inputs."""
        self._write_stage(chain)
        told.append(self._told_of(number, chain))
        if chain.stage + 1 < len(self._tools):
            # Before anybody hears that there is something to publish, which moves it.
            self._read_stage(chain, chain.stage + 1)

    @staticmethod
    def _guarded(chain: _Chain, act: Any, *arguments: Any) -> None:
        """Do a part of a chain that is whole; an error ends the chain, and is not told.

        The ordinary way comes to the same error, and tells it as its own.
        """
        if chain.is_whole:
            try:
                act(chain, *arguments)
            except Exception:
                chain.is_whole = False

    def _read_stage(self, chain: _Chain, stage: int) -> None:
        if chain.view is None:
            chain.view = self._staging.view(chain.meta["cwd"], chain.later_files())
        chain.stage = stage
        tool = self._tool_for(self._classes[stage], chain.job)
        try:
            with chain.at_work() as job, job_log(job), explained_inputs(job):
                chain.take_digests()
                items = all_items(tool, job)
                told = [describe_item(tool, item, position) for position, item in enumerate(items)]
        except BaseException:
            chain.view.remove(chain.job.log)
            raise
        firsts: dict[str, int] = {}
        for position, each in enumerate(told):
            firsts.setdefault(each["key"], position)
        chain.keys = list(firsts)
        chain.items = [items[position] for position in firsts.values()]
        chain.order = [chain.keys.index(each["key"]) for each in told]
        chain.names = [each["name"] for each in told]
        tokens = [told[position]["tokens"] for position in firsts.values()]
        is_brief = is_short(tokens, tool.short_tokens())
        chain.is_whole = is_brief and not self._is_misplaced(chain)
        if not chain.is_whole:
            chain.view.remove(chain.job.log)

    def _compute(self, stage: int, chains: list[_Chain], kept: KeptResults | None) -> None:
        """Compute the stage's items of all chains together, an item that several have once."""
        if not chains:
            return
        head = tuple(chains[0].meta["models"][stage])
        items = {key: item for chain in chains for key, item in zip(chain.keys, chain.items)}
        found = known_results(chains) if stage == 0 else {}
        for key in items:
            remembered = self._remembered.get((*head, key))
            if key not in found and remembered is not None:
                found[key] = _Packed(remembered)
        missing = {key: item for key, item in items.items() if key not in found}
        computed = self._compute_missing(stage, chains[0].jobs[stage].params, missing)
        for key, packed in computed.items():
            if kept is not None and head[1] == self._idents[stage]:
                kept.keep((*head, key), packed.parts)
            self._remembered.keep((*head, key), packed.parts)
        found.update(computed)
        for chain in chains:
            self._guarded(chain, self._take_results, found)

    def _compute_missing(
        self, stage: int, params: dict[str, Any], items: dict[str, Any]
    ) -> dict[str, _Packed]:
        """Return the result of each item that has one."""
        reader = for_files(self._classes[stage], params)
        tool = self._tools[stage].show(params)
        keys, values = list(items), list(items.values())
        computed = {}
        for batch in reader.micro_batches(values, batch_budget(tool, self._device)):
            for index, outcome in zip(batch, run_batch(tool, [values[i] for i in batch])):
                with contextlib.suppress(Exception):  # the ordinary way tells what is wrong
                    if outcome.error is None:
                        computed[keys[index]] = _Packed(pack(outcome.result), outcome.result)
        return computed

    @staticmethod
    def _take_results(chain: _Chain, found: dict[str, _Packed]) -> None:
        packed = [found[key] for key in chain.keys]  # one that failed ends the chain
        chain.parts = [each.parts for each in packed]
        chain.results = [packed[place].copy() for place in chain.order]

    # -- files -------------------------------------------------------------------
    def _write_stage(self, chain: _Chain) -> None:
        """Write a stage's outputs, those of a job that is ready under their own names."""
        tool = self._tool_for(self._classes[chain.stage], chain.job)
        updates = {chain.job.output[n]: source for n, source in chain.meta["updates"]}
        try:
            with chain.at_work() as job, job_log(job, chain.log_text()):
                content = None if chain.stage else updates.get
                touched = frozenset(chain.meta["touched"][chain.stage])
                expected = Expected(type(tool).__name__, touched)
                with staged_outputs(job.output, content, expected) as staged:
                    changes = {"params": tool.params, "item_names": chain.names}
                    tool.write(job.replace(output=staged, **changes), chain.results)
            self._check_written(chain)
        except BaseException:
            if chain.view is not None and chain.stage:
                chain.view.remove([*chain.job.output, *chain.job.log])
            raise

    def _check_written(self, chain: _Chain) -> None:
        """Raise for outputs that are not there, or that tell where they were written."""
        cwd = chain.view.path if chain.view is not None and chain.stage else chain.meta["cwd"]
        paths = [os.path.join(cwd, path) for path in chain.job.output]
        if not is_complete(paths, chain.meta["touched"][chain.stage]):
            raise NotStageable(f"outputs of {chain.job}")
        if chain.stage:
            place = os.path.basename(self._staging.root).encode()
            if any(names(path, [place]) for path in paths):
                raise NotStageable(f"outputs of {chain.job} have in them where they were written")
            chain.written.update(chain.job.output)

    def _told_of(self, number: int, chain: _Chain) -> dict[str, Any]:
        """Return what the coordinator hears of a chain that has come through a stage."""
        told = {"chain": number, "keys": chain.keys, "items": len(chain.order)}
        if chain.stage == 0:
            return {**told, "digests": [], "outputs": [], "logs": [], "bytes": 0}
        assert chain.view is not None
        outputs = self._staging.inner(chain.view, chain.job.output)
        logs = self._staging.inner(chain.view, chain.job.log)
        told.update({"digests": chain.digests, "outputs": outputs, "logs": logs})
        there = [path for path in outermost(chain.job.output) if chain.view.has(path)]
        paths = [os.path.join(chain.view.path, path) for path in there]
        return {**told, "bytes": sum(map(size_bytes, paths))}

    def _is_misplaced(self, chain: _Chain) -> bool:
        """Tell whether items have in them where they were read from.

        A model would look there, from another directory, or not find what has been published.
        """
        place = os.path.basename(self._staging.root)
        files = [os.path.basename(path) for path in chain.job.input if path in chain.written]
        # Such arrays say nothing of a place, and are most of what there is.
        worded = [item for item in chain.items if not is_float_array(item)]
        return has_words(worded, [place, *files]) or has_words(chain.names, [place])


def has_words(values: list[Any], words: Iterable[str]) -> bool:
    """Tell whether values have any of some words in them, in whatever way."""
    parts = [bytes(part) for part in pack(values)]
    sought = [word.encode(code) for word in words for code in ("utf-8", "utf-32-le", "utf-16-le")]
    return any(each in part for part in parts for each in sought)


def known_results(chains: list[_Chain]) -> dict[str, _Packed]:
    """Return the results that came instead of items: other jobs have had these computed."""
    return {
        key: _Packed(pack(value))
        for chain in chains
        for key, is_known, value in zip(chain.keys, chain.meta["known"], chain.items)
        if is_known
    }


def unpack_chains(frame: Frame, stages: int) -> list[_Chain]:
    """Return the requests of a ``chain`` frame."""
    chains, blobs = [], list(frame.blobs)
    for meta in frame.meta["chains"]:
        values = [load_payload(blobs.pop(0)) for _ in range(stages + len(meta["keys"]))]
        chains.append(_Chain(meta, values[:stages], values[stages:]))
    return chains
