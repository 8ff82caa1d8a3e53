"""The models for which time alone may change something soon. Pure.

All models are looked at now and then; these few in between, so that a moment that is due for one
of them costs nothing for hundreds of others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.models.model import Model

#: How often it is looked, while a window is open, whether inputs are still being read.
GATHER_LOOK_S = 0.05


class DueModels:
    """Models with an open window, with items that rest, or whose workers are kept for a moment.

    Parameters
    ----------
    window_s
        For how long windows are open, at most.
    blame_tracker
        Knows when those that are suspected are tried again.
    """

    def __init__(self, window_s: float, blame_tracker: BlameTracker) -> None:
        self._window_s = window_s
        self._blame_tracker = blame_tracker
        #: Whose window is open, the one that was opened first before the others.
        self._windows: dict[Hashable, Model] = {}
        self._resting: dict[Hashable, Model] = {}
        self._keeping: dict[Hashable, Model] = {}
        self._kept_until_s = self._looked_s = -math.inf

    def watch(self, model: Model, now_s: float) -> None:
        """Look at a model again, if something is due for it; to be called when it has changed."""
        if self._window_ends_s(model) > now_s:
            self._windows.setdefault(model.key, model)
        else:
            self._windows.pop(model.key, None)
        if model.resting:
            self._resting[model.key] = model

    def keeps(self, model: Model, until_s: float) -> None:
        """Look again at a model that has an idle worker kept until some time."""
        self._keeping[model.key] = model
        self._kept_until_s = max(self._kept_until_s, until_s)

    def forget(self, model: Model) -> None:
        """Forget a model."""
        for table in (self._windows, self._resting, self._keeping):
            table.pop(model.key, None)

    def _window_ends_s(self, model: Model) -> float:
        opened_s = model.window_opened_s
        return -math.inf if opened_s is None else opened_s + self._window_s

    def _suspects(self) -> list[Model]:
        return [each for each in self._blame_tracker.suspects if isinstance(each, Model)]

    def take(self, now_s: float) -> list[Model]:
        """Return the models to look at now; what is still due for them is noted when they are."""
        due = {model.key: model for model in self._suspects()} | self._resting
        self._resting.clear()
        if now_s - self._looked_s >= GATHER_LOOK_S:
            due |= {**self._windows, **self._keeping}
            self.all_looked_at(now_s)
            return list(due.values())
        # Windows end one after the other: nothing but the first ones is looked at for that.
        for model in self._windows.values():
            if self._window_ends_s(model) > now_s:
                break
            due[model.key] = model
        for key in due:
            self._windows.pop(key, None)
        return list(due.values())

    def all_looked_at(self, now_s: float) -> None:
        """All models are looked at now."""
        self._looked_s = now_s
        for table in (self._windows, self._resting, self._keeping):
            table.clear()

    def next_wake_s(self, now_s: float) -> float:
        """Return when something is next due, at most a second away."""
        wake_s = now_s + (GATHER_LOOK_S if self._kept_until_s > now_s else 1.0)
        for model in self._windows.values():
            # Until the window closes; a model that loads longer is fed once it is loaded.
            end_s = self._window_ends_s(model)
            if end_s > now_s:
                wake_s = min(wake_s, end_s, now_s + GATHER_LOOK_S)
                break  # all others end later
        for model in self._resting.values():
            wake_s = _soonest(wake_s, now_s, (until_s for until_s, _ in model.resting))
        if not self._blame_tracker.has_suspects:
            return wake_s
        return _soonest(wake_s, now_s, map(self._blame_tracker.next_try_s, self._suspects()))


def _soonest(wake_s: float, now_s: float, times_s: Iterable[float]) -> float:
    """Return the first of times that are still to come; ``wake_s`` if all come later."""
    return min((time_s for time_s in times_s if now_s < time_s < wake_s), default=wake_s)
