"""All probes, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterator

from snakemake_executor_gpupool.errors import (
    ConfigError,
    ContractError,
    InputError,
    UndeclaredParam,
)
from snakemake_executor_gpupool.frontends.commandline.check import (
    company,
    computing,
    reading,
    writing,
)
from snakemake_executor_gpupool.frontends.commandline.check.explain import said, what_is_missing
from snakemake_executor_gpupool.frontends.commandline.check.finding import (
    Finding,
    NotTested,
    Probe,
    Status,
)
from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial
from snakemake_executor_gpupool.frontends.commandline.check.varying import param_probes

#: What holds before results can be compared with one another.
COMPUTED = ("read", "items", "run")
ALIKE = (*COMPUTED, "repeat")
STEADY = (*ALIKE, "two-models")

#: Without these, the tool is not loaded by anybody.
CLASS = ("class", "state")

FIRST = (
    Probe("class", "Its attributes and methods are those of a tool", reading.well_formed),
    Probe("state", "No method uses what only another object has", reading.keeping_state),
    Probe("import", "Importing the tool is quick", reading.importing),
    Probe("read", "read() gives the same items and keys each time", reading.reading),
    Probe("items", "Items travel to a worker", reading.items_travel, ("read",)),
    Probe(
        "read-elsewhere",
        "read() gives the same items and keys in another process",
        reading.reading_elsewhere,
        ("read", "items"),
    ),
    Probe("run", "load() and run() compute each item", computing.computing, ("read", "items")),
    Probe("results", "Results travel from a worker", computing.results_travel, COMPUTED),
    Probe("repeat", "The same item gives the same result again", computing.repeating, COMPUTED),
    Probe("load-again", "Loading again gives the same model", computing.loading_again, ALIKE),
    Probe(
        "cold",
        "One process that reads and computes gives the same results",
        computing.running_cold,
        (*ALIKE, "load-again"),
    ),
    Probe(
        "run-elsewhere",
        "Another process gives the same results, in another order",
        computing.running_elsewhere,
        (*ALIKE, "load-again", "read-elsewhere", "results"),
    ),
    Probe(
        "two-models",
        "Another model in the same process changes nothing",
        computing.models_side_by_side,
        (*ALIKE, "load-again", "run-elsewhere"),
    ),
    Probe("count", "A batch gives one result per item", company.counted, COMPUTED),
    Probe("order", "Results come in the order of the items", company.in_order, (*STEADY, "count")),
    Probe(
        "company",
        "Other items of its job in a batch do not change a result",
        company.with_others,
        (*STEADY, "count", "order"),
    ),
    Probe(
        "other-jobs",
        "Items of other jobs in a batch do not change a result",
        company.with_other_jobs,
        (*STEADY, "count", "order", "company"),
    ),
    Probe(
        "padding",
        "Longer and shorter items in a batch do not change a result",
        company.padded,
        (*STEADY, "count", "order", "company", "other-jobs"),
    ),
    Probe(
        "twice",
        "The same item twice in a batch gives its result twice",
        company.twins,
        (*STEADY, "count", "order", "company", "other-jobs", "padding"),
    ),
    Probe("keys", "Items with one key have one result", computing.keys, STEADY),
    Probe("items-kept", "run() leaves its items as they are", computing.items_kept, STEADY),
    Probe(
        "results-kept",
        "Later calls leave results as they are",
        computing.results_kept,
        (*STEADY, "results"),
    ),
)
LAST = (
    Probe(
        "write",
        "write() writes its outputs, all of them, and nothing else",
        writing.writing,
        (*COMPUTED, "results", "two-models"),
    ),
    Probe(
        "write-elsewhere",
        "write() needs nothing that other methods left in its process",
        writing.writing_elsewhere,
        (*COMPUTED, "results", "two-models", "read-elsewhere", "write"),
    ),
    # Last: a model that was moved badly is of no more use.
    Probe("move", "to() takes the model along, all of it", computing.moving, STEADY),
)


def ask_all(trial: Trial) -> Iterator[Finding]:
    """Yield the finding of each probe.

    Raises
    ------
    ConfigError
        The command line lacks what the tool asks its job for.
    """
    useless: set[str] = set()
    for probe in FIRST:
        yield from _asked(trial, probe, useless)
    probes = [*LAST]
    if not {"read", "items", "run"} & useless:
        needs = (*STEADY, "load-again", "run-elsewhere")
        probes = [*param_probes(trial, needs), *LAST]
    for probe in probes:
        yield from _asked(trial, probe, useless)


def _asked(trial: Trial, probe: Probe, useless: set[str]) -> Iterator[Finding]:
    """Ask one probe, unless one that it needs was not answered well."""
    blocking = [name for name in (*CLASS, *probe.needs) if name in useless]
    if blocking:
        finding = Finding(
            probe.name, probe.question, Status.NOT_TESTED, (), f"{blocking[0]!r} must be ok first"
        )
    else:
        finding = _ask(trial, probe)
    if finding.status is Status.WRONG or blocking:
        useless.add(probe.name)
    yield finding


def _ask(trial: Trial, probe: Probe) -> Finding:
    problems: list[str] = []
    reason, seen = "", None
    try:
        seen = _collect(probe.ask(trial), problems)
    except NotTested as untested:
        reason = str(untested)
    except (ContractError, UndeclaredParam) as error:
        problems.append(str(error))
    except InputError as error:
        problems.append(f"the tool refuses this input: {error}")
    except (Exception, SystemExit) as error:
        missing = None if trial.from_rule else what_is_missing(error)
        if missing:
            raise ConfigError(missing) from error
        problems.append(said(error, trial.tool_class))
    status = Status.WRONG if problems else Status.NOT_TESTED if reason else Status.OK
    return Finding(probe.name, seen or probe.question, status, problems, "" if problems else reason)


def _collect(asked: Iterator[str], problems: list[str]) -> str | None:
    """Add what a probe finds, and return what it says it has seen."""
    while True:
        try:
            problems.append(next(asked))
        except StopIteration as end:
            return end.value if isinstance(end.value, str) else None
