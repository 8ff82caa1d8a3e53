"""A worker's word that its weights have left a device is passed on only if the driver agrees."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_gpupool.hosts.base import FrameArrived
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.messages import message_of
from snakemake_executor_gpupool.wire.model_messages import MoveFailed


class Driver:
    """What the driver says of a card."""

    is_empty = False

    def weights_are_gone(
        self, worker_id: str, pid: int, devices: object, is_its: Callable[[int], bool]
    ) -> bool:
        assert (worker_id, pid) == ("w", 7)
        return self.is_empty


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LocalHost]:
    paths = RunPaths(tmp_path)
    paths.create()
    host = LocalHost(paths, 1, Driver())  # type: ignore[arg-type]
    yield host
    host._running.clear()
    host.close(lambda end: None)
    paths.remove_spools()
    paths.remove_staged()


def passed_on(host: LocalHost, **meta: Any) -> dict[str, Any]:
    """What is passed on of a frame that a worker sends."""
    process = SimpleNamespace(pid=7, receive=lambda: [Frame(meta, [])])
    fields = {"devices": (), "complaint": "", "is_its": lambda pid: False}
    host._running["w"] = SimpleNamespace(process=process, **fields)  # type: ignore[assignment]
    host._service("w", selectors.EVENT_READ)
    (event,) = host._events
    host._events = []
    assert isinstance(event, FrameArrived)
    return event.frame.meta


def test_weights_that_are_still_there_are_a_failed_move(host: LocalHost) -> None:  # D8
    told = passed_on(host, type="moved", away=True)
    message = message_of(Frame(told, []))  # a frame like any other
    assert isinstance(message, MoveFailed)
    assert "still on the device" in message.error.message


def test_weights_that_are_gone_are_believed(host: LocalHost) -> None:  # D8
    host._memory_release.is_empty = True  # type: ignore[attr-defined]
    meta = {"type": "moved", "away": True}
    assert passed_on(host, **meta) == meta


def test_of_weights_that_are_back_nobody_is_asked(host: LocalHost) -> None:  # D8
    meta = {"type": "moved", "away": False}
    assert passed_on(host, **meta) == meta
