"""Where Snakemake's main thread is, looked at 200 times a second; what each thread and child took.

Imported by Python itself where this directory is on its path. It does something only in the process
that finds the name of a file in ``BENCH_SAMPLES``, into which it writes what it has seen.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import threading
import time
from pathlib import Path

PERIOD_S = 0.005
#: So many samples lie between two looks at threads and processes.
LOOKS = 20
TICKS = os.sysconf("SC_CLK_TCK")
OURS = "frontends/snakemake/"
#: By file and function, what the main thread is at; the innermost frame that is here counts.
PLACES = {
    ("snakemake/cli.py", "main"): "Snakemake: start, parsing, the graph",
    ("scheduling/job_scheduler.py", "schedule"): "Snakemake: each round of scheduling",
    ("scheduling/job_scheduler.py", "job_selector"): "Snakemake: choosing jobs",
    ("scheduling/job_scheduler.py", "_finish_jobs"): "Snakemake: looking after ended jobs",
    ("scheduling/job_scheduler.py", "postprocess"): "Snakemake: looking after ended jobs",
    ("scheduling/job_scheduler.py", "run"): "executor: handing jobs over",
    ("snakemake/jobs.py", "prepare"): "Snakemake: preparing a job",
    ("executors/base.py", "printjob"): "Snakemake: printing a job",
    ("snakemake/jobs.py", "log_info"): "Snakemake: printing a job",
    ("snakemake/jobs.py", "register"): "Snakemake: marking a job as begun",
    (OURS + "executor.py", "__post_init__"): "executor: start",
    (OURS + "executor.py", "shutdown"): "executor: end",
    (OURS + "executor.py", "look"): "executor: forecast",
}


class Samples:
    """What was seen so far."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._places: dict[str, list[float]] = {}
        self._threads: dict[str, float] = {}
        self._children: dict[str, dict[int, float]] = {}
        self._labels: dict[tuple[str, str], str | None] = {}
        self._collecting: dict[str, float] = {}
        self._gc_began_s = 0.0
        self._number = 0
        self._wall_s, self._own_s = time.perf_counter(), time.thread_time()

    def start(self) -> None:
        """Look from now on, until the process ends."""
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, PERIOD_S, PERIOD_S)
        gc.callbacks.append(self._collects)
        atexit.register(self._write)

    def _look(self, number, frame) -> None:
        wall_s, own_s = time.perf_counter(), time.thread_time()
        seen = self._places.setdefault(self._place(frame), [0.0, 0.0])
        seen[0] += wall_s - self._wall_s
        seen[1] += own_s - self._own_s
        self._wall_s, self._own_s = wall_s, own_s
        self._number += 1
        if self._number % LOOKS == 0:
            self._look_at_others()

    def _place(self, frame) -> str:
        is_waiting = frame is not None and frame.f_code.co_name == "wait"
        while frame is not None:
            code = frame.f_code
            key = code.co_filename, code.co_name
            if key not in self._labels:
                self._labels[key] = next(
                    (
                        label
                        for (file, function), label in PLACES.items()
                        if code.co_name == function and code.co_filename.endswith(file)
                    ),
                    None,
                )
            label = self._labels[key]
            if label is not None:
                return "waiting for jobs" if is_waiting and code.co_name == "schedule" else label
            frame = frame.f_back
        return "Snakemake: start, parsing, the graph"

    def _collects(self, phase, info) -> None:
        if phase == "start":
            self._gc_began_s = time.thread_time()
            return
        name = f"garbage collection, thread {threading.current_thread().name}"
        took_s = time.thread_time() - self._gc_began_s
        self._collecting[name] = self._collecting.get(name, 0.0) + took_s

    def _look_at_others(self) -> None:
        for thread in threading.enumerate():
            tid = thread.native_id
            self._threads[thread.name] = _processor_s(f"/proc/self/task/{tid}/stat")
            try:
                pids = Path(f"/proc/self/task/{tid}/children").read_text().split()
                for pid in map(int, pids):
                    took = self._children.setdefault(_name_of(pid), {})
                    took[pid] = max(took.get(pid, 0.0), _processor_s(f"/proc/{pid}/stat"))
            except OSError:
                continue

    def _write(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._threads["MainThread"] = time.thread_time()
        children = {name: sum(took.values()) for name, took in self._children.items()}
        seen = {"places": self._places, "threads": self._threads, "processes": children}
        seen["collecting"] = self._collecting
        Path(self._path).write_text(json.dumps({**seen, "process_s": time.process_time()}))


def _processor_s(path: str) -> float:
    try:
        fields = Path(path).read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _name_of(pid: int) -> str:
    """Return what a child is: a worker's name, or that of its program."""
    for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if pair.startswith(b"GPUPOOL_WORKER="):
            return pair.partition(b"=")[2].decode()
    return Path(f"/proc/{pid}/comm").read_text().strip()


if _path := os.environ.pop("BENCH_SAMPLES", ""):
    Samples(_path).start()
