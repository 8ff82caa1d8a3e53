"""What the pool would make of the jobs' items."""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.trial import Item, Trial
from snakemake_executor_gpupool.tool_api.micro_batches import size_of
from snakemake_executor_gpupool.worker.describe import batch_budget


def plan_of(trial: Trial) -> dict[str, Any]:
    """Return how many items there are, how many are computed, and in which batches.

    Returns
    -------
    dict
        ``items``, ``items_unique``; ``batches`` of at most ``batch_tokens`` tokens each;
        ``tokens`` of the items that are computed, and ``padding``, the share of what is computed
        that only pads.
    """
    tool = trial.reader(0)
    groups: dict[Any, dict[Any, Item]] = {}
    for item in trial.items:
        unique = groups.setdefault(trial.batchmates(item.job), {})
        unique.setdefault(item.meta.key if tool.deterministic else item, item)
    budget = batch_budget(tool, trial.device)
    batches = []
    for unique in groups.values():
        items = list(unique.values())
        for places in tool.micro_batches([item.value for item in items], budget):
            batches.append([items[place].meta.tokens for place in places])
    tokens = sum(map(sum, batches))
    padded = sum(size_of(batch, tool.pads) for batch in batches)
    return {
        "items": len(trial.items),
        "items_unique": sum(map(len, groups.values())),
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
