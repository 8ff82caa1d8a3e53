"""What the pool would make of a job's items."""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial


def plan_of(trial: Trial) -> dict[str, Any]:
    """Return how many items there are, how many are computed, and in which batches.

    Returns
    -------
    dict
        ``items``, ``items_unique``; ``batches`` of at most ``batch_tokens`` tokens each;
        ``tokens`` of the items that are computed, and ``padding``, the share of what is computed
        that only pads.
    """
    tool = trial.tool
    unique: dict[Any, int] = {}
    for place, meta in enumerate(trial.metas):
        unique.setdefault(meta["key"] if tool.deterministic else place, place)
    places = list(unique.values())
    budget = int(tool.batch_tokens(trial.device))
    batches = list(tool.micro_batches([trial.items[place] for place in places], budget))
    sizes = [[trial.metas[places[n]]["tokens"] for n in batch] for batch in batches]
    tokens = sum(map(sum, sizes))
    padded = sum(max(batch) * len(batch) for batch in sizes) if tool.pads else tokens
    return {
        "items": len(trial.items),
        "items_unique": len(places),
        "batches": len(batches),
        "batch_tokens": budget,
        "tokens": tokens,
        "padding": round(1 - tokens / padded, 3) if padded else 0.0,
    }


def in_words(plan: dict[str, Any]) -> str:
    """Return a plan as sentences."""
    saved = plan["items"] - plan["items_unique"]
    return (
        f"{plan['items']} items, {plan['items_unique']} computed ({saved} duplicates), in "
        f"{plan['batches']} batches of at most {plan['batch_tokens']} tokens; "
        f"{plan['padding']:.0%} of it padding"
    )
