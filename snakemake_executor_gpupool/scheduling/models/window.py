"""Whether a model's first batch is cut yet, or more inputs may arrive before. Pure."""

from __future__ import annotations

from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.outlook import Outlook

#: Jobs that were a moment away and did not come are waited for so often: something holds them back.
MAX_VAIN_WINDOWS = 2


class BatchWindow:
    """The time within which the jobs of a model without work are gathered.

    Parameters
    ----------
    most_s
        How long a model without work waits for the inputs still being read.
    outlook
        Knows what is about to come.
    """

    def __init__(self, most_s: float, outlook: Outlook) -> None:
        self._most_s = most_s
        self._outlook = outlook

    def is_open(self, model: Model, now_s: float) -> bool:
        """Return whether to let more inputs arrive; a window that is over is closed."""
        if model.window_opened_s is None:
            return False
        if model.has_full_round:
            model.window_opened_s = None
            return False
        if self.only_gathers(model, now_s):
            return True
        waited_s = now_s - model.window_opened_s
        # A batch less saves its fixed time: that long it pays to wait.
        limit_s = min(self._most_s, model.speed.fixed_s)
        if limit_s and model.vain_windows < MAX_VAIN_WINDOWS and self._is_awaited(model):
            if waited_s < limit_s:
                return True
            model.vain_windows += 1
        if any(worker.is_feedable for worker in model.alive):
            model.window_opened_s = None
        return False

    def only_gathers(self, model: Model, now_s: float) -> bool:
        """Tell whether a window is open since inputs are being read: nothing else is to be done."""
        if model.window_opened_s is None or now_s - model.window_opened_s >= self._most_s:
            return False
        return not model.has_full_round and self._is_reading(model)

    def _is_reading(self, model: Model) -> bool:
        """Whether inputs are being read that may be the model's, as far as is known."""
        if model.is_chain or not self._outlook.is_known:
            return model.tool.is_reading
        return model.tool.is_reading and self._outlook.is_reading(model)

    def _is_awaited(self, model: Model) -> bool:
        """Whether more items are a moment away than wait."""
        return self._outlook.is_known and self._outlook.items_imminent(model) > model.waiting > 0
