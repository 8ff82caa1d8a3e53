"""`gpupool run` under `make -j64`: each job by itself, cold, or by a server that outlives them.

The same Makefile and files: one torch model, one small file a job. Cold, make is given as many
jobs as there are cores, since more would only take memory, and of all jobs a share, scaled up::

    python bench/serve.py
    python bench/serve.py --jobs 40 --cold 4      a quick look
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import report
from measure import (
    BENCH,
    OUT,
    RivalFailed,
    Runs,
    end_on_sigterm,
    environment,
    limit_cores,
    machine,
    run_timed,
)
from tools.layer import WIDTH

ROOM = OUT / "serve"
TOOL = BENCH / "tools" / "layer.py"
ROWS = 16
#: A second make with everything loaded, a client alone, and cold jobs against served ones.
MIN_SPEEDUP, MAX_CLIENT_S = 20.0, 0.1


def write_room(directory: Path, jobs: int) -> None:
    """Write the inputs, and a Makefile whose jobs are those of ``N``."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    for job in range(jobs):
        rng.standard_normal((ROWS, WIDTH)).astype(np.float32).tofile(directory / f"{job}.f32")


def makefile(inputs: Path, jobs: int) -> str:
    """Return a Makefile for the first so many jobs."""
    lines = [
        f"all: {' '.join(f'{job}.out' for job in range(jobs))}",
        f"%.out: {inputs}/%.f32",
        f"\t@gpupool run {TOOL} --input $< --output $@ --device cpu",
    ]
    return "\n".join(lines) + "\n"


def run(runs: Runs, room: Path, inputs: Path, jobs: int, width: int, server: str) -> None:
    """Run make once.

    Raises
    ------
    RivalFailed
        It ended with an error.
    """
    (ROOM / "Makefile").write_text(makefile(inputs, jobs))
    command = ["make", "-s", f"-j{width}", "-f", str(ROOM / "Makefile")]
    run_timed(runs, command, room, {**of_bench(), "GPUPOOL_SERVER": server})
    print(f"  {runs.label}: {runs.walls_s[-1]:.2f} s", flush=True)


def of_bench() -> dict[str, str]:
    """Return the variables that make the server the bench's own."""
    return {"GPUPOOL_PROFILE": str(ROOM / "profile.json")}


def gpupool(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command outside of make."""
    env = environment(of_bench())
    return subprocess.run(
        ["gpupool", *words], cwd=ROOM, env=env, capture_output=True, text=True, check=False
    )


def client_s(inputs: Path, times: int = 21) -> tuple[float, float]:
    """Return the median time of a client alone, and of one with a job, the model loaded.

    Alone: it starts, reads its options and its input's name, looks for a server, and finds none.
    """
    words = "run", str(TOOL), "--input", str(inputs / "0.f32"), "--output", "one.out"
    words = (*words, "--device", "cpu")
    alone, served = [], []
    nowhere = str(ROOM / "nowhere")
    for _ in range(times):
        start_s = time.perf_counter()
        refused = gpupool(*words, "--server", nowhere)
        alone.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        done = gpupool(*words, "--server", "on")
        served.append(time.perf_counter() - start_s)
        if (refused.returncode, done.returncode) != (2, 0):
            raise RivalFailed(f"a client failed: {refused.stderr}{done.stderr}")
    return statistics.median(alone), statistics.median(served)


def main() -> int:
    """Run the bench; return 0 if outputs agree and the targets are reached."""
    options = parse_arguments()
    end_on_sigterm()
    cores = limit_cores(options.cores)
    shutil.rmtree(ROOM, ignore_errors=True)
    print("\n".join(report.facts_lines(machine())), flush=True)
    inputs = ROOM / "inputs"
    write_room(inputs, options.jobs)
    cold = Runs(f"cold, {options.cold} jobs, make -j{cores}")
    first = Runs(f"a server is started, {options.jobs} jobs, make -j64")
    again = Runs(f"everything is loaded, {options.jobs} jobs, make -j64")
    try:
        run(cold, ROOM / "cold", inputs, options.cold, cores, "off")
        run(first, ROOM / "first", inputs, options.jobs, 64, "auto")
        loads = loads_so_far()
        run(again, ROOM / "again", inputs, options.jobs, 64, "auto")
        more_loads = loads_so_far() - loads
        alone_s, served_s = client_s(inputs)
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    finally:
        gpupool("serve", "--stop")
    print("\n".join(["", *report.table([cold, first, again]), ""]))
    print(f"- models loaded: {loads}, and {more_loads} when everything was loaded")
    print(f"- a client alone {1000 * alone_s:.0f} ms, with one job {1000 * served_s:.0f} ms")
    difference = largest_difference(options.cold)
    agreed = difference <= 1e-5 and more_loads == 0
    print(f"- {'PASS' if agreed else 'FAIL'}: outputs agree; largest difference {difference:.1e}")
    cold_s = cold.median_s * options.jobs / options.cold
    targets = [
        report.Target(
            "served / cold, from no server at all", first.median_s / cold_s, 1 / MIN_SPEEDUP
        ),
        report.Target("seconds of a client alone", alone_s, MAX_CLIENT_S),
    ]
    print("\n".join(map(str, targets)))
    print(
        f"- {cold_s / first.median_s:.0f} and {cold_s / again.median_s:.0f} times as fast as cold"
    )
    return 0 if agreed and all(target.reached for target in targets) else 1


def loads_so_far() -> int:
    """Return how many models the server has loaded."""
    return int(json.loads(gpupool("serve", "--status", "--json").stdout)["loads"])


def largest_difference(jobs: int) -> float:
    """Return how far the outputs of the ways are apart, for the jobs that all have done."""
    results = [
        np.stack([np.fromfile(ROOM / way / f"{job}.out", np.float32) for job in range(jobs)])
        for way in ("cold", "first", "again")
    ]
    return float(max(np.abs(result - results[0]).max() for result in results))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200, help="that a server does (default: 200)")
    parser.add_argument("--cold", type=int, default=20, help="jobs that run cold (default: 20)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    if not 1 <= options.cold <= options.jobs or options.cores < 1:
        parser.error("--cold is from 1 to --jobs, --cores at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
