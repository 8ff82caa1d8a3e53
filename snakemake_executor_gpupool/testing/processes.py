"""What simulated processes do with what they are sent, and what they answer."""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import CONTRACT, FrameError
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core
from snakemake_executor_gpupool.testing.world_options import INFO, FakeItem, WorldOptions
from snakemake_executor_gpupool.tool_api.short_requests import TRIED
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile
from snakemake_executor_gpupool.wire.requests import Request
from snakemake_executor_gpupool.wire.spool import Discards


class SimulatedProcesses(WorldOptions, ABC):
    """The processes of a world. What they do takes its time on the world's clock."""

    core: Core

    def __post_init__(self) -> None:
        super().__post_init__()
        self.now_s = 0.0
        #: What the coordinator said of frames that it did not believe.
        self.complaints: list[str] = []
        self.results: dict[int, list[str]] = {}
        self.computed: list[str] = []
        self.batches: list[list[str]] = []
        self.finished_s: dict[str, float] = {}
        self.requests: dict[int, Request] = {}
        #: On which node each process is or was.
        self.node_of: dict[str, str] = {}
        #: What lies in files, by path and offset, and which files were removed.
        self.contents: dict[tuple[str, int], bytes] = {}
        self.removed: set[str] = set()
        self._discards = Discards(self.removed.add)
        self._jobs: dict[int, tuple[str, list[FakeItem]]] = {}
        self._numbers = itertools.count()
        self._free_at: dict[str, float] = {}
        self._alive: set[str] = set()
        #: Which later models each process of a row has loaded.
        self._stages_of: dict[str, set[int]] = {}
        #: Of which they have not said so yet.
        self._unsaid: dict[tuple[str, int], dict[str, Any]] = {}

    @abstractmethod
    def at(self, time_s: float, act: Callable[[], object]) -> None:
        """Do something at a later time."""

    @abstractmethod
    def take(self, event: ev.Event) -> list[fx.Effect]:
        """Have an event decided on."""

    @abstractmethod
    def _act(self) -> None:
        """Carry out what was decided."""

    # -- frames ------------------------------------------------------------------------
    def _answer(self, worker: str, kind: str, blobs: Sequence[bytes] = (), **fields: Any) -> None:
        try:
            for frame in self.sent(worker, Frame({"type": kind, **fields}, self._stored(blobs))):
                effects = self.take(ev.FrameReceived(worker, frame.meta, frame.blobs))
                if any(isinstance(effect, fx.RejectWorker) for effect in effects):
                    break
        except FrameError as error:
            self._reject(worker, str(error))

    def _reject(self, worker: str, why: str) -> None:
        self.complaints.append(why)
        self._die(worker, f"broke the protocol ({why})")

    def _stored(self, blobs: Sequence[bytes]) -> list[Blob]:
        if not self.shares:
            return list(blobs)
        path = f"/spool/{next(self._numbers)}.blob"
        self.contents.update({(path, 64 * n): blob for n, blob in enumerate(blobs)})
        return [SpoolFile(path, len(b), 64 * n, len(blobs)) for n, b in enumerate(blobs)]

    def text(self, blob: Blob) -> str:
        """Return what a process reads that is sent a blob."""
        if isinstance(blob, bytes):
            return blob.decode()
        text = self.contents.get((blob.path, blob.offset))
        if text is None:
            return "lies"
        assert blob.path not in self.removed, "a file was removed that is still needed"
        return text.decode()

    def sent(self, worker: str, frame: Frame) -> Iterable[Frame]:
        """Return what a worker sends when it means to send ``frame``."""
        return [frame]

    # -- processes ---------------------------------------------------------------------
    def _later(self, worker_id: str, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a process, after what it is at, unless it has died by then."""
        start_s = max(self.now_s, self._free_at.get(worker_id, 0.0))
        self._free_at[worker_id] = start_s + seconds

        def if_alive() -> None:
            if worker_id in self._alive:
                act()

        self.at(start_s + seconds, if_alive)

    def _start(self, effect: fx.StartWorker) -> None:
        worker, devices = effect.worker_id, effect.devices
        self._alive.add(worker)
        self.node_of[worker] = devices[0].host if devices else effect.node or ""
        if self.node_of[worker] in self.fatal_starts and not devices:
            self._later(worker, self.start_s, lambda: self._die(worker, "killed by SIGSEGV"))
            return
        fields: dict[str, Any] = {
            "info": {**INFO, **self.info},
            "seconds": self.start_s,
            "versions": {},
        }
        self._later(worker, self.start_s, lambda: self._answer(worker, "tool", **fields))

    def _read(self, worker: str, job_id: int) -> None:
        request, (_, items) = self.requests[job_id], self._jobs[job_id]
        columns = {
            "keys": [item.key for item in items],
            "costs": [item.cost for item in items],
            "tokens": [item.tokens for item in items],
            "names": [f"{item.key}@{n}" for n, item in enumerate(items)],
        }
        info = {**INFO, **self.info}
        follow = [{**self._describe(int(later.job)), "info": info} for later in request.follow]
        meta = {**self._describe(job_id), **columns, "kept": [], "last": True, "follow": follow}
        payloads = [f"{item.key}".encode() for item in items]
        self._answer(worker, "items", payloads, job=job_id, **meta)

    def _foresee(self, effect: fx.DescribeModel) -> None:
        """Say which model a job will need; a request's params name it."""
        worker, model = effect.worker_id, effect.request.params.decode()
        if model in self.unforeseen:
            error = {"kind": "input", "type": "InputError", "message": "no such model"}
            error["traceback"] = ""
            self._answer(worker, "unforeseen", job=effect.number, error=error)
            return
        meta: dict[str, Any] = {"model": model, "model_label": model, "group": "g"}
        meta |= {"short_tokens": self.short_tokens, "batch_tokens": None, "kept": 0, "count": 0}
        meta |= {"keys": [], "costs": [], "tokens": [], "whole": True, "job": effect.number}
        self._answer(worker, "foreseen", **meta)

    def _publish(self, worker: str, job_id: int) -> None:
        """Put results in place, unless the job's inputs have changed."""
        if job_id in self.changed:
            self._answer(worker, "unpublished", job=job_id)
            return
        self.results[job_id] = [f"result of {item.key}" for item in self._jobs[job_id][1]]
        self._answer(worker, "published", job=job_id, seconds=0.0)

    def _describe(self, job_id: int) -> dict[str, Any]:
        model, items = self._jobs[job_id]
        group = items[0].group if items else "g"
        names = {"model": model, "model_label": model, "group": group}
        return {**names, "short_tokens": self.short_tokens}

    # A chain's worker sends a frame for each stage; items fail or kill in it as they do elsewhere.
    def _run_chains(self, effect: fx.RunMerged) -> None:
        worker, stages = effect.worker_id, len(effect.requests[0].stages)
        whole = list(range(len(effect.requests)))
        for stage in range(stages):
            items = {number: self._stage_items(effect, stage, number) for number in whole}
            items = self._tried(effect, items)
            whole = list(items)
            keys = {item.key for each in items.values() for item in each}
            seconds = sum(item.cost for each in items.values() for item in each)
            assert isinstance(self.seconds_per_cost, int | float), "chains take one speed for all"
            computed_s = seconds * self.seconds_per_cost + self.dispatch_s * (stage == 0)
            seconds = computed_s + self.staging_s * len(whole) * (stages > 1)
            place = effect.requests[0].offset + stage
            is_lost = bool(place) and self._model_of(effect, stage) in self.failing_loads
            loaded = {} if is_lost else self._load_later(worker, place)
            took_s = seconds + (self.later_load_s if is_lost else loaded.get("load_s", 0.0))
            loaded = loaded or self._unsaid.pop((worker, place), {})
            if self.deadly & keys:
                self._later(worker, seconds / 2, lambda: self._die(worker, "killed by SIGSEGV"))
                return
            unfit = self.bad | self.huge
            if is_lost:
                unfit = unfit | keys
            whole = [n for n, each in items.items() if not unfit & {i.key for i in each}]
            done = {number: items[number] for number in whole}
            if stages == 1:  # the others are told of, too
                done = {n: [i for i in each if i.key not in unfit] for n, each in items.items()}
            meta = {"stage": place, "last": not whole or stage + 1 == stages, "seconds": seconds}
            meta |= {**loaded, "computed_s": computed_s, "lost": is_lost}
            if stages > 1:
                meta["files_s"] = seconds - computed_s
            self._later(worker, took_s, functools.partial(self._stage_done, effect, meta, done))
            if not whole:
                return
        first = effect.requests[0]
        if effect.loads_next:
            following = self._jobs[int(first.request.follow[0].job)][0]
            if following not in self.failing_loads:
                self._load_ahead(worker, first.offset + 1)

    def _load_later(self, worker: str, stage: int) -> dict[str, Any]:
        """Return what is said of a load that a stage needs, if it needs one."""
        if not self.later_load_s or not stage or stage in self._stages_of.setdefault(worker, set()):
            return {}
        self._stages_of[worker].add(stage)
        return {"load_s": self.later_load_s, "versions": {}}

    def _load_ahead(self, worker: str, stage: int) -> None:
        """Load a model at once; that is said with the first answer that it is needed for."""
        loaded = self._load_later(worker, stage)
        if loaded:
            self._later(worker, self.later_load_s, lambda: None)
            self._unsaid[worker, stage] = loaded

    def _tried(
        self, effect: fx.RunMerged, items: dict[int, list[FakeItem]]
    ) -> dict[int, list[FakeItem]]:
        """Return those that are computed: some, if an item turns out to take too long."""
        distinct = {item.key: item for each in items.values() for item in each}
        tried = sorted(distinct.values(), key=lambda item: -item.tokens)[:TRIED]
        limit_s = effect.item_limit_s
        if limit_s is None or len(tried) < 2 or tried[-1].cost * self._item_s() <= limit_s:
            return items
        keys = {item.key for item in tried}
        return {n: each for n, each in items.items() if keys.issuperset(i.key for i in each)}

    def _item_s(self) -> float:
        return float(self.seconds_per_cost)  # type: ignore[arg-type]

    def _model_of(self, effect: fx.RunMerged, stage: int) -> str:
        return self._jobs[int(effect.requests[0].stages[stage].request.job)][0]

    def _stage_items(self, effect: fx.RunMerged, stage: int, number: int) -> list[FakeItem]:
        _, items = self._jobs[int(effect.requests[number].stages[stage].request.job)]
        return list({item.key: item for item in items}.values())

    def _stage_done(
        self, effect: fx.RunMerged, meta: dict[str, Any], items: dict[int, list[FakeItem]]
    ) -> None:
        keys = [item.key for each in items.values() for item in each]
        self.computed += list(dict.fromkeys(keys))
        self.finished_s.update(dict.fromkeys(keys, self.now_s))
        one = effect.requests[0]
        stage = meta["stage"] - one.offset
        for number in items if stage == 0 and not one.is_single else ():
            job_id = int(effect.requests[number].stages[0].request.job)
            self.results[job_id] = [f"result of {item.key}" for item in self._jobs[job_id][1]]
        if one.is_single:
            self._step_done(effect, meta, items)
            return
        names = {number: [item.key for item in each] for number, each in items.items()}
        files = {"digests": [], "outputs": [], "logs": [], "bytes": 1}
        chains: list[dict[str, Any]]
        chains = [{"chain": n, "keys": k, "items": len(k), **files} for n, k in names.items()]
        if stage and meta["last"]:  # its outputs are written later
            for chain in chains:
                chain |= {"order": list(range(chain["items"])), "names": chain["keys"]}
        meta = {**meta, "batch": effect.batch_id, "chains": chains, "peak_mib": None}
        self._answer(effect.worker_id, "stage", [f"result of {k}".encode() for k in keys], **meta)

    def _step_done(
        self, effect: fx.RunMerged, meta: dict[str, Any], items: dict[int, list[FakeItem]]
    ) -> None:
        parts = [(n, key) for n, each in enumerate(effect.requests) for key in each.part_keys]
        done = {(n, item.key) for n, each in items.items() for item in each}
        places = [place for place, part in enumerate(parts) if part in done]
        blobs = [f"result of {item.key}".encode() for each in items.values() for item in each]
        meta = {**meta, "batch": effect.batch_id, "chains": [], "peak_mib": None}
        self._answer(effect.worker_id, "stage", blobs, computed=places, **meta)

    def _loaded(self, worker: str, model: str) -> None:
        if model in self.fatal_loads:
            self._die(worker, "killed by SIGSEGV")
        elif model in self.failing_loads:
            error = {"kind": "input", "type": "InputError", "message": "no weights"}
            self._answer(worker, "load_failed", error={**error, "traceback": ""})
        else:
            figures: dict[str, Any] = {"batch_tokens": self.budget_tokens, "seconds": self.load_s}
            figures |= {"quick_tokens": self.quick_tokens, "peak_mib": None, "versions": {}}
            self._answer(worker, "loaded", **figures)

    def _run_batch(self, effect: fx.RunBatch) -> None:
        keys = [self.text(item.payload) for item in effect.items]
        self.batches.append(keys)
        speed = self.seconds_per_cost
        seconds = sum(
            item.cost * (speed(key) if callable(speed) else speed)
            for item, key in zip(effect.items, keys, strict=True)
        )
        seconds += self.dispatch_s
        worker = effect.worker_id
        if self.deadly & set(keys):
            self._later(worker, seconds / 2, lambda: self._die(worker, "killed by SIGSEGV"))
            return
        self._later(
            worker, seconds, lambda: self._batch_done(worker, effect.batch_id, keys, seconds)
        )

    def _batch_done(self, worker: str, batch_id: int, keys: list[str], seconds: float) -> None:
        error = {"kind": "tool", "type": "ValueError", "message": "bad item", "traceback": ""}
        exhausted = {"kind": "tool", "type": "OutOfMemoryError", "message": "CUDA out of memory"}
        too_large = {key for key in keys if self._exhausts(worker, key)}
        errors = {key: error for key in keys if key in self.bad}
        errors |= {key: {**exhausted, "traceback": ""} for key in too_large}
        if self.broken & set(keys):
            contract = {**error, "kind": CONTRACT, "message": "returned a dict"}
            errors = dict.fromkeys(keys, contract)
        failed = [position for position, key in enumerate(keys) if key in errors]
        outcomes = {
            "items": len(keys),
            "failed": failed,
            "errors": [errors[keys[position]] for position in failed],
            "out_of_memory": list(range(len(keys))) if too_large else [],
        }
        blobs = [f"result of {key}".encode() for key in keys if key not in errors]
        self.computed += [key for key in keys if key not in too_large]
        self.finished_s.update(dict.fromkeys(keys, self.now_s))
        meta = {**outcomes, "batch": batch_id, "seconds": seconds, "peak_mib": None}
        self._answer(worker, "done", blobs, **meta)

    def _exhausts(self, worker: str, key: str) -> bool:
        workers = self.core.scheduler.dispatch.lifecycle.workers
        devices = set(workers[worker].devices)
        alone = not any(
            devices & set(other.devices)
            for name, other in workers.items()
            if name != worker and name in self._alive
        )
        return key in self.huge or (key in self.roomy and not alone)

    def _die(self, worker: str, reason: str, *, blameless: bool = False) -> None:
        if worker in self._alive:
            self._alive.discard(worker)
            self._free_at.pop(worker, None)
            self.take(ev.WorkerEnded(worker, reason, blameless=blameless))
            self._act()
