"""Servers without locks, of other users, and what their log may take."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.server import client, service, serving
from snakemake_executor_gpupool.frontends.server.address import AUTO, ON, Wish, make_directory
from snakemake_executor_gpupool.frontends.server.client import Client
from snakemake_executor_gpupool.frontends.server.serving import ServerOptions, serve
from snakemake_executor_gpupool.frontends.server.talk import encode
from snakemake_executor_gpupool.frontends.server.turns import take_turn
from snakemake_executor_gpupool.frontends.server.workplaces import Workplaces


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system whose server has no lock daemon."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_no_server_starts(tmp_path: Path) -> None:  # G4
    with pytest.raises(ConfigError, match="file system without locks"):
        serve(ServerOptions(str(tmp_path / "s")))


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_client_starts_none_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "directory_of", lambda key: str(tmp_path / key))
    job = {"device": "cpu"}
    assert Client(Wish(AUTO, str(tmp_path / "s"))).run(job, []) is None
    first, second = capsys.readouterr().err.splitlines()
    assert "has no locks" in first and first.endswith("it is computed here, cold")
    assert "cannot take turns" in second


@pytest.mark.usefixtures("no_locks")
def test_without_locks_there_are_no_turns(tmp_path: Path) -> None:
    said = list[str]()
    take_turn("cpu", str(tmp_path / "cold"), said.append, {})
    assert len(said) == 1 and "begins at once" in said[0]


def test_a_server_hangs_up_on_other_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # G4
    """Even if they got through to the socket."""
    asked = service.Service("key", Workplaces(tmp_path), serving.IDLE)

    async def greeting() -> bytes:
        path = str(tmp_path / "socket")
        server = await asyncio.start_unix_server(asked.connected, path)
        reader, writer = await asyncio.open_unix_connection(path)
        data = await reader.read()
        writer.close()
        server.close()
        return data

    mine = os.getuid()
    monkeypatch.setattr(service.os, "getuid", lambda: mine + 1)
    assert asyncio.run(greeting()) == b""


def test_a_client_tells_another_user_s_server_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # G4
    directory = str(tmp_path / "s")
    make_directory(directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/socket")
        listener.listen()
        monkeypatch.setattr(client, "_uid_of_peer", lambda _: os.getuid() + 1)
        with pytest.raises(ConfigError, match="another user's"):
            Client(Wish(ON, directory)).run({}, [])
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5.0)
            assert connection.recv(1) == b"", "no byte of the job was sent"


def test_a_server_of_another_version_gets_no_job(tmp_path: Path) -> None:  # G4
    directory = str(tmp_path / "s")
    make_directory(directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/socket")
        listener.listen()

        def greeted() -> None:
            connection, _ = listener.accept()
            connection.sendall(encode({"type": "hello", "key": "other"}))
            connection.close()

        thread = threading.Thread(target=greeted)
        thread.start()
        with pytest.raises(ConfigError, match="another version"):
            Client(Wish(ON, directory)).run({}, [])
        thread.join()


def test_the_log_takes_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # G4
    monkeypatch.setattr(serving, "LOG_BYTES", 2000)
    with serving._logging(str(tmp_path), is_quiet=True):
        for number in range(500):
            logging.getLogger("snakemake_executor_gpupool.serve").info("line %d", number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["serve.log", "serve.log.1", "serve.log.2", "serve.log.3"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert "line 499" in (tmp_path / "serve.log").read_text()
