"""Finds out which models jobs will need that are still to come, where none of them has come yet.

The forecast says what the first job of a kind will ask for, as far as it is known before the job
is ready; a process of the tool says which model that is. From then on the model is one like others:
:mod:`~.ahead` has it loaded on a device that nobody uses. What the jobs say counts, once there
are some. Pure decisions.
"""

from __future__ import annotations

import itertools

from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.errors import ImpossibleRequest
from snakemake_executor_gpupool.scheduling.files.ahead import is_asked
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.models.ahead import LoadAhead
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.wire.described import ModelInfo
from snakemake_executor_gpupool.wire.requests import Request

#: So many kinds are remembered that were asked for; those asked for first are forgotten first.
MAX_ASKED = 1000


class Foretelling:
    """Asks for the models of the kinds that are used first, each once."""

    def __init__(
        self, files: FileScheduler, models: ModelTable, outlook: Outlook, ahead: LoadAhead
    ) -> None:
        self._files = files
        self._models = models
        self._outlook = outlook
        self._ahead = ahead
        self._numbers = itertools.count(1)
        #: By the numbers of questions without an answer so far.
        self._open: dict[int, tuple[str, Request]] = {}
        #: Values mean nothing; a dict has an order.
        self._asked: dict[str, None] = {}

    def ask(self, most: int, now_s: float) -> None:
        """Ask for so many models at most, those that are used first."""
        for number, (_, request) in list(self._open.items()):
            tool = self._files.known(request.tool)
            if tool is None or not is_asked(tool, number):
                del self._open[number]  # its process has ended
        if most <= len(self._open) or not self._outlook.knows_what_is_ready():
            return
        for _, kind, request in self._outlook.unmet():
            is_elsewhere = request.devices is not None and not is_gpu(request.devices)
            if kind in self._asked or is_elsewhere or not self._may_ask(request):
                continue
            if len(self._open) == most:
                break
            number = next(self._numbers)
            self._asked[kind] = None
            self._open[number] = kind, request
            self._files.ask(number, request, now_s)
        while len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def _may_ask(self, request: Request) -> bool:
        tool = self._files.known(request.tool)
        return tool is None or not (tool.error or tool.is_barred_ahead)

    def answered(self, number: int, described: ModelInfo | None, now_s: float) -> None:
        """A process has said which model it is; None: it could not."""
        kind, request = self._open.pop(number, ("", None))
        tool = None if request is None else self._files.known(request.tool)
        if request is None or described is None or tool is None or tool.info is None:
            return
        try:
            model = self._models.of_request(request, tool, described, is_foretold=True)
        except ImpossibleRequest:
            return  # its job will say so
        self._outlook.foretell(kind, model.key)
        self._ahead.look_soon(now_s)
