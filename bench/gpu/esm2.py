"""ESM-2 itself on a card: tokens a second against fair-esm, transformers and the card's own rate.

Each way runs in a process of its own over the same distinct sequences, prints its figures as soon
as it has them, and those that matter most come first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import workload
from gpu.models import SHAPES, forward_flops, matrix_rate, write_checkpoint
from measure import BENCH, OUT

SPEED = BENCH / "rivals" / "esm2_speed.py"
#: Token budgets of fair-esm's loop: its default, and what fills a large card.
EXTRACT_TOKENS = (4096, 16384)
#: Ours is to be this much faster than the better rival, and to use this share of the card.
AGAINST_BEST, SHARE_OF_RATE = 1.5, 0.6


def timed(way: str, options: argparse.Namespace, *more: str) -> dict[str, float]:
    """Run one way in a process of its own; return its figures; none if a rival cannot do it."""
    command = [sys.executable, str(SPEED), way, options.checkpoint, *more]
    command += ["--device", options.device]
    ran = subprocess.run(command, check=way == "gpupool", stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {}


def main() -> int:
    """Run all; return 0 if the targets are reached, or cannot be judged here."""
    options = parse_arguments()
    OUT.mkdir(parents=True, exist_ok=True)
    sequences = OUT / f"gpu-sequences-{options.files}.txt"
    distinct = {text for file in workload.generate(options.files) for _, text in file}
    sequences.write_text("\n".join(sorted(distinct)))
    options.checkpoint = write_checkpoint(options.shape)
    common = ["--sequences", str(sequences), "--precision", options.precision]
    shape = ["--shape", *map(str, SHAPES[options.shape])]

    rates: dict[str, float] = {}

    def note(label: str, figures: dict[str, float]) -> None:
        if not figures:
            print(f"{label} has failed", flush=True)
            return
        rates[label] = figures["tokens"] / figures["seconds"]
        print(json.dumps({"tokens_per_s": {k: round(v) for k, v in rates.items()}}), flush=True)

    ours = timed("gpupool", options, *common)
    note("gpupool", ours)
    rate = matrix_rate(options.device, options.precision)
    flops = forward_flops(SHAPES[options.shape], ours["token_sum"], ours["square_sum"])
    share = flops / ours["seconds"] / rate
    print(json.dumps({"matrix_tflops": round(rate / 1e12, 1), "share_of_rate": round(share, 3)}))
    note("transformers, fused attention", timed("transformers", options, *common, *shape))
    budgets = EXTRACT_TOKENS[-1:] if options.brief else EXTRACT_TOKENS
    for budget in budgets:
        label = f"fair-esm's extract, {budget} tokens"
        of_rival = ["--budget", str(budget)]
        note(label, timed("extract", options, *common[:2], *of_rival))
        if options.precision != "fp32" and not options.brief:
            note(f"{label}, {options.precision}", timed("extract", options, *common, *of_rival))
    if not options.brief:
        ways = ("load-gpupool", "load-fair-esm")
        loads = {way: timed(way, options).get("seconds") for way in ways}
        print(json.dumps({"load_s": loads}))
    against = rates["gpupool"] / max(r for label, r in rates.items() if label != "gpupool")
    print(json.dumps({"against_best": round(against, 2)}))
    if options.device == "cpu":
        return 0
    is_share_judged = options.shape == "650M" and options.precision == "bf16"
    return int(against < AGAINST_BEST or (is_share_judged and share < SHARE_OF_RATE))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="650M")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--files", type=int, default=2000, help="of the workload (default: 2000)")
    parser.add_argument("--brief", action="store_true", help="fewer rivals, no loading")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
