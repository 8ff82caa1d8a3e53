"""Processes of a workflow's last run, as values that a file keeps. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: After so many guesses in a row that were of no use, nothing is started any more.
MAX_IN_VAIN = 2


@dataclass(frozen=True)
class KnownProcess:
    """What a process of the last run was started as, and what it imported first.

    Attributes
    ----------
    spec, python, activation
        As in :class:`~snakemake_executor_gpupool.wire.requests.ToolRef`.
    variables
        Those that gpupool set for it.
    place
        Its working directory, from the one that Snakemake was started for.
    imports
        Installed packages that the tool imports first.
    code
        A digest of the tool's code.
    has_model
        Whether it held a model; others read and write.
    count
        How many there were at a time.
    forks
        Whether one process may import for several of them, and fork them.
    """

    spec: str
    python: str
    activation: str
    variables: Mapping[str, str]
    place: str
    imports: tuple[str, ...] = ()
    code: str = ""
    has_model: bool = False
    count: int = 1
    forks: bool = False

    @classmethod
    def from_json(cls, entry: Any) -> KnownProcess:
        """Read an entry; raises ValueError if it is none."""
        kinds: dict[str, type] = dict.fromkeys(
            ("spec", "python", "activation", "place", "code"), str
        )
        kinds |= {"variables": dict, "imports": list, "has_model": bool, "count": int}
        kinds["forks"] = bool
        if not isinstance(entry, dict) or {name: type(entry[name]) for name in entry} != kinds:
            raise ValueError("not a process")
        texts = [entry[name] for name, kind in kinds.items() if kind is str]
        texts += [*entry["variables"], *entry["variables"].values()]
        names = entry["imports"]
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise ValueError("not a text")
        if not all(isinstance(n, str) and all(map(str.isidentifier, n.split("."))) for n in names):
            raise ValueError("not a module")
        return cls(**{**entry, "imports": tuple(names)})


@dataclass(frozen=True)
class LastRun:
    """What is known of a workflow's last run.

    Attributes
    ----------
    processes
        In the order in which they were first started.
    in_vain
        How many runs since have started these processes early, and no worker.
    unfit
        How many runs in a row have started them early, and other processes than these.
    """

    processes: tuple[KnownProcess, ...] = ()
    in_vain: int = 0
    unfit: int = 0

    @property
    def is_worth_it(self) -> bool:
        """Whether to start them early once more."""
        return max(self.in_vain, self.unfit) < MAX_IN_VAIN
