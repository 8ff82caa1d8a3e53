"""Probes of batches: a result depends on its item alone, whatever else is computed with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.compare import shown
from snakemake_executor_gpupool.frontends.commandline.check.computing import (
    needs_items,
    only_deterministic,
)
from snakemake_executor_gpupool.frontends.commandline.check.explain import said
from snakemake_executor_gpupool.frontends.commandline.check.finding import NotTested
from snakemake_executor_gpupool.frontends.commandline.check.trial import Item, Trial, WrongCount
from snakemake_executor_gpupool.worker.describe import batch_budget

ONE_ITEM = "one item; give another --input, or one with more items"
#: Why a result may follow its company.
ADVICE = (
    "a result must not depend on the rest of its batch (is padding masked and cut off, is the "
    "model in eval mode, is anything divided by a sum or maximum over the batch?)"
)


def counted(trial: Trial) -> Iterator[str]:
    """Count the results of batches of several items."""
    whole = [b for job in range(len(trial.jobs)) for b in _whole(trial, trial.items_of(job))]
    for batch in [*_together(trial), *_pairs(trial), *whole]:
        try:
            trial.call(trial.tool(batch[0].job), batch)
        except WrongCount as error:
            yield str(error)
            return
        except Exception:  # noqa: S112 - that a batch fails is said by the probe of others
            continue


def in_order(trial: Trial) -> Iterator[str]:
    """Look whether items get one another's results."""
    batches = _together(trial)
    only_deterministic(trial)
    for batch, results, failure in _outcomes(trial, [*batches, *(b[::-1] for b in batches)]):
        for item, result in [] if failure else zip(batch, results, strict=True):
            owner = _owner(trial, item, result, batch)
            if owner:
                yield (
                    f"run() changes the order: in a batch of {len(batch)}, {item} got the result "
                    f"of {owner}; results must come in the order of the items"
                )
                return


def with_others(trial: Trial) -> Iterator[str]:
    """Compute items of one job together, and in reverse order."""
    batches = _within_jobs(trial)
    only_deterministic(trial)
    backwards = [batch[::-1] for batch in batches]
    jobs = range(len(trial.jobs))
    whole = [b for n in jobs for b in _whole(trial, _distinct(trial.items_of(n)))]
    orders = {
        "together with others of its job": batches,
        "with them in reverse order": backwards,
        "in a batch of all items of its job": whole,
        "with all of them in reverse order": [batch[::-1] for batch in whole],
    }
    seen = dict(trial.base)
    for company, ordered in orders.items():
        problems = list(_first_wrong(trial, ordered, company, seen))
        yield from problems
        if problems:
            return


def with_other_jobs(trial: Trial) -> Iterator[str]:
    """Compute items of several jobs together."""
    needs_items(trial)
    only_deterministic(trial)
    if len(trial.jobs) == 1:
        raise NotTested("one job; give another --input")
    groups = [group for group in _groups(trial) if len({item.job for item in group}) > 1]
    if not groups:
        raise NotTested(_why_apart(trial))
    mixed = [_alternating(group) for group in groups]
    batches = [
        batch
        for order in (mixed, [items[::-1] for items in mixed])
        for items in order
        for batch in trial.batches(trial.tool(items[0].job), items)
    ]
    batches += [batch for group in groups for batch in _whole(trial, _alike(trial, group[0]))]
    batches = [batch for batch in batches if len({item.job for item in batch}) > 1]
    if not batches:
        raise NotTested(_budget(trial))
    yield from _first_wrong(trial, batches, "together with items of other jobs")


def padded(trial: Trial) -> Iterator[str]:
    """Compute each item together with the longest and with the shortest one."""
    needs_items(trial)
    only_deterministic(trial)
    batches = []
    for group in _groups(trial):
        sizes = {item: _size(item) for item in group}
        ordered = sorted(group, key=lambda item: sizes[item])
        for item in group:
            for other in (ordered[0], ordered[-1]):
                if sizes[other] != sizes[item]:
                    batches += [[item, other], [other, item]]
    if not batches:
        raise NotTested("no two items of different length; give an --input that has some")
    tool = trial.tool(batches[0][0].job)
    fitting = [batch for batch in batches if len(list(trial.batches(tool, batch))) == 1]
    if not fitting:
        raise NotTested(_budget(trial))
    yield from _first_wrong(trial, fitting, "beside an item of another length")


def twins(trial: Trial) -> Iterator[str]:
    """Compute an item twice in one batch, as a cold job with duplicates does."""
    needs_items(trial)
    only_deterministic(trial)
    pairs = _pairs(trial)
    if not pairs:
        raise NotTested(_budget(trial))
    yield from _first_wrong(trial, pairs, "twice in one batch")


# -- batches -------------------------------------------------------------------------
def _groups(trial: Trial) -> list[list[Item]]:
    """Return the items of the sample that may share batches, in groups."""
    groups: dict[Any, list[Item]] = {}
    for item in trial.sample:
        groups.setdefault(trial.batchmates(item.job), []).append(item)
    return list(groups.values())


def _together(trial: Trial) -> list[list[Item]]:
    """Return batches of several items, of whatever jobs may share one."""
    needs_items(trial)
    groups = _groups(trial)
    batches = [b for group in groups for b in trial.batches(trial.tool(group[0].job), group)]
    several = [batch for batch in batches if len(batch) > 1]
    if not several:
        raise NotTested(ONE_ITEM if max(map(len, groups)) == 1 else _budget(trial))
    return several


def _pairs(trial: Trial) -> list[list[Item]]:
    """Return each item twice, where a batch takes that."""
    return [
        [item, item]
        for item in trial.sample
        if len(list(trial.batches(trial.tool(item.job), [item, item]))) == 1
    ]


def _whole(trial: Trial, items: list[Item]) -> list[list[Item]]:
    """Return the batches that the pool would make of items, if their model is tried."""
    if not items or trial.model(items[0].job) not in trial.models:
        return []
    return [batch for batch in trial.pool_batches(items) if len(batch) > 1]


def _distinct(items: Sequence[Item]) -> list[Item]:
    """Return one item of each key, as the pool computes them."""
    return list({item.meta.key: item for item in reversed(items)}.values())[::-1]


def _alike(trial: Trial, one: Item) -> list[Item]:
    """Return all distinct items, of whatever jobs, that may share a batch with one."""
    alike = trial.batchmates(one.job)
    return _distinct([item for item in trial.items if trial.batchmates(item.job) == alike])


def _within_jobs(trial: Trial) -> list[list[Item]]:
    """Return batches of several items of one job each."""
    needs_items(trial)
    batches = []
    for job in range(len(trial.jobs)):
        items = [item for item in trial.sample if item.job == job]
        if items:
            batches += [b for b in trial.batches(trial.tool(job), items) if len(b) > 1]
    if not batches:
        several = any(len(trial.items_of(job)) > 1 for job in range(len(trial.jobs)))
        each = "one item" if len(trial.jobs) == 1 else "each job has one item"
        raise NotTested(
            _budget(trial) if several else f"{each}; give another --input, or one with more items"
        )
    return batches


def _alternating(items: Sequence[Item]) -> list[Item]:
    """Return items so that neighbours are of different jobs, where that can be."""
    by_job: dict[int, list[Item]] = {}
    for item in items:
        by_job.setdefault(item.job, []).append(item)
    longest = max(map(len, by_job.values()))
    return [own[n] for n in range(longest) for own in by_job.values() if n < len(own)]


def _size(item: Item) -> int:
    """Return an item's length: its tokens and what it holds, in bytes."""
    return int(item.meta.tokens) * 10**9 + len(item.data)


def _why_apart(trial: Trial) -> str:
    jobs = sorted({item.job for item in trial.sample})
    if len(jobs) < 2:
        return "the jobs have the same items; give an --input with others"
    if len(set(map(trial.model, jobs))) > 1:
        params = ", ".join(trial.tool_class.reload_on)
        return f"no two of the jobs use the same model ({params}), so they never share a batch"
    tools = [trial.reader(job).run_params() for job in jobs]
    names = sorted({n for p in tools for n in p if any(p[n] != q.get(n) for q in tools)})
    return f"no two of the jobs have the same {', '.join(names)}, so they never share a batch"


def _budget(trial: Trial) -> str:
    budget = batch_budget(trial.tool(trial.sample[0].job), trial.device)
    return (
        f"no two of the items fit into one batch of {budget} tokens; give an --input with smaller "
        "ones"
    )


# -- what became of them -------------------------------------------------------------
def _outcomes(
    trial: Trial, batches: Sequence[list[Item]]
) -> Iterator[tuple[list[Item], list[Any], str]]:
    """Yield each batch with its results, or with the error that it ended in."""
    for batch in batches:
        try:
            results = trial.call(trial.tool(batch[0].job), batch)
        except Exception as error:
            yield batch, [], said(error, trial.tool_class)
        else:
            yield batch, results, ""


def _first_wrong(
    trial: Trial,
    batches: Sequence[list[Item]],
    company: str,
    seen: dict[Item, Any] | None = None,
) -> Iterator[str]:
    """Yield the first result that is not the one that the item has alone.

    Parameters
    ----------
    seen
        What each item has given before; items that were never computed alone are added.
    """
    seen = dict(trial.base) if seen is None else seen
    for batch, results, failure in _outcomes(trial, batches):
        if failure:
            yield f"run() computes items alone, but fails for {batch[0]} {company}: {failure}"
            return
        for item, result in zip(batch, results, strict=True):
            before = seen.setdefault(item, result)
            if not trial.same(before, result):
                alone = "alone" if item in trial.base else "in a batch"
                yield f"{item} gave {shown(before)} {alone} and {shown(result)} {company}; {ADVICE}"
                return


def _owner(trial: Trial, item: Item, result: Any, batch: Sequence[Item]) -> Item | None:
    """Return whose result an item has got; None: its own, or nobody's."""
    if trial.same(trial.base[item], result):
        return None
    return next((other for other in batch if trial.same(trial.base[other], result)), None)
