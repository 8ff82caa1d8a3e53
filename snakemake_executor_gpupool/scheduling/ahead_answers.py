"""What processes say that do something before there is a job for it. Pure."""

from __future__ import annotations

from collections.abc import Callable

from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.foretelling import Foretelling
from snakemake_executor_gpupool.wire.described import ModelInfo


class AheadAnswers:
    """One method for each of their answers.

    Parameters
    ----------
    settle
        Called last, with the time.
    """

    def __init__(
        self,
        files: FileScheduler,
        dispatch: Dispatch,
        foretelling: Foretelling,
        settle: Callable[[float], None],
    ) -> None:
        self._files = files
        self._dispatch = dispatch
        self._foretelling = foretelling
        self._settle = settle

    def described(self, worker_id: str, number: int, model: ModelInfo | None, now_s: float) -> None:
        """A process has said which model a job will need; None: it could not."""
        self._files.described(worker_id, number, now_s)
        self._foretelling.answered(number, model, now_s)
        self._settle(now_s)

    def checked(self, worker_id: str, *, holds: bool, now_s: float) -> None:
        """A process has said whether what it has done before there was a job still holds."""
        if self._files.owns(worker_id):
            self._files.checked(worker_id, holds=holds, now_s=now_s)
        else:
            self._dispatch.provisional.checked(worker_id, holds=holds, now_s=now_s)
        self._settle(now_s)
