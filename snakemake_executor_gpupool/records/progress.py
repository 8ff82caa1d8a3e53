"""What a user sees during and after a run: plain lines, few of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from snakemake_executor_gpupool.scheduling.models.model import Model

#: Seconds between two rounds of progress lines: the first soon, later ones rarer.
FIRST_INTERVAL_S = 5.0
LONGEST_INTERVAL_S = 60.0


class Progress:
    """Decides when the next progress lines are due, and what they say."""

    def __init__(self, now_s: float) -> None:
        self._started_s = now_s
        self._interval_s = FIRST_INTERVAL_S
        self._due_s = now_s + FIRST_INTERVAL_S
        self._last_done: dict[Hashable, tuple[int, float]] = {}

    def lines(self, models: Iterable[Model], now_s: float) -> list[str]:
        """Return a line for each tool at work, if it is time for one; else nothing."""
        if now_s < self._due_s:
            return []
        self._interval_s = min(self._interval_s * 1.5, LONGEST_INTERVAL_S)
        self._due_s = now_s + self._interval_s
        return [self._line(model, now_s) for model in models if self._is_active(model)]

    @staticmethod
    def _is_active(model: Model) -> bool:
        return bool(model.waiting or model.in_flight)

    def _line(self, model: Model, now_s: float) -> str:
        done, since_s = self._last_done.get(model.key, (0, self._started_s))
        self._last_done[model.key] = (model.items_done, now_s)
        rate = (model.items_done - done) / max(now_s - since_s, 1e-6)
        devices = ", ".join(sorted({d.name for w in model.alive for d in w.devices}))
        parts = [
            f"gpupool: {model.name}: {model.items_done}/{model.items_total} unique items "
            f"(of {model.places})",
            f"{rate:.1f} items/s",
            f"ETA {format_seconds(model.remaining_s())}",
            f"on {devices}" if devices else "waiting for a device",
        ]
        return ", ".join(parts)


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
    failed = f", {summary['jobs_failed']} failed" if summary["jobs_failed"] else ""
    evictions = f", {summary['evictions']} evictions" if summary["evictions"] else ""
    saved = f", {summary['dispatches_saved']} dispatches saved" * bool(summary["dispatches_saved"])
    crashes = f", {summary['worker_crashes']} worker crashes" if summary["worker_crashes"] else ""
    simulated = " (SIMULATED devices)" if summary["simulated"] else ""
    return (
        f"gpupool: served {summary['jobs_served']} jobs{failed}: {summary['items']} items, "
        f"{summary['items_unique']} computed, {summary['model_loads']} model loads"
        f"{saved}{evictions}{crashes}, {format_seconds(float(str(summary['wall_s'])))}{simulated}"
    )
