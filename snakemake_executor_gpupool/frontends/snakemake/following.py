"""Requests of the jobs that follow a served job, built before these jobs are ready."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.containers import is_read
from snakemake_executor_gpupool.frontends.snakemake.early_values import (
    EarlyValues,
    Guess,
    KnownRequests,
    SameValues,
    untouched,
)
from snakemake_executor_gpupool.frontends.snakemake.guesses import guess_like, ready_request
from snakemake_executor_gpupool.frontends.snakemake.lookahead import Lookahead
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    build_request,
    evaluate_here,
    flagged,
    is_served,
    may_be_served,
    plain_job,
    stands_alone,
)
from snakemake_executor_gpupool.records.reference import RESOURCES
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from snakemake_executor_gpupool.worker.staging import is_inside

#: Within it a job that is not ready may be evaluated.
Early = Callable[[Any], AbstractContextManager[None]]


class DagView:
    """Snakemake's graph of jobs, as :class:`~.lookahead.Lookahead` looks at it.

    Parameters
    ----------
    cached
        Returns whether a job's outputs are kept in Snakemake's between-workflow cache.
    early
        Within it a job that is not ready is evaluated.
    is_known
        Returns whether it is known that a job would be served.
    names_tool
        Returns whether a job names a tool; None: it has to be evaluated for that.
    """

    def __init__(
        self,
        dag: Any,
        cached: Callable[[Any], bool],
        early: Early = untouched,
        is_known: Callable[[Any], bool] = lambda job: False,
        names_tool: Callable[[Any], bool | None] = lambda job: None,
    ) -> None:
        self._dag = dag
        self._cached = cached
        self._early = early
        self._is_known = is_known
        self._names_tool = names_tool

    def readers(self, job: Any) -> Iterable[Any]:
        """Return the jobs that read what a job writes."""
        # A look-up by key would add the job: the graph's tables are defaultdicts.
        return list(self._dag.depending[job]) if job in self._dag.depending else []

    def is_end(self, job: Any) -> bool:
        """Return whether nothing that reads what a job writes could ever be served after it."""
        readers = filter(self.is_pending, self.readers(job))
        return not any(may_be_served(reader.rule) for reader in readers)

    def writers(self, job: Any) -> Iterable[Any]:
        """Return the jobs that write what a job reads."""
        found: Iterable[Any] = self._dag.dependencies.get(job, ())
        return found

    def is_pending(self, job: Any) -> bool:
        """Return whether a job has still to run, or is running."""
        return bool(self._dag.needrun(job) and not self._dag.finished(job))

    def is_servable(self, job: Any) -> bool:
        """Return whether a pending job would be served, and reads and writes plain local files."""
        # No executor is asked to run a local rule's job. What is asked first takes no time: a rule
        # that gathers thousands of outputs is asked for each of them.
        if job.is_local or not may_be_served(job.rule):
            return False
        if self._is_known(job):
            return True
        with contextlib.suppress(Exception):
            is_usual = self._is_served(job) and is_plain(job) and is_movable(job)
            return is_usual and not self._cached(job)
        return False

    def _is_served(self, job: Any) -> bool:
        names_tool = self._names_tool(job)
        if names_tool is None:
            with self._early(job):
                return is_served(job)
        return names_tool and stands_alone(job)


class Following:
    """Builds the requests of the jobs that follow.

    Parameters
    ----------
    workflow
        Snakemake's workflow.
    tool_of
        Returns a job's tool.
    cached
        Returns whether a job's outputs are kept in Snakemake's between-workflow cache.
    """

    def __init__(
        self, workflow: Any, tool_of: Callable[[Any], ToolRef], cached: Callable[[Any], bool]
    ) -> None:
        self._workflow = workflow
        self._tool_of = tool_of
        self._cached = cached
        self._near: dict[str, bool] = {}
        self._known = KnownRequests()
        self._same = SameValues()

    def request(self, job: Any, job_id: int, here: str, **more: Any) -> Request | None:
        """Return the request of a job that is ready as it was guessed; None: nothing was.

        It has those of the jobs that follow, as :meth:`requests` does.
        """
        guess = self._known.take(job)
        if guess is None or guess.request.cwd != here:
            return None
        if guess.request.tool != self._tool_of(job):
            return None
        request = ready_request(job, job_id, guess.request, guess.job, **more)
        if request is None:
            return None
        follow = self._still(job, guess, here)
        return request.changed(follow=self.requests(job, here) if follow is None else follow)

    def requests(self, job: Any, here: str = "") -> tuple[Request, ...]:
        """Return the requests of the chain of jobs that follows a job, as far as it is known.

        ``here``: the working directory, if that is known.

        The chain ends at a job whose params are functions of files that do not exist yet.
        """
        if not is_plain(job) or job.attempt > 1 or not all(map(self.is_near, job.output)):
            return ()
        early = EarlyValues(self._same).of
        view = self._view(early)
        chain: list[Any] = []
        guesses: list[Guess] = []
        is_all = False
        with contextlib.suppress(Exception):
            chain = Lookahead(view).chain(job)
            for later in chain:
                if not all(map(self.is_near, later.output)):
                    break
                guess = self._known_guess(later, here) or self._guess(later, here, early)
                if guess is None:
                    break
                guesses.append(guess)
            is_all = len(guesses) == len(chain) and view.is_end([job, *chain][-1])
        for number, (later, guess) in enumerate(zip(chain, guesses, strict=False), 1):
            after = tuple(chain[number:]) if is_all else None
            self._known.keep(later, guess._replace(later=after))
        return tuple(guess.request for guess in guesses)

    def _view(self, early: Early = untouched) -> DagView:
        graph = self._workflow.dag, self._cached
        return DagView(*graph, early, self._known.has, self._same.names_tool)

    def _still(self, job: Any, guess: Guess, here: str) -> tuple[Request, ...] | None:
        """Return what was found to follow a job before it was ready, if it still does."""
        if guess.later is None:
            return None
        view, requests = self._view(), []
        for later in guess.later:
            known = self._known_guess(later, here)
            if known is None or later not in view.readers(job) or not view.is_pending(later):
                return None
            requests.append(known.request)
            job = later
        return tuple(requests)

    def _known_guess(self, job: Any, here: str) -> Guess | None:
        """Return what a job was found to ask for before, if it still does."""
        guess = self._known.of(job)
        return guess if guess is not None and guess.request.cwd == here else None

    def model_of(self, job: Any) -> Request | None:
        """Return what a job that is not ready will ask of its model; None: that is not known yet.

        It is for nothing but the model, and a guess: what the job asks for once it is ready counts.
        """
        with contextlib.suppress(Exception):  # of a mistake in the rule, the job will tell
            if is_plain(job) and not self._cached(job):
                guess = self._guess(job)
                if guess is not None:
                    return dataclasses.replace(guess.request, identity=(), loads_only=True)
        return None

    def _guess(self, job: Any, here: str = "", early: Early = untouched) -> Guess | None:
        """Return what a job that is not ready will ask for; None: it is not known yet."""
        another = self._same.guess_of(job)
        if another is not None and is_read(self._workflow, job):
            asked = another.request
            with untouched(job):
                is_same = asked.cwd == here and asked.tool == self._tool_of(job)
            if is_same:
                return Guess(*guess_like(job, asked, another.job))
        with early(job):
            if not self._known.is_settled(job.rule):
                evaluate_here(job)
                if not is_known(job):
                    return None
            if not is_read(self._workflow, job):
                return None
            tool, seen = self._tool_of(job), plain_job(job, has_resources=False)
            request = build_request(self._workflow, job, 0, tool, here=here, guessed=seen)
            guess = Guess(request, seen)
        self._same.keep(job, guess)
        return guess

    def is_near(self, path: str) -> bool:
        """Return whether an output can be renamed into place from the run's own directory."""
        directory = os.path.dirname(path)  # noqa: PTH120 - asked for each output of each job
        if directory not in self._near:
            parent = Path(directory)
            there = next(each for each in (parent, *parent.absolute().parents) if each.exists())
            here = Path(self._workflow.persistence.path)
            self._near[directory] = there.stat().st_dev == here.stat().st_dev
        return self._near[directory]


def is_plain(job: Any) -> bool:
    """Return whether a job reads and writes plain files by their paths in the working directory."""
    special = job.is_checkpoint or job.is_shadow or job.is_norun
    return not special and not any(file.is_storage for file in (*job.input, *job.output))


def is_movable(job: Any) -> bool:
    """Return whether a job's outputs may be written before it is ready.

    They must be new files below the working directory.
    """
    return not flagged(job, "update") and all(map(is_inside, (*job.output, *job.log)))


def is_known(job: Any) -> bool:
    """Return whether a job's params and resources are known already.

    Snakemake puts a placeholder where a function of input files finds them missing.
    """
    from snakemake.common.tbdstring import TBDString

    values = (job.threads, *job.params, *(job.resources.get(name) for name in RESOURCES))
    return not any(isinstance(value, TBDString) for value in values)
