"""How this machine's workers end: told, asked, killed, and heard to the last (W4, W7, D9).

Time is a number, processes are objects: nothing is waited for.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.hosts import local
from snakemake_executor_gpupool.hosts.base import GRACE_S, FrameArrived, HostEvent, WorkerGone
from snakemake_executor_gpupool.hosts.containers import image_version
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.hosts.process import describe_exit
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.requests import DEVICE_ARGUMENTS, Container, ToolRef
from tests.unit.test_growth_of_work import Lines

CARD = Device("cuda:0", "cuda", 0, "GPU-0", visible_id="0")


class FakeProcess:
    """A process that ends when a test says so."""

    made: list[FakeProcess]

    def __init__(
        self,
        worker_id: str,
        python: str,
        environment: Mapping[str, str],
        log_path: Path,
        activation: str = "",
        in_container: bool = False,
    ) -> None:
        self.activation, self.in_container = activation, in_container
        self.worker_id, self.environment, self.log_path = worker_id, environment, log_path
        self.socket, self._theirs = socket.socketpair()
        self.handle, self._ended = os.pipe()
        self.pid = 2**30
        self.done: list[str] = []
        self.code: int | None = None
        self.frames: list[Frame | None] = []
        self.sent: list[dict[str, Any]] = []
        self.wants_write = False
        FakeProcess.made.append(self)

    def queue(self, meta: dict[str, Any], blobs: Sequence[Blob] = ()) -> None:
        self.sent.append(meta)

    def flush(self) -> None:
        pass

    def receive(self) -> Iterator[Frame | None]:
        frames, self.frames = self.frames, []
        yield from frames

    def close_channel(self) -> None:
        self.done.append("told")

    def terminate(self) -> None:
        self.done.append("SIGTERM")

    def kill(self) -> None:
        self.done.append("SIGKILL")

    def exit_code(self) -> int | None:
        return self.code

    def describe_end(self) -> str:
        return describe_exit(self.code)

    def last_words(self) -> str:
        return "its last words"

    def close(self) -> None:
        self.socket.close()
        self._theirs.close()
        os.close(self.handle)
        if self._ended >= 0:
            os.close(self._ended)
            self._ended = -1

    def says(self, *frames: Frame | None) -> None:
        """Have frames, or the end of the channel (None), wait to be received."""
        self.frames += frames
        self._theirs.send(b"x")

    def ends(self, code: int) -> None:
        """End it: the kernel's descriptor says so."""
        self.code = code
        os.close(self._ended)
        self._ended = -1


class QuietReaper:
    """Notes whom it is to watch."""

    def __init__(self) -> None:
        self.watched: list[int] = []
        self.forgotten: list[int] = []

    def watch(self, group: int, mark: str = "") -> None:
        self.watched.append(group)

    def forget(self, group: int) -> None:
        self.forgotten.append(group)

    def remove_at_end(self, directory: Path) -> None:
        pass

    def close(self) -> None:
        pass


class Memory:
    """Whose memory is still on a device, as the driver says it."""

    def __init__(self) -> None:
        self.is_free = True

    def arrived(self, worker_id: str, devices: Sequence[Device]) -> None:
        pass

    def left(self, worker_id: str, devices: Sequence[Device]) -> None:
        pass

    def is_rid_of(self, devices: Sequence[Device], pid: int, is_its: Callable[[int], bool]) -> bool:
        return self.is_free


class Machine:
    """A local host whose clock stands still between steps."""

    def __init__(self, directory: Path) -> None:
        FakeProcess.made = []
        paths = RunPaths(directory)
        paths.create()
        self.paths = paths
        self.now_s = 50.0
        self.memory = Memory()
        self.host = LocalHost(
            paths,
            1,
            self.memory,  # type: ignore[arg-type]
            clock_s=lambda: self.now_s,
            launch=FakeProcess,  # type: ignore[arg-type]
        )

    def start(self, worker_id: str = "w1") -> FakeProcess:
        self.host.start(worker_id, ToolRef("tool", "", "python"), (CARD,))
        return FakeProcess.made[-1]

    def after(self, seconds: float) -> list[HostEvent]:
        self.now_s += seconds
        return self.host.poll(0.0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(local, "Reaper", QuietReaper)
    made = Machine(tmp_path)
    yield made
    made.memory.is_free = True
    for process in FakeProcess.made:
        process.code = 0
    made.host.close(lambda end: None)
    made.paths.remove_spools()


def test_a_worker_that_ignores_being_told_is_asked_then_killed(machine: Machine) -> None:  # W7
    process = machine.start()
    machine.host.stop("w1")
    assert machine.after(0.0) == [] and process.done == ["told"]
    assert machine.after(GRACE_S - 0.1) == [] and process.done == ["told"]
    machine.after(0.2)
    assert process.done == ["told", "SIGTERM"]
    machine.after(GRACE_S - 0.1)
    assert process.done == ["told", "SIGTERM"]
    machine.after(0.2)
    assert process.done == ["told", "SIGTERM", "SIGKILL"]
    machine.after(GRACE_S + 0.1)  # stuck in the kernel: once more, and never anything milder
    assert process.done == ["told", "SIGTERM", "SIGKILL", "SIGKILL"]
    process.ends(-9)
    (end,) = machine.after(0.0)
    assert isinstance(end, WorkerGone) and end.expected and "killed by SIGKILL" in end.reason
    assert len(machine.host) == 0 and machine.after(10.0) == []


def test_a_worker_that_ends_when_told_gets_no_signal(machine: Machine) -> None:
    process = machine.start()
    machine.host.stop("w1")
    machine.after(0.0)
    process.ends(0)
    (end,) = machine.after(1.0)
    assert isinstance(end, WorkerGone) and end.expected and process.done == ["told"]
    assert "its last words" in end.reason


def test_a_forced_end_is_one_at_once_even_after_a_graceful_one(machine: Machine) -> None:  # S10
    process = machine.start()
    machine.host.stop("w1")
    machine.after(0.0)
    machine.host.stop("w1", force=True, complaint="took too long")
    machine.after(0.0)
    assert process.done == ["told", "SIGKILL"]
    process.ends(-9)
    (end,) = machine.after(0.0)
    assert isinstance(end, WorkerGone) and not end.expected
    assert end.reason.startswith("took too long, killed by SIGKILL")


def test_a_channel_that_ends_by_itself_is_followed_by_the_same_steps(machine: Machine) -> None:
    process = machine.start()
    process.says(None)
    machine.after(0.0)
    machine.after(GRACE_S + 0.1)
    machine.after(GRACE_S + 0.1)
    assert process.done == ["told", "SIGTERM", "SIGKILL"]
    process.ends(-9)
    (end,) = machine.after(0.0)
    assert isinstance(end, WorkerGone) and not end.expected, "nobody had told it to"


def test_a_device_is_free_only_when_the_driver_says_so(machine: Machine) -> None:  # D9
    process = machine.start()
    machine.memory.is_free = False
    process.ends(-11)
    assert machine.after(0.0) == [] and machine.after(60.0) == []
    assert len(machine.host) == 1
    machine.memory.is_free = True
    (end,) = machine.after(0.1)
    assert isinstance(end, WorkerGone) and "SIGSEGV" in end.reason


def test_what_a_worker_sent_before_its_end_comes_first(machine: Machine) -> None:  # W4
    process = machine.start()
    process.frames = [Frame({"type": "done"}, [])]  # and no word that there is something
    process.ends(-9)
    first, second = machine.after(0.0)
    assert isinstance(first, FrameArrived) and first.frame.type == "done"
    assert isinstance(second, WorkerGone)


def test_a_worker_that_broke_the_protocol_is_not_heard_any_more(machine: Machine) -> None:  # W5
    process = machine.start()
    machine.host.reject("w1", "it danced")
    assert not machine.host.believes("w1")
    machine.after(0.0)
    assert process.done == ["SIGKILL"], "no grace"
    process.says(Frame({"type": "done"}, []))
    assert machine.after(0.0) == []
    process.frames = [Frame({"type": "done"}, [])]
    process.ends(-9)
    (end,) = machine.after(0.0)
    assert isinstance(end, WorkerGone) and "broke the protocol (it danced)" in end.reason


def test_an_end_lets_the_reaper_look_for_what_is_left_once(machine: Machine) -> None:  # W7
    process = machine.start()
    reaper = machine.host._reaper
    assert isinstance(reaper, QuietReaper) and reaper.watched == [process.pid]
    machine.memory.is_free = False
    process.ends(0)
    machine.after(0.0)
    machine.after(1.0)
    assert reaper.forgotten == [process.pid]


def test_a_process_sees_its_devices_and_is_told_its_tool_first(machine: Machine) -> None:  # D4
    process = machine.start()
    assert process.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert process.environment["GPUPOOL_WORKER"] == "w1"
    assert process.sent[0]["type"] == "tool" and process.sent[0]["spec"] == "tool"
    machine.host.start("w2", ToolRef("tool", "", "python"), ())
    files = FakeProcess.made[-1].environment
    assert files["CUDA_VISIBLE_DEVICES"] == "" and files["OMP_NUM_THREADS"] == "1"


def test_a_reproducible_run_fixes_what_libraries_are_told(machine: Machine) -> None:  # R5
    usual = machine.start().environment
    assert "CUBLAS_WORKSPACE_CONFIG" not in usual and usual["GPUPOOL_REPRODUCIBLE"] == "0"
    mode = Mode(is_reproducible=True, seed=4, kind="A100")
    machine.host._threads = 16
    for number, devices in enumerate([(CARD,), (cpu_slot(0),), ()]):
        machine.host.start(f"r{number}", ToolRef("tool", "", "python", mode=mode), devices)
        environment = FakeProcess.made[-1].environment
        assert Mode.of(environment) == mode
        assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "1"
        assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def image_at(path: Path) -> Container:
    return Container(str(path), path.name, "sha256:1", image_version(str(path)), "--bind /d")


def contained(image: Container) -> ToolRef:
    activation = f"exec apptainer exec {DEVICE_ARGUMENTS} {image.image} sh -c worker"
    return ToolRef("tool", "", "python", activation=activation, container=image)


def test_a_container_gets_the_drivers_of_its_devices_and_our_variables(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1
    monkeypatch.setenv("GPUPOOL_OFFLINE", "1")
    (tmp_path / "i.sif").write_text("image")
    tool = contained(image_at(tmp_path / "i.sif"))
    machine.host.start("w1", tool, (CARD,))
    machine.host.start("w2", tool, ())
    computes, files = FakeProcess.made
    assert computes.in_container and computes.activation.split()[2:5] == [
        "exec",
        "--nv",
        str(tmp_path / "i.sif"),
    ]
    assert "--nv" not in files.activation and DEVICE_ARGUMENTS not in files.activation
    for process, cards in ((computes, "0"), (files, "")):
        for prefix in ("", "APPTAINERENV_", "SINGULARITYENV_"):
            assert process.environment[f"{prefix}CUDA_VISIBLE_DEVICES"] == cards
            assert process.environment[f"{prefix}GPUPOOL_CONTAINER"] == "i.sif"
            assert process.environment[f"{prefix}GPUPOOL_OFFLINE"] == "1", "the user's own"
            assert process.environment[f"{prefix}GPUPOOL_PROCESS"]
    given = dataclasses.replace(tool.container or image_at(tmp_path), arguments="--nv -B /d")
    machine.host.start("w3", dataclasses.replace(tool, container=given), (CARD,))
    assert "--nv" not in FakeProcess.made[-1].activation, "it is there already"


def test_a_process_is_not_started_in_another_image_than_the_one_that_was_read(
    machine: Machine, tmp_path: Path
) -> None:  # K1 C2
    path = tmp_path / "i.sif"
    path.write_text("image")
    tool = contained(image_at(path))
    machine.host.start("w1", tool, ())
    process = FakeProcess.made[-1]
    (tmp_path / "new").write_text("other")
    (tmp_path / "new").replace(path)
    assert machine.host.start("w2", tool, ()) is None and len(FakeProcess.made) == 1
    (gone,) = machine.after(0.0)
    assert isinstance(gone, WorkerGone) and not gone.expected
    assert "the image i.sif has changed since its content was read" in gone.reason
    # Was it replaced before or after the first one was started? Its word does not count.
    process.says(Frame({"type": "tool", "info": {}}, []))
    machine.after(0.0)
    assert not machine.host.believes("w1")
    machine.after(0.0)
    assert process.done == ["SIGKILL"]
    process.ends(-9)
    (gone,) = [event for event in machine.after(0.0) if isinstance(event, WorkerGone)]
    assert "the image i.sif has changed" in gone.reason and not gone.expected


def test_closing_takes_so_long_and_says_who_is_left(machine: Machine) -> None:  # S10
    process = machine.start()

    def later() -> float:
        machine.now_s += 0.5
        return machine.now_s

    machine.host._clock_s = later
    stuck = machine.host.close(lambda end: None, patience_s=20.0)
    assert stuck == [f"w1 (pid {process.pid})"]
    assert process.done[:3] == ["told", "SIGTERM", "SIGKILL"]
    process.close()
    FakeProcess.made.clear()
    machine.host._running.clear()
    machine.host = LocalHost(machine.paths, 1)  # for the fixture to close


def test_a_look_takes_as_long_however_many_workers_there_are(machine: Machine) -> None:  # P6
    def lines_of_a_look() -> int:
        machine.after(0.0)
        with Lines("/hosts/local.py") as lines:
            machine.after(0.0)
        return lines.count

    process = machine.start("w0")
    alone = lines_of_a_look()
    for number in range(1, 20):
        machine.start(f"w{number}")
    assert lines_of_a_look() == alone > 0
    process.ends(0)
    (end,) = machine.after(0.0)
    assert isinstance(end, WorkerGone) and end.worker_id == "w0"
    assert lines_of_a_look() == alone
