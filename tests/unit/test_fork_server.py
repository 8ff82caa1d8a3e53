"""What the process that forks workers says of each: whether it was forked, and if not, why not."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from snakemake_executor_gpupool.worker import fork_server
from snakemake_executor_gpupool.worker.fork_server import ForkServer

MARK = "0123456789abcdef" * 2


@contextmanager
def asked(can_share: bool) -> Iterator[list[str]]:
    """What a server has said once it was asked for one worker; that is another program here."""
    ours, theirs = socket.socketpair()
    server = ForkServer(theirs.detach(), {}, ("EARLY", ""), lambda: None)
    program = subprocess.Popen(["sleep", "1000"])
    server._start = lambda mark, channel: program.pid  # type: ignore[method-assign]
    channels = socket.socketpair()
    socket.send_fds(ours, [f"f{MARK}".encode()], [channels[1].fileno()])
    ours.shutdown(socket.SHUT_WR)
    try:
        assert server.serve(can_share=can_share) is None
        yield ours.recv(1000).decode().splitlines()
    finally:
        program.kill()
        program.wait()
        for each in (*channels, ours, server._control):
            each.close()


def refused() -> int:
    raise BlockingIOError(11, "no more processes")


def test_a_worker_that_could_not_be_forked_is_not_called_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fork", refused)
    monkeypatch.setattr(fork_server, "count_threads", lambda: 1)
    with asked(can_share=True) as said:
        assert [line.split()[:2] for line in said] == [["alone", MARK]]


def test_nor_is_one_whose_imports_cannot_be_shared() -> None:
    with asked(can_share=False) as said:
        assert [line.split()[:2] for line in said] == [["started", MARK]]
