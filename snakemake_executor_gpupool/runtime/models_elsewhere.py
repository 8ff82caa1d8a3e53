"""How far models are that another process computes with, as far as this run's jobs go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.records.progress import ModelState

Fields = Mapping[str, Any]


@dataclass
class _Job:
    """A job whose items are known, and that has not ended."""

    model: str
    items: int
    distinct: int
    #: How many of them were computed, as far as is known: others may be in the same batches.
    computed: float = 0.0


@dataclass
class _Model:
    """What is known of a model.

    Attributes
    ----------
    over, over_places
        Distinct items, and all items, of jobs that have ended.
    loading
        Since when which processes have been loading it.
    """

    over: int = 0
    over_places: int = 0
    last_load_s: float | None = None
    began_s: float | None = None
    loading: dict[str, float] = field(default_factory=dict)


class ModelsElsewhere:
    """Follows what the other process says; used by the run loop's thread."""

    def __init__(self) -> None:
        self._jobs: dict[int, _Job] = {}
        self._models: dict[str, _Model] = {}
        self._model_of: dict[str, str] = {}
        self._devices: dict[str, tuple[str, ...]] = {}
        self._handlers: dict[str, Callable[[Fields, float], None]] = {
            "job_read": self._read,
            **dict.fromkeys(("job_done", "job_failed", "job_withdrawn"), self._over),
            "device_granted": self._granted,
            "worker_started": self._started,
            "worker_attached": self._attached,
            "model_loaded": self._loaded,
            "worker_ended": self._ended,
            "batch_sent": self._sent,
            "batch_done": self._computed,
        }

    def take(self, event: str, fields: Fields, now_s: float) -> None:
        """Take in an event, heard of at ``now_s``."""
        handler = self._handlers.get(event)
        if handler is not None:
            handler(fields, now_s)

    def forget(self, job_ids: Iterable[int]) -> None:
        """Leave jobs out that are not done elsewhere any longer."""
        for job_id in job_ids:
            self._jobs.pop(job_id, None)

    def states(self, now_s: float) -> list[ModelState]:
        """Return the progress of each model."""
        jobs_of: dict[str, list[_Job]] = {}
        for job in self._jobs.values():
            jobs_of.setdefault(job.model, []).append(job)
        workers_of: dict[str, list[str]] = {}
        for worker, name in self._model_of.items():
            workers_of.setdefault(name, []).append(worker)
        return [
            self._state(name, model, jobs_of.get(name, []), workers_of.get(name, []), now_s)
            for name, model in self._models.items()
        ]

    def _state(
        self, name: str, model: _Model, jobs: list[_Job], workers: list[str], now_s: float
    ) -> ModelState:
        total = model.over + sum(job.distinct for job in jobs)
        done = model.over + int(sum(min(job.computed, job.distinct) for job in jobs))
        is_ready = any(worker not in model.loading for worker in workers)
        worked_s = now_s - model.began_s if model.began_s is not None else 0.0
        since_s = min(model.loading.values(), default=None)
        return ModelState(
            key=("elsewhere", name),
            name=name,
            done=done,
            total=total,
            places=model.over_places + sum(job.items for job in jobs),
            is_active=done < total,
            remaining_s=(total - done) * worked_s / done if done else None,
            devices=tuple(sorted({d for worker in workers for d in self._devices[worker]})),
            loading_s=now_s - since_s if since_s is not None and not is_ready else None,
            last_load_s=model.last_load_s,
        )

    def _model(self, name: str) -> _Model:
        return self._models.setdefault(name, _Model())

    # -- jobs ------------------------------------------------------------------------------
    def _read(self, fields: Fields, now_s: float) -> None:
        self._model(fields["model"])
        distinct = fields["items"] - fields.get("duplicates", 0) - fields.get("reused", 0)
        self._jobs[fields["job_id"]] = _Job(fields["model"], fields["items"], distinct)

    def _over(self, fields: Fields, now_s: float) -> None:
        job = self._jobs.pop(fields["job_id"], None)
        if job is not None:
            model = self._model(job.model)
            model.over += job.distinct
            model.over_places += job.items

    # -- processes -------------------------------------------------------------------------
    def _granted(self, fields: Fields, now_s: float) -> None:
        self._model_of[fields["worker"]] = fields["model"]
        self._devices[fields["worker"]] = tuple(fields["devices"])

    def _started(self, fields: Fields, now_s: float) -> None:
        name = self._model_of.get(fields["worker"])
        if name is not None:
            self._model(name).loading[fields["worker"]] = now_s

    def _attached(self, fields: Fields, now_s: float) -> None:
        if "model" in fields:
            self._model_of[fields["worker"]] = fields["model"]
            self._devices[fields["worker"]] = tuple(fields.get("devices", ()))
            self._model(fields["model"]).last_load_s = fields.get("seconds")

    def _loaded(self, fields: Fields, now_s: float) -> None:
        name = self._model_of.get(fields["worker"])
        if name is not None:
            self._model(name).loading.pop(fields["worker"], None)
            self._model(name).last_load_s = fields["seconds"]

    def _ended(self, fields: Fields, now_s: float) -> None:
        name = self._model_of.pop(fields["worker"], None)
        self._devices.pop(fields["worker"], None)
        if name is not None:
            self._model(name).loading.pop(fields["worker"], None)

    # -- micro-batches ---------------------------------------------------------------------
    def _sent(self, fields: Fields, now_s: float) -> None:
        name = self._model_of.get(fields["worker"])
        if name is not None and self._model(name).began_s is None:
            self._model(name).began_s = now_s

    def _computed(self, fields: Fields, now_s: float) -> None:
        """Items are divided among jobs as their time is: a batch's event says no more."""
        items = fields.get("own_items", fields.get("items", 0))
        jobs_s = dict(zip(fields.get("jobs", ()), fields.get("device_s", ()), strict=False))
        all_s = sum(jobs_s.values())
        for job_id, device_s in jobs_s.items():
            job = self._jobs.get(job_id)
            if job is not None:
                job.computed += items * (device_s / all_s if all_s else 1 / len(jobs_s))
