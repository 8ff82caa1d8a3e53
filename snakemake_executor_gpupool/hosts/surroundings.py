"""What a worker process starts from, where that is not what this process has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Surroundings:
    """Environment variables, working directory and umask of a process.

    Attributes
    ----------
    variables
        The whole environment, but for what says which devices there are.
    """

    variables: Mapping[str, str]
    cwd: str
    umask: int
