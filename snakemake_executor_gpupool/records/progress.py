"""The lines that a user sees during and after a run."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

#: Seconds between rounds of progress lines: short at first, longer later.
FIRST_INTERVAL_S = 5.0
LONGEST_INTERVAL_S = 60.0


@dataclass(frozen=True)
class ModelState:
    """The progress of one model.

    Attributes
    ----------
    key
        Distinguishes models of one name.
    done, total, places
        Distinct items computed so far, distinct items known so far, and all items with duplicates.
    is_active
        Whether any item waits or is in flight.
    remaining_s
        Estimated seconds until all items are done; None: unknown.
    devices
        Names of the devices that the model is on.
    loading_s, last_load_s
        For how many seconds it has been loading, if no worker has it yet; how long the last load
        took. None: it is not loading; it was never loaded.
    """

    key: Hashable
    name: str
    done: int
    total: int
    places: int
    is_active: bool
    remaining_s: float | None
    devices: tuple[str, ...]
    loading_s: float | None = None
    last_load_s: float | None = None


class Progress:
    """Decides when progress lines are due, and writes them."""

    def __init__(self, now_s: float) -> None:
        self._started_s = now_s
        self._interval_s = FIRST_INTERVAL_S
        self._due_s = now_s + FIRST_INTERVAL_S
        self._last_done: dict[Hashable, tuple[int, float]] = {}

    def is_due(self, now_s: float) -> bool:
        """Return whether lines are due; ``now_s`` is monotonic."""
        return now_s >= self._due_s

    def lines(self, models: Iterable[ModelState], now_s: float) -> list[str]:
        """Return a line for each active model, and set when the next lines are due."""
        if not self.is_due(now_s):
            return []
        self._interval_s = min(self._interval_s * 1.5, LONGEST_INTERVAL_S)
        self._due_s = now_s + self._interval_s
        return [self._line(model, now_s) for model in models if model.is_active]

    def _line(self, model: ModelState, now_s: float) -> str:
        done, since_s = self._last_done.get(model.key, (0, self._started_s))
        self._last_done[model.key] = (model.done, now_s)
        rate = (model.done - done) / max(now_s - since_s, 1e-6)
        devices = ", ".join(model.devices)
        items = f"{model.done}/{model.total} unique items (of {model.places})"
        if model.loading_s is not None:
            so_far = f"{format_seconds(model.loading_s)} so far"
            known = "" if model.last_load_s is None else f", {_last(model.last_load_s)}"
            return f"gpupool: loading {model.name} ({so_far}{known}) on {devices}, {items}"
        parts = [
            f"gpupool: {model.name}: {items}",
            f"{rate:.1f} items/s",
            f"ETA {format_seconds(model.remaining_s)}",
            f"on {devices}" if devices else "waiting for a device",
        ]
        return ", ".join(parts)


def _last(seconds: float) -> str:
    return f"{format_seconds(seconds)} last time"


def format_seconds(seconds: float | None) -> str:
    """Return a duration as people read it: ``42 s``, ``3 min``, ``1 h 20 min``."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def closing_line(summary: dict[str, object]) -> str:
    """Return the one line that closes a run."""
    left = f", {summary['jobs_withdrawn']} not started" if summary["jobs_withdrawn"] else ""
    failed = f", {summary['jobs_failed']} failed" if summary["jobs_failed"] else ""
    evictions = f", {summary['evictions']} evictions" if summary["evictions"] else ""
    saved = f", {summary['dispatches_saved']} dispatches saved" * bool(summary["dispatches_saved"])
    crashes = f", {summary['worker_crashes']} worker crashes" if summary["worker_crashes"] else ""
    simulated = " (SIMULATED devices)" if summary["simulated"] else ""
    return (
        f"gpupool: served {summary['jobs_served']} jobs{failed}{left}: {summary['items']} items, "
        f"{summary['items_computed']} computed, {summary['model_loads']} model loads"
        f"{saved}{evictions}{crashes}, {format_seconds(float(str(summary['wall_s'])))}{simulated}"
    )
