"""ESM-2 itself: tokens a second and loading, against fair-esm's loop and transformers.

Every way runs in a process of its own, with the same threads and allocator settings,
once a round. The sequences are the distinct ones of the pipeline's workload::

    python bench/esm2.py                      8M over the workload, loading of 650M
    python bench/esm2.py --device cuda --shape 650M --precision fp16
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import report
import workload
from measure import BENCH, OUT, end_on_sigterm, environment, limit_cores, machine
from offload import SHAPES

SPEED = BENCH / "rivals" / "esm2_speed.py"
#: What fair-esm's extract.py takes unless told otherwise.
EXTRACT_TOKENS = 4096
EXTRACT_CHOICES = (256, 512, 1024, 2048)
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
WRITE = """
import sys
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
print(write_seeded_checkpoint(sys.argv[1], *map(int, sys.argv[2:])))
"""
MAX_LOAD_SHARE = 0.2
MAX_DEFAULT_ON_GPU = 1 / 1.5


@dataclass
class Way:
    """One way to do it, and its figures."""

    label: str
    arguments: list[str]
    seconds: list[float] = field(default_factory=list)
    tokens: float = 0.0
    padded_tokens: float = 0.0

    def run(self) -> None:
        """Run once more."""
        command = [sys.executable, str(SPEED), *self.arguments]
        ran = subprocess.run(
            command, env=environment(MALLOC), check=True, stdout=subprocess.PIPE, text=True
        )
        figures = json.loads(ran.stdout.splitlines()[-1])
        self.seconds.append(figures["seconds"])
        self.tokens = figures.get("tokens", 0.0)
        self.padded_tokens = figures.get("padded_tokens", 0.0)

    @property
    def median_s(self) -> float:
        """Return the median time."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Return tokens a second, padding not counted."""
        return self.tokens / self.median_s

    def __str__(self) -> str:
        padding = f"{100 * (1 - self.tokens / self.padded_tokens):.1f}%"
        return f"| {self.label} | {self.median_s:.2f} | {self.rate:,.0f} | {padding} |"


def write_checkpoint(shape: str) -> str:
    """Write a seeded checkpoint in a process that may import torch."""
    command = [sys.executable, "-c", WRITE, str(OUT), *map(str, SHAPES[shape])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def ways_to_compute(options: argparse.Namespace, sequences: Path) -> list[Way]:
    """Return the rivals; the last one is gpupool."""
    common = [write_checkpoint(options.shape), "--sequences", str(sequences)]
    common += ["--device", options.device]
    shape = ["--shape", *map(str, SHAPES[options.shape])]
    half = ["--precision", options.precision]
    fair = "fair-esm's extract loop (fp32)"
    ways = [
        Way(f"{fair}, {budget} tokens", ["extract", *common, "--budget", str(budget)])
        for budget in (EXTRACT_TOKENS, *EXTRACT_CHOICES)
    ]
    name = f"transformers, fused attention ({options.precision}), gpupool's batches"
    ways.append(Way(name, ["transformers", *common, *half, *shape]))
    ways.append(Way(f"**gpupool's esm2-embed** ({options.precision})", ["gpupool", *common, *half]))
    return ways


def judge(ways: list[Way], on_gpu: bool) -> list[report.Target]:
    """Return the verdicts on speed."""
    default, *others, ours = ways
    if on_gpu:
        share = default.rate / ours.rate
        return [report.Target("tokens/s of fair-esm's default / ours", share, MAX_DEFAULT_ON_GPU)]
    best = max([default, *others], key=lambda way: way.rate)
    label = f"tokens/s of the best rival ({best.label}) / ours"
    return [report.Target(label, best.rate / ours.rate, 1.0)]


def main() -> int:
    """Run the bench; return 0 if every target is reached."""
    options = parse_arguments()
    end_on_sigterm()
    limit_cores(options.cores)
    OUT.mkdir(exist_ok=True)
    sequences = OUT / "esm2-sequences.txt"
    distinct = {text for file in workload.generate(options.files) for _, text in file}
    sequences.write_text("\n".join(sorted(distinct)))
    print("\n".join(report.facts_lines(machine() | {"model": options.shape})), flush=True)
    ways = ways_to_compute(options, sequences)
    checkpoint = write_checkpoint(options.load_shape)
    loads = [
        Way(f"loading {options.load_shape}: fair-esm", ["load-fair-esm", checkpoint]),
        Way(f"loading {options.load_shape}: gpupool", ["load-gpupool", checkpoint]),
    ]
    for _ in range(options.repeats):
        for way in [*ways, *loads]:
            way.run()
            print(f"  {way.label}: {way.seconds[-1]:.2f} s", flush=True)
    print("\n| | median, s | tokens/s | padding |\n|---|---|---|---|")
    print("\n".join(map(str, ways)))
    print("\n" + "\n".join(f"- {way.label}: {way.median_s:.2f} s" for way in loads))
    share = loads[1].median_s / loads[0].median_s
    targets = [*judge(ways, options.device != "cpu")]
    targets.append(report.Target("loading / fair-esm's loading", share, MAX_LOAD_SHARE))
    print("\n" + "\n".join(map(str, targets)))
    return 0 if all(target.reached for target in targets) else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="8M", help="(default: 8M)")
    parser.add_argument("--load-shape", choices=SHAPES, default="650M", help="(default: 650M)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--precision", default="fp32", help="of ours and transformers'")
    parser.add_argument("--files", type=int, default=120, help="of the workload (default: 120)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores for everyone (default: 2)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
