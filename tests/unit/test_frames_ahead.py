"""How many files a process is sent ahead, and when its answers may be gathered. Pure."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.scheduling.files.worker_pool import (
    BYTES_AHEAD,
    FRAMES_AHEAD,
    FRAMES_LEFT,
    MAX_PAUSE_S,
    QUICK_FRAMES_AHEAD,
    QUICK_S,
    FileWorker,
    FileWorkerPool,
    pause_s,
)
from snakemake_executor_gpupool.wire.requests import ToolRef


def worked(frame_s: float, frames: int = 64, turn: int = 4, size_bytes: int = 0) -> FileWorker:
    """A process that has done so many frames one after the other, heard of some at a time."""
    worker = FileWorker("t.files1", ready=True)
    now_s, job_id = 100.0, 0
    for _ in range(0, frames, turn):
        while worker.has_room:
            job_id += 1
            worker.sent(job_id, size_bytes, now_s)
        now_s += frame_s * turn
        for _ in range(turn):
            worker.answered(now_s)
    while worker.has_room:
        job_id += 1
        worker.sent(job_id, size_bytes, now_s)
    return worker


def test_a_quick_process_gets_more_ahead_which_takes_less_time_than_a_slow_ones_few() -> None:
    assert len(worked(1e-4).in_flight) == QUICK_FRAMES_AHEAD
    assert len(worked(2 * QUICK_S).in_flight) == FRAMES_AHEAD
    assert len(worked(1e-4, frames=8).in_flight) == FRAMES_AHEAD, "not measured yet"
    assert len(worked(1e-4, size_bytes=BYTES_AHEAD // 4).in_flight) == 4, "large files"
    assert QUICK_FRAMES_AHEAD * QUICK_S <= 0.02


def test_what_a_process_waited_for_work_is_not_what_a_frame_takes() -> None:
    worker = FileWorker("t.files1", ready=True)
    for job_id in range(200):  # each comes a second after the one before
        worker.sent(job_id, 0, float(job_id))
        worker.answered(job_id + 1e-4)
    assert worker.frame_s is None


def test_a_process_that_becomes_slow_gets_few_again() -> None:
    worker = worked(1e-4)
    now_s = 200.0
    for job_id in range(1000, 1100):
        now_s += 0.01
        worker.answered(now_s)
        if worker.has_room:
            worker.sent(job_id, 0, now_s)
    assert worker.frames_ahead == FRAMES_AHEAD
    assert len(worker.in_flight) <= FRAMES_AHEAD


def test_answers_are_gathered_only_while_everybody_has_enough_to_do() -> None:
    quick, idle = worked(1e-4), FileWorker("t.files2", ready=True)
    tool = FileWorkerPool(ToolRef("tool", "", "python"), "t")
    for worker in (quick, idle):
        tool.add(worker)
    tools = {worker.worker_id: tool for worker in (quick, idle)}
    assert 0.0 < pause_s(tools, ["t.files1"]) <= MAX_PAUSE_S
    left = QUICK_FRAMES_AHEAD - FRAMES_LEFT
    assert pause_s(tools, ["t.files1"] * left) == 0.0, "it would run out of work"
    assert pause_s(tools, ["t.files1"] * (left - 1)) == pytest.approx(1e-4)
    assert pause_s(tools, ["t.files1", "t.files2"]) == 0.0
    assert pause_s(tools, ["t.files1", "t.1"]) == 0.0, "a device may wait for it"
    assert pause_s(tools, []) == 0.0
    tool.remove("t.files1")
    assert pause_s(tools, ["t.files1"]) == 0.0, "it has ended"
