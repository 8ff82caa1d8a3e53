"""Running commands against the clock, and what is said about the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
#: Where rivals work. A place elsewhere is worth a variable: see :func:`new_file_s`.
OUT = Path(os.environ.get("BENCH_OUT") or BENCH / "out").absolute()
PACKAGES = ("snakemake", "torch", "fair-esm", "numpy", "snakemake-executor-plugin-gpupool")
#: Whether rivals see the GPUs that there are.
GPU = False
#: What a user's shell may hold that would favour one rival; none inherits it.
UNSET_PREFIXES = ("GPUPOOL_", "MALLOC_", "OMP_", "MKL_", "SNAKEMAKE_", "PYTHON")


class RivalFailed(Exception):
    """A rival's command ended with an error; the message holds the end of its log."""


@dataclass
class Runs:
    """One rival's runs.

    Attributes
    ----------
    label
        What the table calls it.
    walls_s, cpus_s
        Wall time and processor time (with all child processes) of each run.
    directory
        Where the latest run worked.
    started_s
        When the latest run started, in seconds since the epoch.
    """

    label: str
    walls_s: list[float] = field(default_factory=list)
    cpus_s: list[float] = field(default_factory=list)
    directory: Path | None = None
    started_s: float = 0.0

    @property
    def median_s(self) -> float:
        """Return the median wall time."""
        return statistics.median(self.walls_s)


def run_timed(
    runs: Runs, command: list[str], directory: Path, env: dict[str, str] | None = None
) -> None:
    """Run a command in a fresh directory and add its times to ``runs``.

    Raises
    ------
    RivalFailed
        It did not exit with 0.
    """
    directory.mkdir(parents=True)
    log = directory / "bench.log"
    with log.open("wb") as stream:
        runs.started_s, start_s = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command, cwd=directory, env=environment(env), stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            end(process)  # the bench is being ended; no rival outlives it
            raise
        wall_s = time.perf_counter() - start_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise RivalFailed(
            f"{runs.label}: exit code {process.returncode} from\n  {' '.join(command)}\n"
            f"in {directory}; its log ends:\n{tail}"
        )
    runs.walls_s.append(wall_s)
    runs.cpus_s.append(usage.ru_utime + usage.ru_stime)
    runs.directory = directory


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment that all rivals share, and ``extra``.

    No GPU is visible unless ``GPU`` says so; caches live in the bench's own directory, so that the
    first run finds them empty whoever ran what before.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(UNSET_PREFIXES)}
    bin_directory = str(Path(sys.executable).parent)
    shared = {
        **({} if GPU else {"CUDA_VISIBLE_DEVICES": ""}),
        "XDG_CACHE_HOME": str(OUT / "cache"),
        "PATH": bin_directory + os.pathsep + kept.get("PATH", os.defpath),
    }
    return {**kept, **shared, **(extra or {})}


def end(process: subprocess.Popen[bytes], grace_s: float = 15.0) -> None:
    """End a process: a request, some time to finish its jobs, then force."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()


def end_on_sigterm() -> None:
    """Let a SIGTERM unwind this process as Ctrl-C does, so that a running rival is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def limit_cores(cores: int) -> int:
    """Keep this process and all it starts to ``cores`` cores; return how many there are."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[:cores])
    return min(cores, len(available))


def machine() -> dict[str, str]:
    """Return the facts that timings are to be read with."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    facts = {
        "processor": _first_line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": f"{os.cpu_count()}, of which the bench uses {len(os.sched_getaffinity(0))}",
        "memory": _first_line("/proc/meminfo", "MemTotal") or "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "load average at start": load,
        "a fixed piece of Python": f"{1000 * fixed_work_s():.1f} ms",
        "a new file in the bench's directory": f"{1e6 * new_file_s():.0f} us",
        "Python": platform.python_version(),
    }
    return facts | {package: _version(package) for package in PACKAGES}


def fixed_work_s() -> float:
    """Return the fastest of five runs of the same Python: what a core of this machine does today.

    Virtual machines of one kind differ by half and more from hour to hour. Figures of different
    days can be compared by this one: 20,000 small records are made, sorted, written as JSON and
    read again, in seconds of processor time.
    """
    return min(_fixed_work_s() for _ in range(5))


def _fixed_work_s() -> float:
    start_s = time.thread_time()
    records = [{"name": f"item {n * 7919 % 20000}", "cost": n % 300} for n in range(20000)]
    records.sort(key=lambda record: (record["cost"], record["name"]))
    texts = [json.dumps(record) for record in records]
    assert [json.loads(text) for text in texts] == records
    return time.thread_time() - start_s


def new_file_s(count: int = 50) -> float:
    """Return what it takes to create an empty file where rivals work, in seconds.

    ext4 passes over every inode near by that was deleted in the last five minutes before it takes
    one. After other benches were there a new file can so take 300 us instead of 20, which is most
    of what a small job costs.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUT) as directory:
        names = [f"{directory}/{number}" for number in range(count)]
        start_s = time.perf_counter()
        for name in names:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        return (time.perf_counter() - start_s) / count


def _first_line(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
