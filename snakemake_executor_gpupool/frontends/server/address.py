"""Where a server is, which clients it is for, and how both agree on that.

One server serves the processes of one user, on one machine, that have the same gpupool, the same
Python, the same directory of locks and see the same devices: its key is a digest of all these.
Another key is another server. Its directory holds::

    socket         what clients connect to, for the user alone
    server.lock    held while the server lives; its process's number
    start.lock     held by a client while it starts one
    serve.log      what happened
    expected/      what its workers must start from
    gpupool-*/     the files of its run

Standard library only, and light: a client imports it each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from typing import NamedTuple

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR, fingerprint

#: Says whether ``gpupool run`` goes to a server, and to which.
VARIABLE = "GPUPOOL_SERVER"
#: Names of variables, separated by commas, that do not tell workers apart; ``*`` at an end.
IGNORED_VARIABLE = "GPUPOOL_SERVER_IGNORE"
OFF, ON, AUTO = "off", "on", "auto"
#: How gpupool's own variables start.
PREFIXES = ("GPUPOOL_", "BIO_TOOLS_")
#: Variables of gpupool's own that say nothing of which server is meant.
OF_A_CLIENT = (
    *(VARIABLE, IGNORED_VARIABLE, "GPUPOOL_DEVICE", "GPUPOOL_DEVICE_KIND", "GPUPOOL_TOOL_FILES"),
    "GPUPOOL_SERVER_RENEWED",
)
#: What else says which devices, and which share of the machine, a process may use.
OF_THE_MACHINE = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("NVIDIA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"),
)
#: Set where gpupool works for somebody already.
INSIDE = ("GPUPOOL_LEASE", "GPUPOOL_WORKER", "GPUPOOL_MEMBERS")
SOCKET, LOCK, START_LOCK, LOG = "socket", "server.lock", "start.lock", "serve.log"
#: Bytes that the kernel takes of a socket's path, its end included.
MAX_SOCKET_PATH = 108


class Wish(NamedTuple):
    """What a user wants of a server.

    Attributes
    ----------
    word
        ``off``, ``on`` (attach or fail) or ``auto`` (start one if there is none).
    directory
        That of the server; empty: the one of the key.
    """

    word: str = OFF
    directory: str = ""


def wish_of(option: str | None, env: Mapping[str, str]) -> Wish:
    """Return what an option, or else the environment, asks for.

    Raises
    ------
    ConfigError
        It is none of the words, and no absolute path.
    """
    source = "--server" if option is not None else VARIABLE
    text = (option if option is not None else env.get(VARIABLE, "")).strip()
    if text in ("", OFF):
        return Wish()
    if text in (ON, AUTO):
        return Wish(text)
    if text.startswith(("/", "~", "./", "../")):
        return Wish(ON, os.path.abspath(os.path.expanduser(text)))
    raise ConfigError(
        f"{source} is {text!r}: it takes {AUTO} (start a server if there is none), {ON} (use the "
        f"one that there is, or fail), {OFF}, or the path of a server's directory"
    )


def key_of(env: Mapping[str, str]) -> str:
    """Return what a server and its clients must have in common, as a digest."""
    own = [
        f"{name}={value}"
        for name, value in env.items()
        if name in OF_THE_MACHINE or (name.startswith(PREFIXES) and name not in OF_A_CLIENT)
    ]
    places = [__version__, PACKAGE_DIR, fingerprint(), sys.executable, sys.prefix]
    text = "\0".join([*places, *sorted(own)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def directory_of(key: str) -> str:
    """Return the directory of the server with a key."""
    return f"/tmp/gpupool-{os.getuid()}-serve/{key[:16]}"  # noqa: S108 - checked before it is used


def socket_of(directory: str) -> str:
    """Return the path of a server's socket.

    Raises
    ------
    ConfigError
        The kernel takes no path of this length.
    """
    path = os.path.join(directory, SOCKET)
    if len(os.fsencode(path)) >= MAX_SOCKET_PATH:
        raise ConfigError(
            f"{path} is too long for a socket ({MAX_SOCKET_PATH - 1} bytes at most): choose a "
            "directory with a shorter path"
        )
    return path


def why_unsafe(directory: str) -> str:
    """Return why a directory must not be trusted; empty: it is the user's alone, or not there."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{directory}: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory} is no directory"
    if status.st_uid != os.getuid():
        return f"{directory} belongs to user {status.st_uid}"
    if status.st_mode & 0o077:
        is_for_all = status.st_mode & stat.S_ISVTX  # as /tmp, which must stay so
        advice = "name one of your own" if is_for_all else f"chmod 700 {directory}"
        return f"others may reach {directory} ({advice})"
    return ""


def make_directory(directory: str) -> None:
    """Make a server's directory, and the one that it is in, for the user alone.

    Raises
    ------
    ConfigError
        It cannot be made, or is not the user's alone.
    """
    own = directory_of("")
    parents = [os.path.dirname(directory)] if directory.startswith(own) else []
    for path in (*parents, directory):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        except OSError as error:
            raise ConfigError(
                f"the server's directory {path} cannot be made: {error.strerror}"
            ) from error
        unsafe = why_unsafe(path)
        if unsafe:
            raise ConfigError(f"the server's directory is not safe: {unsafe}")


def namespace() -> int:
    """Return which view of the file system this process has; 0: the kernel does not say."""
    try:
        return os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return 0


def root_directory() -> tuple[int, int]:
    """Return device and number of this process's root directory."""
    status = os.stat("/")
    return status.st_dev, status.st_ino
