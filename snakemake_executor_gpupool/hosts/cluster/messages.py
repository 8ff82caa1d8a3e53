"""Messages between the coordinator and an agent, as frames of the workers' protocol.

::

    coordinator → agent                            agent → coordinator
    Begin                                          Joined | Unfit
    StartProcess, StopProcess, SendFrame           WorkerFrame, ProcessGone
    RunCommand                                     CommandDone
    End                                            Offer, ToldToEnd

Each is one class, and its fields are the frame's. A worker's frame is not looked into:
its JSON and blobs are passed on; a blob is bytes, or the path and size of a file on the file system
that all nodes share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import FrameError
from snakemake_executor_gpupool.hosts.cluster.shell_command import ShellCommand
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.wire.frames import Decoder, Frame, encode
from snakemake_executor_gpupool.wire.requests import Container, ToolRef


@dataclass(frozen=True, slots=True)
class Begin:
    """What an agent must know of a run.

    Attributes
    ----------
    run_root, run_id
        The run's directory, on the file system that all nodes share.
    cwd
        The workflow's directory.
    probe, token
        A file and its content, by which the agent checks that it sees the same file system.
    managed
        A managed-devices string.
    silence_s
        The agent ends everything when it has heard nothing from the coordinator for so long.
    walltime_s
        How long a pilot lives; None: unknown, or for ever.
    environment
        Variables for the agent's processes.
    """

    run_root: str
    run_id: str
    cwd: str
    probe: str
    token: str
    managed: str
    silence_s: float
    latency_wait_s: float
    walltime_s: float | None
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Have a worker process started.

    Attributes
    ----------
    device_names
        Its devices, as the node names them.
    is_ahead
        There is no job for it yet.
    """

    worker_id: str
    tool: ToolRef
    device_names: tuple[str, ...]
    is_ahead: bool = False


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Have a frame sent to a worker process."""

    worker_id: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Have a worker process ended; ``complaint``: what it has done, empty if nothing."""

    worker_id: str
    force: bool
    complaint: str


@dataclass(frozen=True, slots=True)
class RunCommand:
    """Have a job that the pool does not serve run.

    Attributes
    ----------
    log
        File for what it prints, on the file system that all nodes share.
    limit_s
        Seconds after which it is ended; None: it may take any time.
    threads
        How many of the node's cores it takes.
    """

    number: int
    shell: ShellCommand
    cwd: str
    environment: dict[str, str]
    log: str
    limit_s: float | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """Have everything of this run on the node ended."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node offers.

    Attributes
    ----------
    devices
        Under their names on the node.
    ends_in_s
        Seconds until the node's time is up; None: unknown, or never.
    notes
        Lines for the user.
    cores
        How many threads of commands it takes at a time.
    """

    devices: tuple[Device, ...]
    ends_in_s: float | None
    notes: tuple[str, ...]
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Unfit:
    """A node cannot take part."""

    why: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices that another process held when the node joined are free now."""

    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class WorkerFrame:
    """A worker process has sent a frame."""

    worker_id: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class ProcessGone:
    """A worker process has ended.

    Attributes
    ----------
    is_expected
        It was told to.
    is_blameless
        The whole node was told to end, and may have ended it.
    """

    worker_id: str
    reason: str
    is_expected: bool
    is_blameless: bool = False


@dataclass(frozen=True, slots=True)
class CommandDone:
    """A command has ended.

    Attributes
    ----------
    code
        Its exit code, or what stands for one (``LIMIT_CODE``, ``LEFT_CODE``, ``OTHER_PLACE_CODE``).
    said
        What it has printed, or why it could not be started.
    has_log
        More was printed than a message takes: it is in the command's log.
    """

    number: int
    code: int
    said: str = ""
    has_log: bool = False


@dataclass(frozen=True, slots=True)
class ToldToEnd:
    """The batch system wants the node back; ``End`` follows when nothing computes on it."""

    why: str


Command = Begin | StartProcess | SendFrame | StopProcess | RunCommand | End
Answer = Joined | Unfit | Offer | WorkerFrame | ProcessGone | CommandDone | ToldToEnd
Message = Command | Answer
_CLASSES: dict[str, type[Message]] = {
    "begin": Begin,
    "start": StartProcess,
    "send": SendFrame,
    "stop": StopProcess,
    "run": RunCommand,
    "end": End,
    "joined": Joined,
    "unfit": Unfit,
    "offer": Offer,
    "frame": WorkerFrame,
    "gone": ProcessGone,
    "done": CommandDone,
    "told_to_end": ToldToEnd,
}
_KINDS = {each: kind for kind, each in _CLASSES.items()}


def pack(message: Message) -> bytes:
    """Return a message as bytes."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    inner = values.pop("frame", Frame({}, []))
    if inner.meta:
        values["meta"] = inner.meta
    plain = {name: _plain(value) for name, value in values.items()}
    return b"".join(encode({**plain, "type": _KINDS[type(message)]}, inner.blobs))


def _plain(value: object) -> object:
    """Return a value as JSON can hold it."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return asdict(value) if isinstance(value, ToolRef | Device | ShellCommand) else value


def _tool(values: dict[str, Any]) -> ToolRef:
    container = values["container"]
    return ToolRef(
        **{
            **values,
            "more": tuple(values["more"]),
            "mode": Mode(**values["mode"]),
            "container": None if container is None else Container(**container),
        }
    )


def unpack(data: bytes) -> Message:
    """Return a message.

    Raises
    ------
    FrameError
        The bytes are no frame, or none of these messages.
    """
    frame = next(Decoder().feed(data))
    values = {name: value for name, value in frame.meta.items() if name != "type"}
    try:
        if "meta" in values:
            values["frame"] = Frame(values.pop("meta"), frame.blobs)
        if "tool" in values:
            values["tool"] = _tool(values["tool"])
        if "shell" in values:
            values["shell"] = ShellCommand.of(values["shell"])
        if "devices" in values:
            values["devices"] = tuple(Device(**each) for each in values["devices"])
        for name in ("device_names", "notes"):
            if name in values:
                values[name] = tuple(values[name])
        return _CLASSES[frame.type](**values)
    except (KeyError, TypeError) as error:
        raise FrameError(f"no message between coordinator and agent: {error!r}") from error
