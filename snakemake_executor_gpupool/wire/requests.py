"""A job as the pool sees it: a plain value, independent of Snakemake."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.card_wish import ANY_CARD, CardWish
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.tool_api.mode import DEFAULT_MODE, Mode
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.kept import StoreAddress

#: Stands in the command of a container where arguments for a worker's devices go.
DEVICE_ARGUMENTS = "@gpupool-device-arguments@"
#: Of what requests carry pickled: the highest protocol that Python 3.9 reads.
PICKLE_PROTOCOL = 5


@dataclass(frozen=True)
class Container:
    """The container that a tool's processes run in.

    Attributes
    ----------
    image
        Path of its file or directory.
    name
        As the rule names it: a path or an address.
    digest
        ``sha256:`` and that of the image's content.
    version
        What any change of the image's file changes. A process is started only while it is so.
    arguments
        What the user has containers started with.
    notes
        Directory where processes in it note digests of large files.
    """

    image: str
    name: str
    digest: str
    version: str
    arguments: str = ""
    notes: str = ""


@dataclass(frozen=True)
class ToolRef:
    """Which tool, and in which Python it runs.

    Two jobs of one ``ToolRef`` share file processes; whether they share a model depends on what
    these processes report about the tool and its params.
    """

    #: Entry-point name, ``package.module:Class`` or ``path/to/file.py:Class``.
    spec: str
    #: Directory that a relative file path starts from.
    base_dir: str
    #: Interpreter to run the tool under.
    python: str
    #: Directory of the rule's own software environment; empty: it has none.
    environment: str = ""
    #: Specs of further tools in the same processes: those of a chain.
    more: tuple[str, ...] = ()
    #: Shell commands that enter it and then run ``"$@"``. With a container: that start the worker
    #: in it; :data:`DEVICE_ARGUMENTS` is to be replaced.
    activation: str = dataclasses.field(default="", repr=False)
    #: How the run computes.
    mode: Mode = DEFAULT_MODE
    #: The tool as the user named it.
    name: str = dataclasses.field(default="", compare=False)
    #: Identifies the state of code and software that its processes must start from, as
    #: :func:`joined_stamp` has it; empty: that of the moment. Processes of two stamps have nothing
    #: in common.
    stamp: str = ""
    #: None: its processes run as this one does.
    container: Container | None = None

    def __str__(self) -> str:
        return self.name or self.spec

    @property
    def software(self) -> str:
        """What the keys of kept results must say of it beside the model: what software it has.

        Not the stamp: what that says beyond the model is kept with the results, and looked at
        before they are used.
        """
        software = self.environment
        if self.container is None:
            return software
        return f"{software}#{self.container.digest} {self.container.arguments}"

    @property
    def surroundings(self) -> str:
        """The same within a pool, where results of two stamps have nothing in common."""
        return f"{self.software}#{self.stamp}" if self.stamp else self.software


def start_of(stamp: str) -> str:
    """Return the part of a stamp that tools have in common whose processes start from the same."""
    return stamp.partition(".")[0]


def anywhere(tool: ToolRef) -> ToolRef:
    """Return a tool without the directory that its processes start in, where it has a stamp.

    Of a tool that may start anywhere, since nothing there is of interest to it, results are the
    same wherever that was.
    """
    start, dot, codes = tool.stamp.partition(".")
    if not codes:
        return tool
    return dataclasses.replace(tool, base_dir="", stamp=f"{start.partition('~')[0]}{dot}{codes}")


def joined_stamp(stamps: Iterable[str]) -> str:
    """Return the stamp of a process that has the tools of several, which start from the same.

    ::

        <what it starts from>~<where>.<code of the first>+<code of the second>
    """
    stamps = list(dict.fromkeys(stamps))
    codes = "+".join(stamp.partition(".")[2] for stamp in stamps)
    return f"{start_of(stamps[0])}.{codes}" if any(stamps) else ""


def stamps_of(stamp: str) -> list[str]:
    """Return the stamps that one was joined from, each that of a tool."""
    start, dot, codes = stamp.partition(".")
    return [f"{start}{dot}{code}" for code in codes.split("+")] if stamp else []


#: So many paths of a job are named in the run's events; of the others, how many they are.
MAX_PATHS = 20
#: Of fields that a recorded run leaves out: it names files, and has no contents.
NOT_RECORDED = {"recorded": False}
#: So many inputs of a job are named in the provenance of its outputs.
MAX_INPUTS = 100
#: Characters of its params as JSON; longer ones are left out there.
MAX_PARAMS = 4000


@dataclass(frozen=True)
class JobFacts:
    """What the run's files say of a job beside its title; nothing is decided by it.

    Attributes
    ----------
    n_inputs, n_outputs
        How many there are; ``inputs`` and ``outputs`` name the first ``MAX_PATHS``.
    """

    rule: str = ""
    wildcards: tuple[tuple[str, str], ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    n_inputs: int = 0
    n_outputs: int = 0
    threads: int = 1
    #: For the provenance of outputs: all of them, the first inputs, and the params as JSON.
    all_outputs: tuple[str, ...] = dataclasses.field(default=(), metadata=NOT_RECORDED)
    first_inputs: tuple[str, ...] = dataclasses.field(default=(), metadata=NOT_RECORDED)
    params: str = dataclasses.field(default="", metadata=NOT_RECORDED)
    #: What else doing the job again needs, as JSON; empty: nothing.
    recipe: str = dataclasses.field(default="", metadata=NOT_RECORDED)

    @classmethod
    def of(
        cls,
        rule: str,
        wildcards: Mapping[str, object],
        inputs: Sequence[str],
        outputs: Sequence[str],
        logs: Sequence[str],
        threads: int = 1,
        params: Mapping[str, object] | None = None,
        recipe: str = "",
    ) -> JobFacts:
        """Take what is needed of a job's names and files."""

        def first(paths: Sequence[str]) -> tuple[str, ...]:
            return tuple(str(path) for path in paths[:MAX_PATHS])

        return cls(
            rule=rule,
            wildcards=tuple((name, str(value)) for name, value in wildcards.items()),
            inputs=first(inputs),
            outputs=first(outputs),
            logs=first(logs),
            n_inputs=len(inputs),
            n_outputs=len(outputs),
            threads=threads,
            all_outputs=tuple(map(str, outputs)),
            first_inputs=tuple(str(path) for path in inputs[:MAX_INPUTS]),
            params=params_text(params),
            recipe=recipe,
        )

    def fields(self) -> dict[str, object]:
        """Return what an event says of it; what is empty is left out."""
        fields = {
            "rule": self.rule,
            "wildcards": dict(self.wildcards),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "logs": self.logs,
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            "threads": self.threads,
        }
        return {name: value for name, value in fields.items() if value}


def params_text(params: Mapping[str, object] | None) -> str:
    """Return params as JSON; empty: there are none, or they are too long, or cannot be shown."""
    if not params:
        return ""
    try:
        text = json.dumps(params, default=repr)
    except (TypeError, ValueError, RecursionError):  # a key that is no text; a circle
        return ""
    return text if len(text) <= MAX_PARAMS else ""


def texts_of(value: Any) -> Iterator[str]:
    """Yield the texts in a param that may be paths relative to a directory."""
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        text = str(value)
        if "\0" not in text and not text.startswith("/"):
            yield text
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from texts_of(key)
            yield from texts_of(each)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from texts_of(each)


@dataclass(frozen=True)
class Request:
    """One served job.

    Attributes
    ----------
    job_id
        The pool's own number of the job, unique in the run.
    title
        Rule and wildcards, for messages. Not unique: two jobs may have the same.
    job
        The pickled :class:`~snakemake_executor_gpupool.tool_api.values.Job`, for workers alone.
    bare
        The pickled job without its resources, which are not known beforehand. A guess has only
        this one.
    params
        The pickled params, for ``load`` and ``run``.
    cwd
        The directory that the job's relative paths start from.
    devices
        What the rule asks for; None: the tool's own preference.
    card
        Which cards, also where ``devices`` is None.
    attempt
        1 for a job's first try; a later one also retries a model that could not be loaded.
    input_bytes
        Of its input files, as far as known.
    updates
        Indices of outputs that the job updates, each with the path of a copy.
    touched
        Indices of outputs that Snakemake creates itself: the tool need not write them.
    directories
        Indices of outputs that the rule declares as directories; None: not known.
    goes_on
        It continues something that has begun: it is served even when nothing new may start.
    identity
        Identifies the job within the workflow; a guess has the identity of its job.
    follow
        The chain of jobs that read this one's outputs, as far as they are known beforehand. They
        are guesses: the requests of these jobs, once they are ready, are what counts.
    facts
        What the run's files say of it.
    wave
        The wave of the run's forecast that foresaw it; empty: none did.
    loads_only
        It wants its model loaded: nothing is read, computed or written.
    store
        Where its results are kept across runs, if that is not where the pool keeps all.
    staging
        Where outputs of the jobs that follow it are staged, an existing directory, if that is not
        where the pool stages all.
    has_provenance
        Whether its files are looked at for the provenance of its outputs, where that is recorded.
    is_strict
        Whether a param that the tool does not know is an error, as on the command line; in a rule
        it belongs to the job.
    prints_apart
        Whether what its tool prints does not go to its log: whoever has asked for it finds it in
        the logs of processes, and knows what else is to be beside it.
    texts
        Those in its params that may be paths relative to its directory.
    """

    job_id: int
    title: str
    tool: ToolRef
    job: bytes
    params: bytes
    cwd: str
    devices: DeviceSpec | None = None
    card: CardWish = ANY_CARD
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
    facts: JobFacts = dataclasses.field(default=JobFacts(), compare=False)
    wave: str = ""
    loads_only: bool = False
    store: StoreAddress | None = dataclasses.field(default=None, metadata=NOT_RECORDED)
    staging: str = dataclasses.field(default="", metadata=NOT_RECORDED)
    has_provenance: bool = dataclasses.field(default=True, metadata=NOT_RECORDED)
    is_strict: bool = dataclasses.field(default=False, metadata=NOT_RECORDED)
    prints_apart: bool = dataclasses.field(default=False, metadata=NOT_RECORDED)
    texts: tuple[str, ...] = dataclasses.field(default=(), metadata=NOT_RECORDED)

    def changed(self, **fields: Any) -> Request:
        """Return a copy with other values of some fields, which have to exist.

        As ``dataclasses.replace``, in an eighth of its time: no field is made of others.
        """
        copy = object.__new__(Request)
        vars(copy).update(vars(self), **fields)
        return copy

    @property
    def space(self) -> str:
        """What the keys of its items' results start with, within the pool."""
        return self._space(self.tool.surroundings)

    @property
    def kept_space(self) -> str:
        """What they start with where they are kept across runs, with a server or without."""
        return self._space(self.tool.software)

    def _space(self, software: str) -> str:
        wish = self.devices
        devices = f"{wish.kind}x{wish.count}" if wish is not None else ""
        return self.tool.mode.space(software, devices, str(self.card))


@dataclass(frozen=True)
class JobReport:
    """How a job ended, for the frontend that submitted it.

    Attributes
    ----------
    error
        None if it succeeded, else the message for the user.
    seconds
        The job's share of the time its batches took, plus reading and writing.
    withdrawn
        It was not started, because nothing new was to start.
    cost
        What it took of devices, by the names that ``job_done`` has; empty: of no device.
    """

    job_id: int
    error: str | None = None
    seconds: float = 0.0
    details: dict[str, object] = dataclasses.field(default_factory=dict)
    withdrawn: bool = False
    #: The tool's error, or what stands for one, where that made it fail.
    cause: WorkerError | None = None
    cost: Mapping[str, object] = dataclasses.field(default_factory=dict)
