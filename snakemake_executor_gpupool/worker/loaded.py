"""Creates the objects of a tool's class: those for files, and the one that holds the model.

An object that reads or writes serves one job and sees all its params. One that holds a model
serves many jobs: it sees the params that its class declares, and state that a run left on it is
removed before the params change. Workers and cold jobs both create objects here, so a mistake
shows everywhere.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools
import inspect
import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.declared import Declaration, DeclaredParams
from snakemake_executor_gpupool.tool_api.reproducible import mode_here
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.payload import PICKLE_PROTOCOL
from snakemake_executor_gpupool.worker import numerics
from snakemake_executor_gpupool.worker.baseline import Baseline, work_for
from snakemake_executor_gpupool.worker.describe import item_key
from snakemake_executor_gpupool.worker.same_bits import SameBits

#: Why a reference to the params of an earlier run is refused.
_STALE = "from params that it kept in an earlier run(): take self.params anew in each run()"


def for_files(tool_class: type[Tool], params: Mapping[str, Any] | None) -> Tool:
    """Return an object that reads or writes one job's files.

    Raises
    ------
    InputError
        The class cannot be created with params alone.
    """
    return _made(tool_class, params)


def _made(tool_class: type[Tool], params: Mapping[str, Any] | None) -> Tool:
    plain: Any = tool_class
    if _takes_params(plain):
        tool: Tool = tool_class(params)
    else:
        tool = plain.__new__(tool_class, params)
        plain.__init__(tool)
    tool._key_of = item_key
    return tool


@functools.lru_cache(maxsize=256)
def _takes_params(tool_class: Any) -> bool:
    """Return whether a class takes the params as an argument; else it takes none."""
    signature = inspect.signature(tool_class.__init__)
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    name = tool_class.__name__
    raise InputError(
        f"{name}.__init__{signature} needs more than the params, but a {name} is created with them "
        "alone: def __init__(self, params)"
    )


class RestoredTools:
    """Creates the objects for jobs' files, each with its tool's code in its original state.

    Parameters
    ----------
    tool_classes
        Tools whose code may change before one of them is created here first.
    """

    def __init__(self, tool_classes: Iterable[type[Tool]] = ()) -> None:
        #: By class: its code as it was imported.
        self._imported = {each: Baseline(each) for each in tool_classes}

    def know(self, tool_class: type[Tool]) -> None:
        """Note a tool's code as it is, unless that is known: it was imported just now."""
        if tool_class not in self._imported:
            self._imported[tool_class] = Baseline(tool_class)

    def restore(self, tool_class: type[Tool]) -> None:
        """Put a tool's code back into its original state."""
        self.know(tool_class)
        work_for(object(), self._imported[tool_class])

    def for_job(self, tool_class: type[Tool], job: Job) -> Tool:
        """Return an object for a job's files."""
        self.restore(tool_class)
        return for_files(tool_class, job.params)


class LoadedTool:
    """The object that holds a model, and the params that it may see.

    Parameters
    ----------
    tool_class, params
        The tool, and the params of the first job that needs the model; ``__init__`` may read the
        same ones as ``load``.
    serves_many
        Whether it runs under the params of several jobs. What one run leaves in the object and
        in the tool's code is then removed before the next params.

    Attributes
    ----------
    same_bits
        How the items of a reproducible run are computed; None: the run is none.

    Raises
    ------
    ContractError
        The run is reproducible, and the tool cannot be.
    """

    def __init__(
        self,
        tool_class: type[Tool],
        params: Mapping[str, Any] | None,
        serves_many: bool = True,
    ) -> None:
        self.same_bits = SameBits(tool_class) if mode_here().is_reproducible else None
        given = DeclaredParams(params or {}, Declaration(tool_class, "__init__"))
        self.tool = _made(tool_class, given)
        given.raise_if_misread()
        own = self.tool.params
        declaration = Declaration(self.tool, "load")
        if isinstance(own, DeclaredParams):
            own.raise_if_misread()
            self._of_model = own.seen_by(declaration)
        else:  # its __init__ has put a dict of its own there
            hidden = tuple(given.given_names() - set(own))
            self._of_model = DeclaredParams(own, declaration, hidden)
        self._kept: Baseline | None = None
        self._serves_many = serves_many
        self._mark = object()  # not the object itself, which would keep the model alive
        self._of_run: DeclaredParams | None = None
        self._run_ident = b""
        self.tool.params = self._of_model

    def load(self, device: str) -> None:
        """Load the model.

        Raises
        ------
        UndeclaredParam
            ``load`` has read a param that does not choose the model.
        """
        self.tool.device = device
        self._settle()
        self.tool.load(device)
        self._of_model.raise_if_misread()
        self._keep_state()

    def move(self, device: str) -> None:
        """Move the model to another device."""
        work_for(self._mark, self._kept)
        self.tool.params = self._of_model
        self.tool.to(device)  # type: ignore[attr-defined]
        self.tool.device = device
        self._of_model.raise_if_misread()
        self._keep_state()

    def show(self, params: Mapping[str, Any]) -> Tool:
        """Return the object, ready to run under the params of some jobs."""
        values = {**self.tool.defaults, **params, **self._of_model.allowed()}
        shown = DeclaredParams(values, Declaration(self.tool, "run"))
        ident = _ident(shown)
        if self._of_run is None or ident != self._run_ident:
            if self._of_run is not None:
                self._of_run.end(_STALE)
            self._of_run, self._run_ident = shown, ident
        work_for((self._mark, self._run_ident), self._kept)
        self._settle()
        self.tool.params = self._of_run
        return self.tool

    def _settle(self) -> None:
        """Have libraries compute in one way only, if the run is reproducible."""
        if self.same_bits is not None:
            numerics.settle(self.tool.device)

    # -- what a run leaves behind ----------------------------------------------------
    def _keep_state(self) -> None:
        """Record the state that runs must not change, as it may depend on params."""
        if self._serves_many:
            self._kept = Baseline(type(self.tool), [self.tool])


def _ident(params: DeclaredParams) -> bytes:
    """Return a text that is equal for two calls of ``run`` that see the same params."""
    what = sorted(params.allowed().items()), sorted(params.given_names())
    try:
        return pickle.dumps(what, PICKLE_PROTOCOL)
    except Exception:  # then it differs each time
        return os.urandom(16)
