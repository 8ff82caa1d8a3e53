"""Requests that are made of guesses: of another job of the rule, and of the job itself."""

from __future__ import annotations

import pickle
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.recipe import recipe_of
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    facts_of,
    identity,
    input_bytes,
    plain_job,
    title,
)
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.requests import PICKLE_PROTOCOL, Request
from snakemake_executor_gpupool.worker.cold import named_from_namedlist


def guess_like(job: Any, request: Request, seen: Job) -> tuple[Request, Job]:
    """Return what is guessed of a job that differs from another one in wildcards and files alone.

    Parameters
    ----------
    request, seen
        What was guessed of the other one: what it asks for, and what its tool may see of it.
    """
    its = seen.replace(
        wildcards={name: str(value) for name, value in job.wildcards_dict.items()},
        input=named_from_namedlist(job.input),
        output=named_from_namedlist(job.output),
        log=named_from_namedlist(job.log),
    )
    bare = pickle.dumps(its, PICKLE_PROTOCOL)
    named = {"title": title(job), "identity": identity(job)}
    now = {"priority": job.priority, "attempt": job.attempt}
    return request.changed(job=bare, bare=bare, **named, **now), its


def ready_request(
    job: Any, job_id: int, guess: Request, guessed: Job, **more: Any
) -> Request | None:
    """Return the request of a job that is ready as far as it was guessed; None: it is another one.

    Nothing that the guess says of devices, limits and flags depends on files, or it was not kept.

    Parameters
    ----------
    guessed
        What its tool might have seen of the job then.
    """
    plain = plain_job(job)
    if job.shadow_dir or not _are_alike(plain, guessed):
        return None
    recipe = recipe_of(plain, guess.tool, job, touched=guess.touched, updates=guess.updates)
    return guess.changed(
        job_id=job_id,
        job=pickle.dumps(plain, PICKLE_PROTOCOL),
        input_bytes=input_bytes(plain.input),
        facts=facts_of(job, plain.params, recipe),
        **more,
    )


def _are_alike(one: Job, other: Job) -> bool:
    """Return whether two jobs are the same but for their resources."""
    files = all(
        mine == its and mine._names == its._names
        for mine, its in zip(
            (one.input, one.output, one.log), (other.input, other.output, other.log), strict=True
        )
    )
    return files and (one.params, one.wildcards, one.threads, one.rule) == (
        *(other.params, other.wildcards),
        *(other.threads, other.rule),
    )
