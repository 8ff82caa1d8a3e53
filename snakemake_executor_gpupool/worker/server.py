"""What a worker process does with each frame.

One process serves one tool, one frame after the other. A process that is never
sent ``load`` reads inputs and writes outputs; one that is, holds the model::

    coordinator → worker                       worker → coordinator
    tool  (see serve)
    read  {job, cwd, follow, store, space, hashes} [job, later job...]
                                               items {job, model, model_label, group, short_tokens,
                                                      keys, costs, tokens, names, kept, last,
                                                      follow, inputs, origin} [payload...]
                                               | read_failed
                                               (before these: remark {job, text})
    foresee (see foresee)
    results {job, names} [result...]           (``write`` of the same job follows)
    write {job, cwd, settled, order, names, updates, touched, directories, hashes} [job, result...]
                                               written {outputs} | write_failed
    publish {job, cwd, digests, model, tool, stamp, outputs, logs, touched, hashes, order,
             names, log_text, updates, directories, prints_apart} [job, result...]
                                               published {outputs, inputs} | unpublished
    load  {device, model} [params]             loaded {batch_tokens, quick_tokens, seconds,
                                               peak_mib} | load_failed
    run   {batch, store, keys} [params, payload...]
                                               done {batch, items, failed, errors, out_of_memory,
                                                     seconds, peak_mib} [result...]
    move  {device, away}                       moved {away} | move_failed
    check (see ahead)
    chain (see chain_server)
    (end of file)                              the process ends

What is read of items are columns, one entry an item; ``kept`` are positions of items whose blobs
are their results, found in the ``store`` of results kept across runs. ``failed`` are positions of
items without a result, ``errors`` the error of each of them. With ``hashes``, ``inputs`` and
``outputs`` are hashes of the job's files, and ``origin`` says what a model was made of: both with
a job's last items alone, ``origin`` once for each model.
Before any answer there may be a message for the user::

                                               store_trouble {kind, why}
                                               printed {doing, about, start, end}

Where several machines take part, every frame whose files another one may have written says
``latency_wait_s``, how long to wait for them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import Any, Callable

from snakemake_executor_gpupool.errors import GpupoolError, WeightsChanged
from snakemake_executor_gpupool.tool_api.class_checks import refuse_missing, remarks_on
from snakemake_executor_gpupool.tool_api.contract import items_of
from snakemake_executor_gpupool.tool_api.known_params import (
    DECLARE,
    likely_misspelt,
    refuse_unknown,
)
from snakemake_executor_gpupool.tool_api.memory import release_memory
from snakemake_executor_gpupool.tool_api.short_requests import is_short
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.bounds import shortened
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.kept import result_key
from snakemake_executor_gpupool.wire.payload import load_payload
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.ahead import SeenAhead
from snakemake_executor_gpupool.worker.batch import (
    Outcome,
    items_ahead,
    outcome_fields,
    pack_outcomes,
    run_payloads,
)
from snakemake_executor_gpupool.worker.channel import Channel, latency_of
from snakemake_executor_gpupool.worker.describe import (
    Described,
    batch_budget,
    columns_of,
    describe_item,
    describe_model,
    quick_budget,
    versions,
)
from snakemake_executor_gpupool.worker.edits import Edits
from snakemake_executor_gpupool.worker.file_hashes import Watched
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.late_files import wait_for_files
from snakemake_executor_gpupool.worker.later_tools import LaterTools
from snakemake_executor_gpupool.worker.loaded import LoadedTool, RestoredTools, for_files
from snakemake_executor_gpupool.worker.memory import peak_memory_mib, settle_memory
from snakemake_executor_gpupool.worker.numerics import claim_kind, is_of_kind
from snakemake_executor_gpupool.worker.observed import OBSERVER
from snakemake_executor_gpupool.worker.origin import origin_of
from snakemake_executor_gpupool.worker.output_capture import job_log, tell_error
from snakemake_executor_gpupool.worker.overlap import are_ours
from snakemake_executor_gpupool.worker.plain_models import PlainModels
from snakemake_executor_gpupool.worker.printed import Printed
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.run_store import RunStore
from snakemake_executor_gpupool.worker.travel import packed_item, unpacked_items
from snakemake_executor_gpupool.worker.unchanged import Unchanged
from snakemake_executor_gpupool.worker.writer import Writer

#: Items of one job are announced in frames of at most this many, so that a large job starts early.
ITEMS_PER_FRAME = 500
#: The same bound in characters of names and keys.
FRAME_TEXT = 200_000


class Server:
    """One tool's class, its loaded instance if any, and the answers to frames."""

    def __init__(
        self,
        channel: Channel,
        tool_class: type[Tool],
        spool: Spool,
        base_dir: str,
        unchanged: Unchanged | None = None,
        printed: Printed | None = None,
        ahead: SeenAhead | None = None,
    ) -> None:
        self._unchanged = unchanged or Unchanged("")
        self._printed = printed or Printed(is_wanted=False)
        self._channel = channel
        self._tool_class = tool_class
        self._spool = spool
        self._model: LoadedTool | None = None
        #: What was done here before there was a job; None: nothing.
        self._ahead = ahead
        #: Whether its results may be kept for other runs.
        self._may_keep = False
        self._remarked: set[str] = set()
        #: The models whose origin was said.
        self._known_origins: set[str] = set()
        self._plain_models = PlainModels()
        self._edits = Edits(tool_class)
        self._later = LaterTools(self._unchanged, base_dir)
        self._restored = RestoredTools()
        self._store = RunStore(channel)
        at_files = self._restored, self._unchanged, self._later, self._printed
        writer = Writer(channel, tool_class, *at_files)
        self._handlers: dict[str, Callable[[Frame], None]] = {
            "read": self._read,
            "foresee": self._foresee,
            "results": writer.results,
            "write": writer.write,
            "publish": writer.publish,
            "load": self._load,
            "run": self._run,
            "move": self._move,
            "check": self._check,
        }

    def handle(self, frame: Frame) -> None:
        """Answer one frame."""
        if frame.type != "run":
            self._channel.settle()
        self._printed.begin()
        self._handlers[frame.type](frame)

    # -- results kept across runs ----------------------------------------------
    def _finder(
        self, tool: Tool, head: dict[str, Any], frame: Frame
    ) -> Callable[[str], bytearray | None] | None:
        """Return what finds an item's kept result, packed, by its key; None: there are none."""
        kept = self._store.of(frame)
        if kept is None or not tool.deterministic:
            return None
        space, model, group = frame.meta["space"], head["model"], head["group"]
        return lambda key: kept.find(result_key(space, model, group, key))

    # -- files ---------------------------------------------------------------
    def _read(self, frame: Frame) -> None:
        job: Job = load_payload(frame.blobs[0])
        ident = frame.meta["job"]
        try:
            os.chdir(frame.meta["cwd"])
            wait_for_files(job.input, latency_of(frame))
            watched = Watched(job.input if frame.meta["hashes"] else ())
            with job_log(job, is_apart=frame.meta["prints_apart"]), explained_inputs(job):
                self._announce_items(ident, job, frame, watched)
        except Exception as error:
            self._printed.tell(self._channel, "read", ident)
            self._channel.send({"type": "read_failed", "job": ident, "error": tell_error(error)})

    def _foresee(self, frame: Frame) -> None:
        """Say what a job will ask of its model, for a plan."""
        from snakemake_executor_gpupool.worker.foresee import foresee

        def tool_of(job: Job) -> Tool:
            return self._restored.for_job(self._tool_class, job)

        def is_kept(tool: Tool, head: dict[str, Any], key: str) -> bool:
            find = self._finder(tool, head, frame)
            return find is not None and find(key) is not None

        if not frame.meta["device"]:
            self._ahead = self._ahead or SeenAhead()
        with OBSERVER.watching():
            answer = foresee(frame, tool_of, is_kept)
        self._channel.send(answer)

    def _describe_later(self, frame: Frame) -> list[dict[str, Any]]:
        """Return which models the following jobs need, as far as that is known.

        The list ends at an error: serving that job itself reports it.
        """
        models: list[dict[str, Any]] = []
        with contextlib.suppress(Exception):
            later_tools = zip(frame.meta["follow"], frame.meta["stamps"])
            for (spec, stamp), blob in zip(later_tools, frame.blobs[1:]):
                tool_class = self._later.of(spec, stamp)
                self._restored.know(tool_class)
                later: Job = load_payload(blob)
                models.append(self._described(tool_class, later, frame))
        return models

    def _described(self, tool_class: type[Tool], job: Job, frame: Frame) -> dict[str, Any]:
        """Return which model a following job needs."""
        model = self._plain_models.of(tool_class, job)
        if not self._wants_origin(model["model"], frame):
            return model
        tool = for_files(tool_class, job.params)
        return {**model, **self._origin_of(tool, job, model["model"], frame)}

    def _origin_of(self, tool: Tool, job: Job, model: str, frame: Frame) -> dict[str, Any]:
        """Return what a model was made of, unless that was said before, or nobody wants it."""
        if not self._wants_origin(model, frame):
            return {}
        self._known_origins.add(model)
        return {"origin": origin_of(tool, job.output)}

    def _wants_origin(self, model: str, frame: Frame) -> bool:
        return frame.meta["hashes"] and model not in self._known_origins

    def _remark(self, ident: int, job: Job) -> None:
        """Warn of misspelt names in a rule or a class, and of edited code, once for each."""
        rule = f"rule {job.rule}" if job.rule else "a call"
        kind: Any = self._tool_class
        texts = [f"{rule}: {text}" for text in likely_misspelt(kind, job.params)]
        edited = "" if self._unchanged.tool else self._edits.remark()
        for text in (*remarks_on(kind), *texts, edited):
            if text and text not in self._remarked:
                self._remarked.add(text)
                self._channel.send({"type": "remark", "job": ident, "text": shortened(text, 2000)})

    def _announce_items(self, ident: int, job: Job, frame: Frame, watched: Watched) -> None:
        refuse_missing(self._tool_class)
        self._remark(ident, job)
        tool = self._restored.for_job(self._tool_class, job)
        self._store.to_read(frame, self._tool_class)
        if frame.meta.get("strict"):
            kind: Any = self._tool_class
            refuse_unknown(kind, self._unchanged.tool, job.params, DECLARE)
        head = {"type": "items", "job": ident, **describe_model(tool, job.output), "follow": []}
        items: list[Described] = []
        found: list[int] = []
        characters = 0
        find = self._finder(tool, head, frame)
        seen: set[str] = set()
        with self._spool.bundle() as payloads:
            for position, item in enumerate(items_of(tool, job) if frame.meta["items"] else ()):
                parts = packed_item(tool, item, position)
                described = describe_item(tool, item, position)
                key = described.key
                # A duplicate within the job is not looked up again.
                if find is not None and key not in seen:
                    seen.add(key)
                    result = find(key)
                    if result is not None:
                        found.append(len(items))
                        parts = [result]
                items.append(described)
                payloads.add(parts)
                characters += len(key) + len(described.name)
                if len(items) == ITEMS_PER_FRAME or characters > FRAME_TEXT:
                    columns = {**columns_of(items), "kept": found, "last": False}
                    self._channel.send({**head, **columns}, payloads.take())
                    items, found, characters = [], [], 0
            self._unchanged.require()
            self._unchanged.reads.note(OBSERVER, lambda: tool)
            self._unchanged.reads.require_none_in(".")
            tokens = {item.key: item.tokens for item in items}
            if is_short(list(tokens.values()), head["short_tokens"]):
                head["follow"] = self._describe_later(frame)
            head |= self._origin_of(tool, job, head["model"], frame)
            columns = {**columns_of(items), "kept": found, "last": True}
            columns["inputs"] = watched.hashes()
            self._printed.tell(self._channel, "read", ident)
            self._channel.send({**head, **columns}, payloads.take())

    # -- the model -------------------------------------------------------------
    def _load(self, frame: Frame) -> None:
        device = frame.meta["device"]
        started_s = time.perf_counter()
        try:
            params = load_payload(frame.blobs[0])
            reader = for_files(self._tool_class, params)
            if self._ahead is not None:
                self._ahead.loads(reader)
            idents = {frame.meta["model"], describe_model(reader)["model"]}
            with OBSERVER.watching():
                self._model = LoadedTool(self._tool_class, params)
                self._model.load(device)
            claim_kind(self._spool.shared_directories, device)
            # If code or weights have changed since the jobs were read, results are not kept.
            is_same = idents == {describe_model(reader)["model"]}
            self._may_keep = is_same and is_of_kind()
            self._unchanged.require()
            if self._unchanged.tool and not is_same:
                raise WeightsChanged("its weights have changed since its jobs were read")
            self._unchanged.reads.note(OBSERVER, lambda: reader)
            tool = self._model.show(params)
            budget, quick = batch_budget(tool, device), quick_budget(tool, device)
            answer = {"type": "loaded", "batch_tokens": budget, "quick_tokens": quick}
        except Exception as error:
            self._printed.tell(self._channel, "load")
            self._channel.send({"type": "load_failed", "error": tell_error(error)})
            return
        settle_memory()
        seconds = time.perf_counter() - started_s
        self._printed.tell(self._channel, "load")
        figures = {"seconds": seconds, "peak_mib": peak_memory_mib(device)}
        self._channel.send({**answer, **figures, "versions": versions()})
        self._channel.overlap(items_ahead)

    def _check(self, frame: Frame) -> None:
        """Say whether what was done ahead of the first job still holds."""
        holds, ahead, self._ahead = False, self._ahead, None
        if ahead is not None:
            with contextlib.suppress(Exception):  # then a process that has just begun reports it
                self._unchanged.require()
                holds = ahead.holds(self._tool_class)
                for params in frame.blobs:
                    reader = for_files(self._tool_class, load_payload(params))
                    holds &= describe_model(reader)["model"] == frame.meta["model"]
                    holds &= ahead.holds_for(reader)
            ahead.end()
        self._channel.send({"type": "checked", "holds": holds})

    def _run(self, frame: Frame) -> None:
        assert self._model is not None, "run before load"
        params, *payloads = frame.blobs
        values = load_payload(params)
        tool = self._model.show(values)
        started_s = time.perf_counter()
        with OBSERVER.watching():
            outcomes = run_payloads(
                tool, payloads, latency_of(frame), self._model.same_bits, self._channel.prepared
            )
        reader = functools.lru_cache(maxsize=1)(lambda: for_files(self._tool_class, values))
        kept = None
        try:
            self._unchanged.require()
            kept = self._to_keep(frame, values, payloads)
            self._unchanged.reads.note(OBSERVER, reader, lambda: unpacked_items(reader(), payloads))
        except GpupoolError as error:
            kept, outcomes = None, [Outcome(None, tell_error(error))] * len(payloads)
        figures: dict[str, Any] = {"seconds": time.perf_counter() - started_s}
        figures["peak_mib"] = peak_memory_mib(tool.device)
        keys, spool = frame.meta["keys"], self._spool
        packed = None
        if kept is not None or not are_ours(outcome.result for outcome in outcomes):
            # The next run may change them.
            packed = pack_outcomes(tool, outcomes, keys, kept, spool)
            figures["seconds"] = time.perf_counter() - started_s

        printed = self._printed.since("run", frame.meta["batch"])

        def send() -> None:
            if printed is not None:
                self._channel.send(printed)
            notes, blobs = packed or pack_outcomes(tool, outcomes, keys, None, spool)
            meta = {"type": "done", "batch": frame.meta["batch"], **outcome_fields(notes)}
            self._channel.send({**meta, **figures}, blobs)

        self._channel.later(send)

    def _to_keep(self, frame: Frame, params: Any, payloads: list[Blob]) -> KeptResults | None:
        """Return the store for a batch's results; None: they are not kept."""
        keys = [key for key in frame.meta["keys"] if key is not None]
        kept = self._store.of(frame)
        if not self._may_keep or not keys or kept is None:
            return None
        reader = for_files(self._tool_class, params)
        return self._store.to_write(kept, reader, keys, lambda: unpacked_items(reader, payloads))

    def _move(self, frame: Frame) -> None:
        try:
            assert self._model is not None, "move before load"
            self._model.move(frame.meta["device"])
            if frame.meta["away"]:
                release_memory()
        except Exception as error:
            self._channel.send({"type": "move_failed", "error": tell_error(error)})
            return
        self._channel.send({"type": "moved", "away": frame.meta["away"]})
