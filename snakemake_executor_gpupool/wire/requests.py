"""A job as the pool sees it: a plain value, free of Snakemake."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec


@dataclass(frozen=True)
class ToolRef:
    """Which tool, and in which Python it runs.

    Two jobs of one ``ToolRef`` share their processes for reading and writing; whether
    they share a model is decided by what those processes say of the tool and its params.
    """

    #: Entry-point name, ``package.module:Class`` or ``path/to/file.py:Class``.
    spec: str
    #: Directory that a relative file path refers to.
    base_dir: str
    #: Interpreter to run the tool under.
    python: str
    #: Directory of the rule's own software environment; empty: it has none.
    environment: str = ""
    #: Specs of further tools that the same processes hold: those of a chain.
    more: tuple[str, ...] = ()
    #: Shell commands that enter it and then run ``"$@"``.
    activation: str = dataclasses.field(default="", repr=False)
    #: What the user called it.
    name: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        return self.name or self.spec


@dataclass(frozen=True)
class Request:
    """One served job.

    Attributes
    ----------
    job_id
        The pool's own number of the job, unique in the run.
    title
        What messages call it: rule and wildcards. Nothing is found by it: two jobs may share one.
    job
        The pickled :class:`~snakemake_executor_gpupool.tool_api.values.Job`, for workers alone.
    bare
        The pickled job without its resources, which are not known beforehand: what its outputs
        depend on. A guess has no other ``job``.
    params
        The pickled params, for ``load`` and ``run``.
    cwd
        The directory that the job's relative paths start from.
    devices
        What the rule asks for; None: the tool's own preference.
    attempt
        1 for a job's first try; a later one also retries a model that could not be loaded.
    input_bytes
        Of its input files, as far as known.
    updates
        Which outputs a tool finds as they were, and where a copy of each is.
    touched
        Which outputs a tool need not write, as Snakemake makes them.
    directories
        Which outputs the rule declares as directories.
    goes_on
        It is the rest of something that has begun: it is done even if nothing new is started.
    identity
        What tells the job from every other of the workflow; a guess has that of the job it is for.
    follow
        The jobs that read what this one writes, one after the other, as far as they can be
        told beforehand. They are guesses: their own requests, once their jobs are ready, count.
    """

    job_id: int
    title: str
    tool: ToolRef
    job: bytes
    params: bytes
    cwd: str
    devices: DeviceSpec | None = None
    instance: str = ""
    vram_mib: int | None = None
    priority: int = 0
    timeout_s: float | None = None
    attempt: int = 1
    bare: bytes = b""
    input_bytes: int = 0
    updates: tuple[tuple[int, str], ...] = ()
    touched: tuple[int, ...] = ()
    directories: tuple[int, ...] | None = None
    identity: tuple[str, ...] = ()
    goes_on: bool = False
    follow: tuple[Request, ...] = ()


@dataclass(frozen=True)
class JobReport:
    """How a job ended, for whoever submitted it.

    Attributes
    ----------
    error
        None if it succeeded, else the message for the user.
    seconds
        The job's share of the time its batches took, plus reading and writing.
    withdrawn
        It was not started, as nothing new was to be.
    """

    job_id: int
    error: str | None = None
    seconds: float = 0.0
    details: dict[str, object] = dataclasses.field(default_factory=dict)
    withdrawn: bool = False
