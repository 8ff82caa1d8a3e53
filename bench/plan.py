"""How long ``gpupool plan`` says that a run will take, against how long it takes.

Each workflow is run once on some jobs, which leaves figures of its models and rules. Then it is
planned for other jobs, with other inputs, and run on them::

    python bench/plan.py                      all workflows, some minutes
    python bench/plan.py --only sleeps chain  some of them
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import report
import workload
from measure import BENCH, OUT, end_on_sigterm, environment, limit_cores, machine

ROOM = OUT / "plan"
MEDIAN, WORST = 1.25, 1.6
LIMITS = ("--jobs", "unlimited", "--max-jobs-per-timespan", "10000/1s", "--cores", "2")
TOOL = f"{BENCH / 'tools' / 'paced.py'}:Paced"
HEAD = """
JOBS = [str(i) for i in range(int(config["from"]), int(config["to"]))]
localrules: all
"""
SERVED = """
rule {name}:
    input: "{source}"
    output: "{target}"
    resources: gpupool_tool="{tool}"
    params: load_s={load_s}, model={model}
    shell: "exit 1"
"""


def served(
    name: str, source: str, target: str, load_s: float = 0.2, model: str = "'a'", tool: str = TOOL
) -> str:
    """Return a served rule."""
    return SERVED.format(
        name=name, source=source, target=target, load_s=load_s, model=model, tool=tool
    )


def every(*targets: str) -> str:
    """Return the rule that asks for all of them."""
    wanted = ", ".join(f'expand("{target}", i=JOBS)' for target in targets)
    return f"{HEAD}\nrule all:\n    input: {wanted}\n"


@dataclass(frozen=True)
class Case:
    """A workflow.

    Attributes
    ----------
    lines
        Of an input, given the job's number and a source of chance.
    first, then
        How many jobs the first run has, and the one that is planned.
    """

    name: str
    snakefile: str
    lines: Callable[[int, random.Random], list[str]]
    first: int
    then: int
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


def items(low: int, high: int, count: int) -> Callable[[int, random.Random], list[str]]:
    """Return items of so many milliseconds, no two alike."""
    return lambda job, rng: [f"{job}.{n} {rng.randint(low, high)}" for n in range(count)]


def repeated(job: int, rng: random.Random) -> list[str]:
    """Return items of which most are those of other jobs."""
    return [f"shared{n} 60" for n in range(8)] + [f"{job}.{n} 60" for n in range(2)]


def proteins(job: int, rng: random.Random) -> list[str]:
    """Return records of a FASTA file."""
    return [f">p{n}\n{workload.protein(rng)}" for n in range(4)]


PLAIN = """
rule plain:
    output: "plain/{i}"
    shell: "sleep 1; touch {output}"
"""
PREPARE = """
rule prepare:
    input: "in/{i}"
    output: "made/{i}"
    shell: "sleep 0.3; cp {input} {output}"
"""
CARD = """
rule card:
    input: "a/{i}"
    output: "card/{i}"
    resources: gpu=1
    shell: "sleep 1; cp {input} {output}"
"""
GROUPED = """
rule tidy:
    input: "a/{i}"
    output: "tidy/{i}"
    group: "g"
    shell: "sleep 0.2; cp {input} {output}"
"""
TWO = ("--gpupool-devices", "cpu:2")
CASES = (
    Case("trivial", every("a/{i}") + served("a", "in/{i}", "a/{i}"), items(0, 0, 5), 20, 60, TWO),
    Case("sleeps", every("a/{i}") + served("a", "in/{i}", "a/{i}"), items(20, 200, 6), 6, 24, TWO),
    Case(
        "slow load",
        every("a/{i}") + served("a", "in/{i}", "a/{i}", load_s=6.0),
        items(50, 100, 4),
        2,
        12,
        TWO,
    ),
    Case(
        "models",
        every("a/{i}")
        + served("a", "in/{i}", "a/{i}", load_s=2.0, model="lambda w: 'm' + str(int(w.i) % 4)"),
        items(50, 150, 6),
        8,
        20,
        TWO,
    ),
    Case("duplicates", every("a/{i}") + served("a", "in/{i}", "a/{i}"), repeated, 8, 40, TWO),
    Case(
        "chain",
        every("b/{i}") + served("a", "in/{i}", "a/{i}") + served("b", "a/{i}", "b/{i}", 0.5, "'b'"),
        items(60, 120, 4),
        4,
        16,
        TWO,
    ),
    Case(
        "merged",
        every("b/{i}") + served("a", "in/{i}", "a/{i}") + served("b", "a/{i}", "b/{i}", 0.5, "'b'"),
        items(10, 40, 2),
        8,
        40,
        TWO,
    ),
    Case(
        "plain beside",
        every("a/{i}", "plain/{i}") + served("a", "in/{i}", "a/{i}") + PLAIN,
        items(50, 150, 4),
        3,
        12,
        TWO,
    ),
    Case(
        "prepared",
        every("a/{i}") + PREPARE + served("a", "made/{i}", "a/{i}"),
        items(50, 150, 4),
        6,
        18,
        TWO,
    ),
    Case(
        "cards",
        every("card/{i}") + served("a", "in/{i}", "a/{i}") + CARD,
        items(50, 100, 4),
        2,
        6,
        (),
        {"GPUPOOL_SIMULATE": "2x24GiB"},
    ),
    Case(
        "groups",
        every("tidy/{i}")
        + served("a", "in/{i}", "a/{i}").replace("    resources:", '    group: "g"\n    resources:')
        + GROUPED,
        items(50, 150, 4),
        3,
        12,
        TWO,
    ),
    Case(
        "default limits",
        every("a/{i}") + served("a", "in/{i}", "a/{i}"),
        items(1, 5, 2),
        40,
        160,
        (*TWO, "--max-jobs-per-timespan", "100/1s"),
    ),
    Case(
        "esm2",
        every("a/{i}.npz")
        + f"""
rule a:
    input: fasta="in/{{i}}"
    output: "a/{{i}}.npz"
    resources: gpupool_tool="esm2-embed"
    params: model="{ROOM / "tiny"}/esm2_tiny.pt", layers=[2]
    shell: "exit 1"
""",
        proteins,
        6,
        30,
        TWO,
    ),
)


@dataclass
class Result:
    """What was said, and what came."""

    name: str
    said_s: float
    low_s: float
    high_s: float
    took_s: float
    plan_s: float

    @property
    def ratio(self) -> float:
        """Return how far apart they are: the larger over the smaller."""
        return max(self.said_s, self.took_s) / min(self.said_s, self.took_s)


def prepare(case: Case) -> Path:
    """Write a workflow; return its directory."""
    directory = ROOM / case.name.replace(" ", "-")
    (directory / "in").mkdir(parents=True)
    (directory / "Snakefile").write_text(case.snakefile)
    rng = random.Random(case.name)
    for job in range(case.first + case.then):
        (directory / "in" / str(job)).write_text("\n".join(case.lines(job, rng)) + "\n")
    return directory


def called(case: Case, directory: Path, command: list[str], start: int, stop: int) -> str:
    """Run a command on some of the jobs; return its standard output."""
    variables = {"GPUPOOL_PROFILE": str(directory / "profile.json"), **case.variables}
    arguments = [*LIMITS, *case.arguments, "--config", f"from={start}", f"to={stop}"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=directory,
        env=environment(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{case.name}: {' '.join(command)} failed\n{done.stdout}{done.stderr}")
    return done.stdout


def measure(case: Case) -> Result:
    """Run, plan, and run again on other jobs."""
    directory = prepare(case)
    snakemake = [sys.executable, "-m", "snakemake", "--executor", "gpupool"]
    gpupool = [str(Path(sys.executable).with_name("gpupool")), "plan", "--json"]
    called(case, directory, snakemake, 0, case.first)
    begin_s = time.perf_counter()
    plan = json.loads(called(case, directory, gpupool, case.first, case.first + case.then))
    plan_s = time.perf_counter() - begin_s
    if plan["wall_s"] is None:
        raise SystemExit(f"{case.name}: not known: {plan['unknown']}")
    begin_s = time.perf_counter()
    called(case, directory, snakemake, case.first, case.first + case.then)
    took_s = time.perf_counter() - begin_s
    return Result(case.name, plan["wall_s"], plan["low_s"], plan["high_s"], took_s, plan_s)


def write_tiny_model() -> None:
    """Write a small seeded ESM-2."""
    code = (
        "import sys\n"
        "from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint\n"
        "from pathlib import Path\n"
        "made = Path(write_seeded_checkpoint(sys.argv[1], 2, 64, 4))\n"
        "made.rename(made.with_name('esm2_tiny.pt'))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOM / "tiny")], check=True)


def main() -> int:
    """Measure all; return 0 if the targets are reached."""
    end_on_sigterm()
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of them")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    limit_cores(options.cores)
    shutil.rmtree(ROOM, ignore_errors=True)
    (ROOM / "tiny").mkdir(parents=True)
    write_tiny_model()
    print("\n".join(report.facts_lines(machine())), flush=True)
    print("\n| workflow | planned, s | range | real, s | apart | planning, s |")
    print("|---|---|---|---|---|---|", flush=True)
    results = []
    for case in CASES:
        if case.name in options.only:
            each = measure(case)
            results.append(each)
            span = f"{each.low_s:.1f}-{each.high_s:.1f}"
            print(
                f"| {each.name} | {each.said_s:.1f} | {span} | {each.took_s:.1f} "
                f"| {each.ratio:.2f} x | {each.plan_s:.1f} |",
                flush=True,
            )
    ratios = [each.ratio for each in results]
    targets = [
        report.Target("planned against real, median", statistics.median(ratios), MEDIAN),
        report.Target("planned against real, worst", max(ratios), WORST),
    ]
    print("\n" + "\n".join(map(str, targets)))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
