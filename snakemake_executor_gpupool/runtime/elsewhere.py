"""Jobs of a run that another process serves: what it says of them, and their figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.records.events import EventLog
from snakemake_executor_gpupool.records.provenance.recorder import ProvenanceRecorder
from snakemake_executor_gpupool.runtime.models_elsewhere import ModelsElsewhere

#: What the report of a call says that has gone down with the other process, and can be made again.
LOST_CALL = "the server has ended, or does not take it: call again"


@dataclass(frozen=True)
class News:
    """An event, or a fact of provenance, that another process has seen.

    Attributes
    ----------
    time_s
        When, since the epoch.
    name
        The event's, or the fact's kind.
    """

    time_s: float
    name: str
    fields: Mapping[str, Any]
    is_fact: bool = False


class Elsewhere:
    """Writes down what happens to such jobs, and counts; used by the run loop's thread.

    Parameters
    ----------
    events, provenance
        The run's own; None: no provenance is recorded.
    """

    def __init__(self, events: EventLog, provenance: ProvenanceRecorder | None) -> None:
        self._events, self._provenance = events, provenance
        self._counts: Counter[str] = Counter()
        self._costs: Counter[str] = Counter()
        self._busy_s: defaultdict[str, float] = defaultdict(float)
        self._devices: dict[str, list[str]] = {}
        #: Of dispatches through a row of models: who did them; and of the jobs that they were made
        #: beforehand in, which one.
        self._worker_of: dict[int, str] = {}
        self._made_in: dict[int, int] = {}
        self.models = ModelsElsewhere()
        self._handlers: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "job_done": self._done,
            "job_failed": self._failed,
            "job_withdrawn": self._count("jobs_withdrawn"),
            "worker_started": self._on_devices,
            "worker_attached": self._on_devices,
            "model_loaded": self._count("model_loads"),
            "evicted": self._count("evictions"),
            "worker_died": self._count("worker_crashes"),
            "model_moved": self._moved,
            "stage_done": self._stage,
            "dispatch_saved": self._saved,
            "batch_done": self._batch,
            "batch_lost": self._batch,
        }

    def take_news(self, news: Iterable[News], now_s: float) -> None:
        """Write down what the other process says, as if it had happened here."""
        for each in news:
            if not each.is_fact:
                self.models.take(each.name, each.fields, now_s)
                self._events.write(each.name, each.fields, each.time_s)
                handler = self._handlers.get(each.name)
                if handler is not None:
                    handler(each.fields)
            elif self._provenance is not None:
                self._provenance.fact(each.name, each.fields)

    def added_to(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Return a summary with the figures of these jobs beside those that it has."""
        if not self._counts and not self._costs:
            return dict(summary)
        added = dict(summary)
        for name, count in self._counts.items():
            added[name] = added.get(name, 0) + count
        added["costs"] = _sum(summary["costs"], self._costs)
        added["devices"] = {
            name: {**figures, "busy_s": round(figures["busy_s"] + self._busy_s[name], 6)}
            for name, figures in summary["devices"].items()
        }
        return added

    def _count(self, name: str) -> Callable[[Mapping[str, Any]], None]:
        return lambda fields: self._counts.update({name: 1})

    def _done(self, fields: Mapping[str, Any]) -> None:
        distinct = self._items(fields)
        self._counts.update({"jobs_served": 1, "items_computed": distinct})
        made_in = self._made_in.pop(fields["job_id"], None)
        if made_in is not None:  # when it was computed nobody was charged for it
            self._book(self._worker_of.get(made_in, ""), fields.get("device_s", 0.0))

    def _failed(self, fields: Mapping[str, Any]) -> None:
        self._items(fields)
        self._counts["jobs_failed"] += 1

    def _items(self, fields: Mapping[str, Any]) -> int:
        """Count a job's items; return how many had to be computed for it, and for no other."""
        items, reused = fields.get("items", 0), fields.get("reused", 0)
        distinct = items - fields.get("duplicates", 0) - reused
        self._counts.update({"items": items, "items_unique": distinct, "items_reused": reused})
        return int(distinct)

    def _on_devices(self, fields: Mapping[str, Any]) -> None:
        self._devices[fields["worker"]] = list(fields.get("devices", ()))

    def _moved(self, fields: Mapping[str, Any]) -> None:
        self._counts["offloads"] += list(fields["to"]) == ["cpu"]

    def _stage(self, fields: Mapping[str, Any]) -> None:
        self._counts["chains_merged"] += fields["stage"] == 0
        self._worker_of[fields["batch"]] = fields["worker"]

    def _saved(self, fields: Mapping[str, Any]) -> None:
        self._counts["dispatches_saved"] += 1
        if "batch" in fields:
            self._made_in[fields["job_id"]] = fields["batch"]

    def _batch(self, fields: Mapping[str, Any]) -> None:
        self._book(fields["worker"], sum(fields.get("device_s", ())), fields.get("lost_s", 0.0))

    def _book(self, worker: str, jobs_s: float, lost_s: float = 0.0) -> None:
        self._costs.update({"jobs_s": jobs_s, "lost_s": lost_s})
        devices = self._devices.get(worker, [])
        for name in devices:
            self._busy_s[name] += (jobs_s + lost_s) / len(devices)


def _sum(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {
        name: round(first.get(name, 0.0) + second.get(name, 0.0), 6) for name in {**first, **second}
    }
