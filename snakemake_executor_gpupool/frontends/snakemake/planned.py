"""The jobs of a workflow as a plan sees them: plain values, nothing of Snakemake's in them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.wire.requests import Request


class Way(enum.Enum):
    """How a job is done; ``value`` is what people read."""

    SERVED = "served"
    #: By itself, with devices of its own meanwhile.
    LEASED = "plain GPU"
    #: By itself, beside others, as far as there are cores.
    PLAIN = "plain CPU"
    #: By Snakemake itself, without an executor.
    LOCAL = "local"
    #: There is nothing to do: it only has inputs.
    NOTHING = "no body"
    #: With others, in a Snakemake process of its own: a group that holds no devices.
    GROUPED = "group"


@dataclass(frozen=True)
class PlannedJob:
    """One job that Snakemake would run.

    Attributes
    ----------
    number
        In the plan; also the job number of its request.
    after
        The jobs that have to finish first.
    group
        The number of its group; None: it is in none.
    request, lease
        Of a served job, and of one with devices of its own.
    has_inputs
        All its inputs exist.
    is_known
        Its params and resources do not depend on files that do not exist.
    may_lead, may_follow
        Whether merging may start with it, and go on with it.
    own_process
        It runs in a Snakemake process of its own.
    refused
        Why it cannot be done; empty: it can.
    ran_s
        What it took when it last ran, by Snakemake's own records; None: they have nothing.
    """

    number: int
    rule: str
    title: str
    way: Way
    threads: int = 1
    priority: int = 0
    after: tuple[int, ...] = ()
    group: int | None = None
    request: Request | None = None
    lease: LeaseRequest | None = None
    has_inputs: bool = True
    is_known: bool = True
    may_lead: bool = False
    may_follow: bool = False
    own_process: bool = False
    refused: str = ""
    ran_s: float | None = None


@dataclass(frozen=True)
class Graph:
    """What Snakemake would do with its arguments.

    Attributes
    ----------
    config
        The pool that it would open.
    directory
        The workflow's working directory.
    max_jobs
        How many jobs may be handed out at a time; None: any number.
    jobs_a_second
        At most so many are handed out; None: any number.
    local_cores
        What jobs share that Snakemake runs itself.
    records_s
        By rule, what its jobs took by Snakemake's own records.
    checkpoints
        Rules that will change the graph, with how many of their jobs have still to run.
    remarks
        Notes for the user.
    built_s
        How long it took from this process's start until the graph was there.
    """

    jobs: Sequence[PlannedJob]
    config: PoolConfig
    directory: str
    max_jobs: int | None = None
    jobs_a_second: float | None = None
    local_cores: int = 1
    records_s: Mapping[str, Sequence[float]] = field(default_factory=dict)
    checkpoints: Mapping[str, int] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    built_s: float = 0.0
