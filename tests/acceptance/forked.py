"""Runs of the real ``snakemake`` that need not import it: each is forked from a process that has.

A start of Python that imports Snakemake and its plugins takes a second of processor time, before it
has read a line of a workflow, and hundreds of runs are tested. What is forked here has imported
``snakemake.cli``, as a start does, and has done nothing else; arguments, directory, variables, file
mask and output are the run's own. Runs whose start itself is tested, or that are sent signals, are
started as ever: :meth:`~tests.acceptance.running.Workflow.start`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Forks:
    """The process that runs are forked from, one at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._answers = ours.makefile("r")
        self._socket = ours

    def run(
        self, arguments: list[str], directory: Path, variables: dict[str, str], timeout_s: float
    ) -> tuple[int, str]:
        """Do a run; return its exit code, and its standard output followed by its errors.

        Raises
        ------
        subprocess.TimeoutExpired
            It took longer than ``timeout_s``, and was killed.
        """
        deadline_s = time.monotonic() + timeout_s
        os.umask(mask := os.umask(0o077))
        words = {"arguments": arguments, "directory": str(directory), "variables": variables}
        request = json.dumps({**words, "umask": mask}).encode()
        reads, writes = zip(*(os.pipe() for _ in range(2)), strict=True)
        try:
            socket.send_fds(self._socket, [len(request).to_bytes(4)], writes)
        finally:
            for each in writes:
                os.close(each)
        self._socket.sendall(request)
        pid = int(self._answers.readline())
        try:
            texts = read_all(reads, deadline_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._answers.readline()
            raise subprocess.TimeoutExpired(["snakemake", *arguments], timeout_s) from None
        finally:
            for each in reads:
                os.close(each)
        return os.waitstatus_to_exitcode(int(self._answers.readline())), "".join(texts)


@functools.cache
def forks() -> Forks:
    """Return this process's."""
    return Forks()


def is_plain(variables: dict[str, str]) -> bool:
    """Whether variables have nothing that Python itself looks at when it starts, but what is."""
    looked_at = {name for name in {*variables, *os.environ} if name.startswith(("PYTHON", "LD_"))}
    return all(variables.get(name) == os.environ.get(name) for name in looked_at)


def read_all(descriptors: tuple[int, ...], deadline_s: float) -> list[str]:
    """Return what comes out of pipes until nobody holds their other ends any longer.

    Raises
    ------
    TimeoutError
        Somebody does for too long.
    """
    parts: dict[int, list[bytes]] = {each: [] for each in descriptors}
    with selectors.DefaultSelector() as selector:
        for each in descriptors:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(deadline_s - time.monotonic(), 0.0))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                parts[key.fd].append(data)
                if not data:
                    selector.unregister(key.fd)
    texts = (b"".join(each).decode() for each in parts.values())
    return [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]


# -- the other side ------------------------------------------------------------------------
def next_request(door: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Wait for a request; return it, with the ends of pipes to print to. None: no more come."""
    head, descriptors, *_ = socket.recv_fds(door, 4, 2)
    if not head:
        return None
    data = b""
    while len(data) < int.from_bytes(head):
        data += door.recv(1 << 20)
    return json.loads(data), descriptors


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Turn a process that was just forked into the run that is asked for."""
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["directory"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["variables"])
    import snakemake.workflow

    sys.argv = [str(Path(snakemake.__file__).parent / "__main__.py"), *request["arguments"]]
    sys.path[0] = snakemake.workflow.Workflow._rundir = str(Path.cwd())


def main(door: socket.socket) -> None:
    """Fork a process for each request; in that process, run Snakemake."""
    import snakemake.cli

    gc.collect()
    while asked := next_request(door):
        pid = os.fork()
        if not pid:
            become(*asked)
            door.close()
            snakemake.cli.main()
        for descriptor in asked[1]:
            os.close(descriptor)
        door.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        door.sendall(f"{status}\n".encode())


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
