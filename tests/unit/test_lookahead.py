"""Which jobs follow a job, and that finding out takes no longer with thousands of them (P6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from snakemake_executor_gpupool.frontends.snakemake.lookahead import Lookahead


class Files:
    """A graph: each job, and those whose outputs it reads.

    Parameters
    ----------
    finished, others
        Jobs that have finished, and that are not served.
    """

    def __init__(
        self, after: dict[str, list[str]], finished: Iterable[str] = (), others: Iterable[str] = ()
    ) -> None:
        self._after, self._finished, self._others = after, {*finished}, {*others}
        #: How often each question was asked.
        self.asked = Counter[str]()

    def readers(self, job: str) -> list[str]:
        return [reader for reader, after in self._after.items() if job in after]

    def writers(self, job: str) -> Iterator[str]:
        for writer in self._after.get(job, ()):
            self.asked["writers"] += 1
            yield writer

    def is_pending(self, job: str) -> bool:
        return job not in self._finished

    def is_servable(self, job: str) -> bool:
        self.asked["servable"] += 1
        return job not in self._others


def chain(files: Files, job: str = "a") -> list[str]:
    return Lookahead(files).chain(job)


def test_the_only_served_job_that_waits_for_nothing_else_follows() -> None:
    after = {"b": ["a"], "c": ["b", "x"], "d": ["c"]}
    assert chain(Files(after)) == ["b"]
    assert chain(Files(after, finished=["x"])) == ["b", "c", "d"]
    assert chain(Files(after, finished=["x", "d"])) == ["b", "c"]
    assert chain(Files({**after, "e": ["a"]}, finished=["x"])) == []
    assert chain(Files({**after, "e": ["a"]}, finished=["x"], others=["e"])) == ["b", "c", "d"]
    assert chain(Files({**after, "e": ["a", "y"]}, finished=["x"])) == [], "it is served, too"
    assert chain(Files({"b": ["a"], "a": ["b"]})) == ["b"], "a circle ends"


def test_what_gathers_many_outputs_costs_each_of_their_jobs_nothing() -> None:  # P6
    many = Files({"gather": [f"a{number}" for number in range(1000)]})
    assert chain(many, "a1") == []
    assert many.asked == {"writers": 1}
    nearly_all = [f"a{number}" for number in range(999)]
    assert chain(Files({"gather": [*nearly_all, "a"]}, finished=nearly_all)) == ["gather"]
