"""Messages between the coordinator and an agent, as frames of the workers' protocol.

::

    coordinator → agent                            agent → coordinator
    begin {see Begin}                              joined {see Joined} | unfit {why}
    start {worker, tool, devices}                  frame {worker, meta} [blob...]
    send  {worker, meta} [blob...]                 gone {worker, reason, expected}
    stop  {worker, force, complaint}               offer {devices}
    end

Blobs are passed through: bytes, or the path and size of a file on the shared file system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.wire.frames import Blob, Decoder, Frame, encode


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    """

    devices: list[dict[str, Any]]
    cores: int
    ends_in_s: float | None
    notes: list[str]


def pack(kind: str, fields: dict[str, Any], blobs: Sequence[Blob] = ()) -> bytes:
    """Return a message as bytes."""
    return b"".join(encode({**fields, "type": kind}, blobs))


def unpack(data: bytes) -> Frame:
    """Return a message.

    Raises
    ------
    FrameError
        The bytes are not a message.
    """
    return next(Decoder().feed(data))


def device_fields(device: Device) -> dict[str, Any]:
    """Return a device as plain values."""
    return asdict(device)
