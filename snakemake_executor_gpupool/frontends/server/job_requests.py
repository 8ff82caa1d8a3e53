"""From a client's message to a request for the pool, and from the pool's report to an answer."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, parse_device
from snakemake_executor_gpupool.errors import CodeChanged, GpupoolError, WeightsChanged
from snakemake_executor_gpupool.frontends.commandline.job_words import build_job
from snakemake_executor_gpupool.frontends.server.printouts import Printout
from snakemake_executor_gpupool.hosts.running import QUOTED
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.tool_api.tool_spec import resolve_spec, split_spec
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.requests import (
    PICKLE_PROTOCOL,
    Container,
    JobFacts,
    JobReport,
    Request,
    ToolRef,
)

#: Errors of the command line's words, as the cold command has them.
MISUSE = ("UnknownTool", "UnknownParam", "ConfigError")
#: Errors of a tool's processes that have not met what they were to start from.
CHANGES = CodeChanged.__name__, WeightsChanged.__name__
#: What an error is called that is the end of a process.
WORKER_DIED = "WorkerDied"
#: Errors after which a tool's processes are not to be asked again: the next ones may do better.
SPOILING = (*CHANGES, "UnlistedCode", "UnknownTool", WORKER_DIED, "ImportError")
#: What is said of a tool whose jobs are in a shadow directory, and see no weights there.
RELATIVE = (
    "{} has weights whose relative name is another file, or none, where its job is done (in a "
    "shadow directory, for example): with an absolute name the server loads them"
)
#: The types of messages that hold a job: what is to be done of it.
RUN, PRELOAD = "run", "preload"
_TEXTS = ("tool", "cwd", "rule")
_GROUPS = ("input", "output", "param", "wildcard")


class ComputeThere(GpupoolError):
    """A job is not one for this server: its client is to see to it itself."""


class Renewed(GpupoolError):
    """gpupool was installed anew."""


class BadMessage(GpupoolError):
    """A client has sent what makes no sense."""


@dataclass(frozen=True)
class Entrance:
    """How processes get into a software environment of their own; as :class:`ToolRef` has it."""

    python: str
    environment: str
    activation: str
    container: Container | None

    def fields(self) -> dict[str, Any]:
        """Return the fields of a reference to a tool that it stands for."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}


@dataclass(frozen=True)
class ClientJob:
    """What a client wants done.

    Attributes
    ----------
    spec
        The tool; a file by its real path.
    name
        The tool as the user named it.
    """

    spec: str
    name: str
    job: Job
    device: DeviceSpec | None
    cwd: str
    umask: int
    variables: Mapping[str, str]
    #: Its model is to be loaded, and that is all.
    loads_only: bool = False
    #: How its tool's own software environment is entered; None: it has none.
    entrance: Entrance | None = None
    #: The jobs that are known to follow it, as far as models may be merged.
    after: ClassVar[tuple[ClientJob, ...]] = ()
    #: What was printed for each of its tries.
    printouts: list[Printout] = field(default_factory=list, compare=False)

    @property
    def title(self) -> str:
        """What messages call it."""
        if self.job.rule:
            return f"rule {self.job.rule}"
        return f"{'preload' if self.loads_only else 'run'} of {self.name}"

    def device_lacking(self, there: Iterable[str]) -> str:
        """Return which devices it names that are not among these."""
        names, known = (self.device.names if self.device is not None else ()), set(there)
        return ", ".join(name for name in names or () if name not in known)

    @property
    def files_in(self) -> str:
        """Where its relative paths start from."""
        return self.cwd

    def outputs(self) -> list[str]:
        """Return its outputs by their absolute paths."""
        return [os.path.join(self.cwd, path) for path in self.job.output]

    #: Whether it can be begun again after its tool's code has changed.
    is_repeatable: ClassVar[bool] = True
    #: Whether its client shows what its tool prints.
    is_shown: ClassVar[bool] = True

    def take_printout(self, printout: Printout) -> None:
        """Take what was printed for a try, which has ended."""
        self.printouts.append(printout)

    def submit(self, pool: Pool, job_id: int, ref: ToolRef, after: Sequence[ToolRef] = ()) -> None:
        """Have the pool do it; ``after`` are the tools of as many jobs that follow."""
        pool.submit([self.request(job_id, ref, after)])

    def request(self, job_id: int, ref: ToolRef, after: Sequence[ToolRef] = ()) -> Request:
        """Return the request for the pool."""
        job = self.job
        data = pickle.dumps(job, PICKLE_PROTOCOL)
        files = list(job.input), list(job.output), list(job.log)
        return Request(
            job_id=job_id,
            title=self.title,
            tool=ref,
            job=data,
            bare=data,
            params=pickle.dumps(dict(job.params), PICKLE_PROTOCOL),
            cwd=self.cwd,
            devices=self.device,
            # Each run is meant to be tried, whatever became of the model in an earlier one.
            attempt=2,
            loads_only=self.loads_only,
            facts=JobFacts.of(job.rule, job.wildcards, *files, job.threads),
            has_provenance=False,
            is_strict=True,
            prints_apart=True,
        )


def read_job(message: Mapping[str, Any]) -> ClientJob:
    """Return what a client's message asks for.

    Raises
    ------
    BadMessage
        It is malformed.
    GpupoolError
        There is no such tool or device, or a param cannot be read.
    """
    texts = {name: message.get(name) for name in _TEXTS}
    groups = {name: message.get(name) for name in _GROUPS}
    variables, umask = message.get("variables"), message.get("umask")
    is_sound = (
        all(isinstance(text, str) for text in texts.values())
        and all(map(_are_groups, groups.values()))
        and isinstance(variables, dict)
        and all(isinstance(value, str) for value in variables.values())
        and type(umask) is int
        and 0 <= umask <= 0o777
        and type(message.get("threads")) is int
        and isinstance(message.get("device"), (str, type(None)))
        and isinstance(message.get("log"), (str, type(None)))
        and os.path.isabs(str(texts["cwd"]))
    )
    if not is_sound:
        raise BadMessage("a job's message is malformed")
    more = {"log": message["log"], "threads": message["threads"]}
    options = argparse.Namespace(**texts, **groups, **more)
    device = message["device"]
    return ClientJob(
        spec=_spec_of(options.tool, options.cwd),
        name=options.tool,
        job=build_job(options),
        device=parse_device(device) if device else None,
        cwd=options.cwd,
        umask=message["umask"],
        variables=message["variables"],
        loads_only=message["type"] == PRELOAD,
    )


def refuse_relative_weights(kind: str, job: ClientJob, ref: ToolRef) -> None:
    """See that an error is not that of weights which are elsewhere for a job than for its model.

    Raises
    ------
    ComputeThere
        It is: processes that start where the job's tool does can never agree.
    """
    if kind == WeightsChanged.__name__ and ref.base_dir == job.cwd != job.files_in:
        raise ComputeThere(RELATIVE.format(job.name))


def _are_groups(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(group, list) and all(isinstance(word, str) for word in group) for group in value
    )


def _spec_of(tool: str, cwd: str) -> str:
    """Return a tool's name with the real path of its file, if it is one.

    Which tools are installed is left to a process of the client's environment: this one may have
    been there before the last was installed.
    """
    place, _ = split_spec(tool)
    return resolve_spec(tool, cwd) if place.endswith(".py") or os.sep in place else tool


def answer_of(report: JobReport, job: ClientJob, version: str) -> dict[str, Any]:
    """Return what a client is told of its job's end."""
    printout = job.printouts[-1] if job.printouts else Printout()
    shown = {"printed": printout.places, "left_out": printout.left_out}
    if report.error is None:
        return {"type": "done", "version": version, "seconds": report.seconds, **shown}
    first, _, rest = report.error.partition("\n")
    message = first.removeprefix(f"{job.title}: ")
    has_died = report.cause is None or report.cause.type == WORKER_DIED
    if not has_died or printout.exit_code is None:
        return {**failure(message, report.cause, rest), **shown}
    # What it has printed is shown, and need not be quoted.
    message = message.partition(QUOTED)[0]
    code = {"exit_code": printout.exit_code} if printout.exit_code else {}
    return {**failure(message, report.cause), **shown, **code}


def failure(message: str, cause: WorkerError | None, traceback: str = "") -> dict[str, Any]:
    """Return what a client is told of a job that has failed."""
    is_misuse = cause is not None and cause.type in MISUSE
    if is_misuse and cause is not None:
        message, traceback = cause.message, ""
    return {
        "type": "failed",
        "message": message,
        "traceback": traceback,
        "is_input": cause is not None and cause.is_plain,
        "is_misuse": is_misuse,
    }


def lacks_a_file(error: WorkerError | None) -> bool:
    """Return whether an error is that a file is not there."""
    words = ("FileNotFoundError", "No such file or directory")
    return error is not None and any(word in f"{error.type}: {error.message}" for word in words)
