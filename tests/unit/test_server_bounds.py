"""What a server remembers of tools and places is bounded, and its log says what it did: G4."""

from __future__ import annotations

import argparse
import asyncio
import logging
import threading
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.serve import _timeout
from snakemake_executor_gpupool.frontends.server import code_watch
from snakemake_executor_gpupool.frontends.server.code_watch import CodeWatch, ToolCode, ToolError
from snakemake_executor_gpupool.frontends.server.day_log import DayLog
from snakemake_executor_gpupool.frontends.server.job_requests import (
    ClientJob,
    ComputeThere,
    refuse_relative_weights,
)
from snakemake_executor_gpupool.frontends.server.variables import shown
from snakemake_executor_gpupool.frontends.server.workplaces import Workplaces
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.requests import ToolRef


def test_tools_that_cannot_be_imported_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CodeWatch()
    monkeypatch.setattr(code_watch, "MAX_TOOLS", 3)

    async def ask(spec: str, *more: object) -> ToolCode:
        await asyncio.sleep(0)
        if spec.startswith("bad"):
            raise ToolError(WorkerError("no such module"))
        return ToolCode((), (), "1")

    async def jobs() -> None:
        monkeypatch.setattr(watch, "_ask", ask)
        for number in range(10):
            wanted = [f"{kind}{number}" for kind in ("bad", "bad", "good", "good")]
            asked = (watch.code_of(spec, {}, "env", "/") for spec in wanted)
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(jobs())
    assert len(watch._known) == len(watch._looked_s) == 3
    assert not watch._asking


def test_a_tool_that_is_displaced_while_it_is_looked_at_is_known_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = CodeWatch()
    monkeypatch.setattr(code_watch, "MAX_TOOLS", 1)
    is_looked_at, goes_on = threading.Event(), threading.Event()

    class Slow(ToolCode):
        def holds(self) -> bool:
            is_looked_at.set()
            return goes_on.wait(60.0)

    async def ask(spec: str, *more: object) -> ToolCode:
        return (Slow if spec == "slow" else ToolCode)((), (), "1")

    async def jobs() -> None:
        monkeypatch.setattr(watch, "_ask", ask)
        first = await watch.code_of("slow", {}, "env", "/")
        again = asyncio.ensure_future(watch.code_of("slow", {}, "env", "/"))
        await asyncio.to_thread(is_looked_at.wait, 60.0)
        await watch.code_of("other", {}, "env", "/")
        goes_on.set()
        assert await again is first
        assert await watch.code_of("slow", {}, "env", "/") is first

    asyncio.run(jobs())
    assert len(watch._known) == len(watch._looked_s) == 1


def job(cwd: str = "/flow") -> ClientJob:
    return ClientJob("tool.py", "tool.py", Job(), None, cwd, 0o022, {})


def test_numbers_of_given_up_places_go_with_the_last_of_them(tmp_path: Path) -> None:
    places = Workplaces(tmp_path)
    what = "python", Mode(), ToolCode((), (), "1"), {"A": "1"}, "env", job()
    first = places.of_job(*what, is_here=False)
    places.spoil(first)
    second = places.of_job(*what, is_here=False)
    assert first.ref.stamp != second.ref.stamp
    places.forget(first)
    assert places.is_current(second)
    places.forget(second)
    assert not places._spoiled


def test_variables_of_single_tasks_of_gnu_parallel_do_not_tell_workers_apart() -> None:
    tasks = ({"PARALLEL_SEQ": str(n), "PARALLEL_PID": "7", "A": "1"} for n in range(2))
    assert [shown(task, "/") for task in tasks] == [{"A": "1"}] * 2


def test_weights_that_a_shadow_directory_lacks_are_no_change_of_code() -> None:
    class InShadow(ClientJob):
        files_in = "/flow/.snakemake/shadow/tmp1"  # type: ignore[assignment]

    there = ToolRef("tool.py", "/flow", "python")
    shadowed = InShadow("tool.py", "tool.py", Job(), None, "/flow", 0o022, {})
    with pytest.raises(ComputeThere, match="relative name"):
        refuse_relative_weights("WeightsChanged", shadowed, there)
    refuse_relative_weights("WeightsChanged", job(), there)
    refuse_relative_weights("CodeChanged", shadowed, there)


@pytest.mark.parametrize("text", ["x", "0", "nan", "1e9", "-5"])
def test_a_time_that_is_none_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"takes seconds .* not '{text}'"):
        _timeout(text)


def test_the_log_says_what_has_happened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = DayLog(logging.getLogger("a server"))
    log.take("device_granted", {"worker": "w", "model": "Shout (m)", "devices": ["cpu:0"]})
    log.take("model_loaded", {"worker": "w", "model": "Shout (m)", "seconds": 1.25})
    log.take("batch_sent", {"worker": "w"})
    log.take("evicted", {"worker": "w", "devices": ["cpu:0"], "how": "restart"})
    log.take("worker_stopping", {"worker": "w", "why": "idle"})
    log.take("worker_ended", {"worker": "w", "reason": "exit code 0", "expected": True})
    log.take("worker_ended", {"worker": "v", "reason": "killed by SIGKILL", "expected": False})
    log.take("model_failed", {"model": "Shout (n)", "error": "no weights\nTraceback"})
    log.take("job_failed", {"error": "rule a: no weights\nTraceback"})
    assert caplog.messages == [
        "Shout (m) on cpu:0: loaded in 1.2 s, by process w",
        "Shout (m) on cpu:0: makes room for another model, or another run",
        "Shout (m) on cpu:0: its process is ended: idle",
        "process v: its process has died: killed by SIGKILL",
        "Shout (n): cannot be loaded: no weights",
        "a job has failed: rule a: no weights",
    ]
    assert not log._names
