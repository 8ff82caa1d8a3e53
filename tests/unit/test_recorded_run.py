"""A pool records its run if it is asked to, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.base import FrameArrived
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import PoolConfig, build_config
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.runtime.replay import Recording, Step
from snakemake_executor_gpupool.testing.fake_host import FakeHost
from snakemake_executor_gpupool.testing.world_options import INFO
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.requests import Request, ToolRef


class Run:
    """A pool over a host in memory, and what it has told its user."""

    def __init__(self, directory: Path, *, is_recorded: bool) -> None:
        self.paths, self.host = RunPaths(directory), FakeHost(waits=True)
        self.lines: list[str] = []
        self.paths.create()
        config = PoolConfig((cpu_slot(0),), DeviceSettings(), 1, directory, is_recorded=is_recorded)
        callbacks = Callbacks(lambda r: None, lambda *a: None, lambda e: None, self.lines.append)
        self.pool = Pool(config, callbacks, (self.paths, self.host))

    def has(self, worker_id: str, **meta: Any) -> None:
        """A worker sends a frame."""
        self.host.events.append(FrameArrived(worker_id, Frame(meta, [])))
        self.host.wake()
        self.pool.summary()

    def serve(self) -> None:
        """Two jobs: a file process starts, tells of its tool, breaks the protocol."""
        tool = ToolRef("tool", "", "python")
        self.pool.submit([Request(n, f"rule r (n={n})", tool, b"job", b"p", "/") for n in (1, 2)])
        self.pool.summary()
        self.has("tool.files1", type="tool", info=INFO, seconds=0.1, versions={})
        self.has("tool.files1", type="nonsense")
        self.pool.cancel("cancelled")
        self.pool.summary()
        self.pool.close()

    def steps(self) -> list[Step]:
        return list(Recording(self.paths.directory).replay())


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Run]:
    monkeypatch.setenv("GPUPOOL_PROFILE", "off")
    return lambda is_recorded: Run(tmp_path, is_recorded=is_recorded)


def test_a_recorded_run_is_decided_again_as_it_was(opened: Callable[[bool], Run]) -> None:
    run = opened(True)
    run.serve()
    steps = run.steps()
    assert [step.line for step in steps if not step.is_same] == []
    assert {"JobReady", "FrameReceived", "WorkerEnded", "Cancelled"} <= {s.event for s in steps}
    (rejected,) = [e for step in steps for e in step.replayed if e["effect"] == "RejectWorker"]
    assert "no 'nonsense' frame" in rejected["why"]
    assert run.paths.recording.stat().st_mode & 0o777 == 0o600


def test_any_other_run_is_not_recorded(opened: Callable[[bool], Run]) -> None:
    run = opened(False)
    run.serve()
    assert not run.paths.recording.exists()


def test_a_scheduler_that_fails_is_on_record_with_its_error(
    opened: Callable[[bool], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(True)

    def fail(now_s: float) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(run.pool._loop.scheduler, "wind_down", fail)
        run.pool.wind_down()
        run.pool.summary()
        run.pool.close()
    (step,) = [step for step in run.steps() if step.event == "WindDownWanted"]
    assert step.recorded == [{"error": "ZeroDivisionError('a bug')"}]
    assert not step.is_same, "the bug was the test's"


def test_a_recording_that_cannot_go_on_is_said_to_end_and_the_run_goes_on(
    opened: Callable[[bool], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "snakemake_executor_gpupool.records.paths.RunPaths.create",
        lambda paths, create=RunPaths.create: (create(paths), paths.recording.mkdir()),
    )
    run = opened(True)
    run.serve()
    (line,) = [line for line in run.lines if "recording" in line]
    assert line.startswith(f"gpupool: {run.paths.recording} ends here, the run goes on: ")
    assert run.pool.summary()["jobs_failed"] == 2


@pytest.mark.parametrize(("text", "is_recorded"), [("", False), ("0", False), ("1", True)])
def test_a_variable_asks_for_it(text: str, is_recorded: bool, tmp_path: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "", "GPUPOOL_RECORD": text}
    assert build_config(run_root=tmp_path, cores=2, env=env).is_recorded is is_recorded


def test_another_value_is_refused(tmp_path: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "", "GPUPOOL_RECORD": "yes"}
    with pytest.raises(ConfigError, match="GPUPOOL_RECORD is 'yes': 1 records the run, 0 does not"):
        build_config(run_root=tmp_path, cores=2, env=env)
