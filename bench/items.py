"""What an item costs: from Python, through Snakemake, and in one job of a million.

A tool that does nothing; items are texts, all different. Processor time moves less than wall time
on a machine that others use, so it is printed beside it, for the coordinator and for the processes
of the tool::

    python bench/items.py                    everything
    python bench/items.py --parts python     one part
    python bench/items.py --items 20000 --jobs 100 --million 100000 --repeats 1    a quick look
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import report
import rivals
from measure import OUT, RivalFailed, Runs
from timeline import LATEST

ROOM = OUT / "items"
TOOL = f"{Path(__file__).resolve().parent / 'tools' / 'lines.py'}:Lines"
SNAKEFILE = rivals.HERE / "items.smk"
ITEM_BYTES = 300
ITEMS_PER_JOB = 40
PARTS = ("python", "snakemake", "million")
#: To reach: items a second from Python and through Snakemake, and the coordinator's memory.
PYTHON_PER_S, SNAKEMAKE_PER_S, BYTES_PER_ITEM = 60_000, 25_000, 250
#: How often memory is looked at.
LOOK_S = 0.01
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def processor_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


class Watch:
    """Measures this process and those of its pool while a block runs.

    Attributes
    ----------
    wall_s, own_s, others_s
        Wall time, processor time of this process, and of the others.
    own_bytes, others_bytes
        By how much this process grew at most; the most that any of the others had.
    """

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.wall_s = self.own_s = self.others_s = 0.0
        self.own_bytes = self.others_bytes = 0

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_S):
            self.own_bytes = max(self.own_bytes, memory_bytes(os.getpid()) - self._first_bytes)
            self.others_bytes = max([self.others_bytes, *map(memory_bytes, self._pids)])

    def __enter__(self) -> Watch:
        self._first_bytes = memory_bytes(os.getpid())
        self.others_s = -sum(map(processor_s, self._pids))
        self._thread.start()
        self.own_s, self.wall_s = -time.process_time(), -time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall_s += time.perf_counter()
        self.own_s += time.process_time()
        self.others_s += sum(map(processor_s, self._pids))
        self._is_over.set()
        self._thread.join()


@dataclass
class Cost:
    """What items cost in one run.

    Attributes
    ----------
    bytes_per_item
        Of the coordinator's memory, the items' own bytes included; None: not measured.
    """

    label: str
    items: int
    wall_s: float
    own_s: float
    others_s: float
    bytes_per_item: float | None = None
    load: str = ""

    @property
    def per_s(self) -> float:
        """Items a second."""
        return self.items / self.wall_s

    def row(self) -> str:
        """Return a row of the table."""
        own, others = (1e6 * seconds / self.items for seconds in (self.own_s, self.others_s))
        memory = "" if self.bytes_per_item is None else f"{self.bytes_per_item:.0f}"
        cells = f"{self.per_s:,.0f} | {own:.1f} | {others:.1f} | {memory} | {self.load}"
        return f"| {self.label} | {cells} |"


HEAD = [
    "| | items/s | coordinator, us/item | others, us/item | coordinator, bytes/item | load |",
    "|---|---|---|---|---|---|",
]


def load_now() -> str:
    """Return the machine's load average over the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def apart(measure: str, count: int) -> Cost:
    """Measure in a process of its own: memory that others have left would hide what is taken."""
    command = [sys.executable, __file__, "--measure", measure, str(count)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Cost(**json.loads(output.splitlines()[-1]))


# -- from Python -------------------------------------------------------------------------
def from_python(count: int) -> Cost:
    """Compute so many items of 300 bytes in one call of a warm pool."""
    from snakemake_executor_gpupool import ToolPool

    filler = "x" * (ITEM_BYTES - 8)
    items = [f"{number:08d}{filler}" for number in range(count)]
    with ToolPool(devices="cpu:1") as pool:
        pool.run(TOOL, ["warm"])
        load = load_now()
        with Watch(pids_of(pool)) as watch:
            results = pool.run(TOOL, items)
    if results != [ITEM_BYTES] * count:
        raise SystemExit("FAIL: wrong results")
    figures = watch.wall_s, watch.own_s, watch.others_s, watch.own_bytes / count, load
    return Cost(f"{count:,} items of {ITEM_BYTES} bytes from Python", count, *figures)


def pids_of(pool: object) -> list[int]:
    """Return the processes of a pool."""
    return pool._pool._host.pids()  # type: ignore[attr-defined, no-any-return]


def one_job(count: int) -> Cost:
    """Do one job of so many short items, from file to file."""
    from snakemake_executor_gpupool import ToolPool

    ROOM.mkdir(parents=True, exist_ok=True)
    source, target, first = ROOM / "many.txt", ROOM / "many.out", ROOM / "first.out"
    (ROOM / "one.txt").write_text("warm\n")
    with source.open("w") as file:
        file.writelines(f"{number:08d}\n" for number in range(count))
    with ToolPool(devices="cpu:1") as pool:
        pool.run_job(TOOL, input=[str(ROOM / "one.txt")], output=[str(first)])
        load = load_now()
        with Watch(pids_of(pool)) as watch:
            pool.run_job(TOOL, input=[str(source)], output=[str(target)])
    if target.read_text() != f"{count} {8 * count}\n":
        raise SystemExit("FAIL: wrong results")
    others = f"the largest other process had {watch.others_bytes / 2**20:.0f} MiB"
    print(f"  {others}", file=sys.stderr, flush=True)
    figures = watch.wall_s, watch.own_s, watch.others_s, watch.own_bytes / count, load
    return Cost(f"one job of {count:,} items of 8 bytes", count, *figures)


# -- through Snakemake ---------------------------------------------------------------------
def through_snakemake(jobs: int, repeats: int) -> list[Cost]:
    """Serve jobs of 40 items, beside an executor that only touches outputs."""
    inputs = ROOM / "inputs"
    inputs.mkdir(parents=True)
    for job in range(jobs):
        lines = (f"{job:06d}-{number:03d} {'x' * 80}\n" for number in range(ITEMS_PER_JOB))
        (inputs / f"{job}.txt").write_text("".join(lines))
    floor, served = Runs("floor"), Runs("gpupool")
    phases: list[float] = []
    floor_phases: list[tuple[float, ...]] = []
    load = load_now()
    config = ["--config", f"jobs={jobs}", f"inputs={inputs}"]
    for number in range(repeats):
        rivals.touch_floor(floor, ROOM / f"floor{number}", *config, snakefile=SNAKEFILE)
        rivals.gpupool(served, ROOM / f"gpupool{number}", *config, snakefile=SNAKEFILE)
        phases.append(phase_s(served))
        floor_phases.append(floor_phases_s(floor))
        print(
            f"  floor {floor.walls_s[-1]:.2f} s, {floor.cpus_s[-1]:.2f} s of processor time, "
            f"from the first job to the last {floor_phases[-1][0]:.2f} s, until Snakemake has "
            f"looked after it {floor_phases[-1][1]:.2f} s, of which its thread computes "
            f"{floor_phases[-1][2]:.2f} s; "
            f"gpupool {served.walls_s[-1]:.2f} s, {served.cpus_s[-1]:.2f} s; "
            f"from the first job read to the last done {phases[-1]:.2f} s",
            flush=True,
        )
    items = jobs * ITEMS_PER_JOB
    beyond_s = statistics.median(served.cpus_s) - statistics.median(floor.cpus_s)
    what = f"{jobs} jobs x {ITEMS_PER_JOB} items"
    done_s, looked_s = (statistics.median(phase[n] for phase in floor_phases) for n in (0, 1))
    walls = {
        "Snakemake, the whole run": served.median_s,
        "the floor, first job to last done": done_s,
        "the floor, first job to last looked after": looked_s,
        "first read to last done": statistics.median(phases),
    }
    return [
        Cost(f"{what}: {name}", items, wall_s, beyond_s, 0.0, load=load)
        for name, wall_s in walls.items()
    ]


def floor_phases_s(runs: Runs) -> tuple[float, ...]:
    """Return the seconds from the first job that the floor's executor got until its last was done.

    And until Snakemake's own thread had looked after that job, too, and the processor time that it
    took. In a run of gpupool it does so meanwhile, which is in the time from the first job read to
    the last one done.
    """
    text = ((runs.directory or Path()) / "touchfloor.json").read_text()
    first_s, last_s, looked_s, own_s = map(float, json.loads(text))
    return last_s - first_s, looked_s - first_s, own_s


def phase_s(runs: Runs) -> float:
    """Return the seconds from the first job that was read until the last one that was done."""
    directory = runs.directory or Path()
    lines = (directory / LATEST / "events.jsonl").read_text().splitlines()
    times = [
        event["time_s"]
        for event in map(json.loads, lines)
        if event["event"] in ("read_sent", "job_done")
    ]
    return max(times) - min(times)


def main() -> int:
    """Run the bench; return 0 if every target is reached."""
    if sys.argv[1:2] == ["--measure"]:
        measure = {"python": from_python, "million": one_job}[sys.argv[2]]
        print(json.dumps(asdict(measure(int(sys.argv[3])))))
        return 0
    options = parse_arguments()
    report.begin(ROOM, options.cores)
    costs: list[Cost] = []
    targets: list[report.Target] = []
    try:
        if "python" in options.parts:
            runs = [apart("python", options.items) for _ in range(options.repeats)]
            costs += runs
            best = min(runs, key=lambda cost: cost.wall_s)
            targets.append(at_least("items/s from Python, the best run", best, PYTHON_PER_S))
        if "million" in options.parts:
            costs.append(apart("million", options.million))
            memory = costs[-1].bytes_per_item or 0.0
            targets.append(report.Target("bytes of an item in flight", memory, BYTES_PER_ITEM))
        if "snakemake" in options.parts:
            costs += through_snakemake(options.jobs, options.repeats)
            label = "items/s through Snakemake, from the first read to the last done"
            targets.append(at_least(label, costs[-1], SNAKEMAKE_PER_S))
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    print("\n".join(["", *HEAD, *(cost.row() for cost in costs), "", *map(str, targets)]))
    return 0 if all(target.reached for target in targets) else 1


def at_least(label: str, cost: Cost, per_s: float) -> report.Target:
    """Return the target of so many items a second, as a ratio of times."""
    return report.Target(f"{per_s:,.0f} {label} / {cost.per_s:,.0f}", per_s / cost.per_s, 1.0)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--items", type=int, default=100_000, help="from Python")
    parser.add_argument("--million", type=int, default=1_000_000, help="items of the one job")
    parser.add_argument("--jobs", type=int, default=500, help="through Snakemake")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    if min(options.items, options.million, options.jobs, options.repeats, options.cores) < 1:
        parser.error("every number must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
