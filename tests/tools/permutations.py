"""Computes random selections of items in random order by several models, as workers would.

``python permutations.py TOOL ROUNDS`` prints as JSON how many results there were, how many of them
differ in some bit from an earlier one of the same item, and the first error. The environment says
whether the run is reproducible.
"""

from __future__ import annotations

import json
import random
import string
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from snakemake_executor_gpupool.worker import numerics  # noqa: E402
from snakemake_executor_gpupool.worker.batch import run_batch  # noqa: E402
from snakemake_executor_gpupool.worker.cold import compute  # noqa: E402
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files  # noqa: E402
from tests.tools import attending  # noqa: E402

PARAMS = ({"model": 1, "scale": 1.0}, {"model": 1, "scale": 0.5})


def words(count: int, rng: random.Random) -> list[str]:
    """Texts of many lengths, most of them short."""
    lengths = [rng.choice([rng.randint(1, 40), rng.randint(1, 150)]) for _ in range(count)]
    return ["".join(rng.choices(string.ascii_lowercase, k=length)) for length in lengths]


def main(name: str, rounds: int) -> dict[str, Any]:
    """Compute, and compare."""
    rng = random.Random(20)
    kind, items = getattr(attending, name), words(60, rng)
    workers = [LoadedTool(kind, PARAMS[0]) for _ in range(3)]
    for worker in workers:
        worker.load("cpu")
    seen: dict[tuple[int, str], bytes] = {}
    counts = {"results": 0, "differing": 0}
    for number in range(rounds):
        which, worker = rng.randrange(2), rng.choice(workers)
        some = rng.sample(items, rng.randint(1, 12))
        if number % 50 == 49:  # a job by itself, cold
            cold = compute(for_files(kind, PARAMS[which]), PARAMS[which], some, "cpu")
            computed = [(result, None) for result in cold]
        else:
            tool = worker.show(PARAMS[which])
            computed = [(o.result, o.error) for o in run_batch(tool, some, worker.same_bits)]
        for item, (result, error) in zip(some, computed, strict=True):
            if error is not None:
                return {**counts, "error": error["message"]}
            bits = result.tobytes()
            counts["results"] += 1
            counts["differing"] += seen.setdefault((which, item), bits) != bits
    return {**counts, "error": None}


if __name__ == "__main__":
    assert not numerics.prepare()
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
