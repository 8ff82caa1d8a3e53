"""Requests on their way through a chain's models, in the worker that holds these.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from snakemake_executor_gpupool.tool_api.short_requests import TRIED
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.job_log import log_line
from snakemake_executor_gpupool.wire.payload import is_float_array, load_bytes, load_payload, pack
from snakemake_executor_gpupool.worker.guessed import GuessedJob, NotKnownYet
from snakemake_executor_gpupool.worker.named_files import params_digest
from snakemake_executor_gpupool.worker.staging import NotStageable, View, digest, examined, inside

#: Bound of the results that a worker keeps in memory, in bytes.
REMEMBERED_BYTES = 64 * 1024**2


class Chain:
    """One request on its way through the models.

    Attributes
    ----------
    stage
        The current stage, from the first one that it goes through.
    keys, items
        Of the distinct items of the current stage.
    order
        For each of the job's items, the index of its distinct item.
    digests
        Of the inputs of the current stage, and of the files that its params name; and the group.
    view
        Holds the files of jobs that are not ready; None: all are ready.
    hashes
        Of the outputs of the first stage, if they are wanted.
    written
        The outputs of jobs that are not ready, as far as they were written.
    """

    def __init__(self, meta: dict[str, Any], jobs: list[Job], items: list[Any]) -> None:
        self.meta = meta
        self.jobs = jobs
        self.keys: list[str] = meta["keys"]
        self.items = items
        self.order: list[int] = meta["order"]
        self.names: list[str] = meta["names"]
        self.results: list[Any] = []
        self.parts: list[list[Any]] = []
        self.digests: list[str] = []
        self.hashes: list[str] = []
        self.stage = 0
        self.view: View | None = None
        self.written: set[str] = set()
        self._known: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._way_for = 0
        self.is_whole = True

    @property
    def job(self) -> Job:
        """The job of the current stage."""
        return self.jobs[self.stage]

    def log_text(self) -> str:
        """Return the first line of the log of the stage's job."""
        return log_line(len(self.order), len(self.keys), self.meta["by"])

    def later_files(self) -> list[str]:
        """Return what the jobs that are not ready write."""
        return [path for job in self.jobs[1:] for path in (*job.output, *job.log)]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Job]:
        """Yield the stage's job, in the directory where its files are.

        Raises
        ------
        NotKnownYet
            The tool has used a value of the job that is not known yet.
        """
        if self.stage == 0:
            with inside(self.meta["cwd"]):
                yield self.job
            return
        assert self.view is not None
        guess = GuessedJob(self.job)
        if self._way_for != self.stage:  # else it was made when the stage was read
            self.view.make_way([*self.job.output, *self.job.log])
            self._way_for = self.stage
        self._show_inputs()
        with inside(self.view.path):
            yield guess
        if guess.asked:
            raise NotKnownYet(f"{', '.join(guess.asked)} of {self.job}")

    def _show_inputs(self) -> None:
        """Make the inputs visible in the view; outputs of the chain are there unless published."""
        assert self.view is not None
        for path in self.job.input:
            if path in self.written and self.view.has(path):
                continue
            self.view.show(path)
            if path in self.written:
                # It was published, or was left by an earlier run and replaced.
                with inside(self.view.path):
                    if digest(path) != self._known.get(path):
                        raise NotStageable(path)

    def take_digests(self, group: str) -> None:
        """Record the digests of what the stage reads, in the view, and the group of its items."""
        inputs = [self._digest(path) for path in self.job.input]
        self._known.update(zip(self.job.input, inputs))
        self.digests = [*inputs, params_digest(self.job.params, self.job.output), group]

    def _digest(self, path: str) -> str:
        assert self.view is not None
        known = self._known.get(path) if path in self.written else None
        # In the view nobody else writes.
        if known and self.view.has(path):
            return known
        # Were it another one by now, it would be found out when the job is there.
        return self._first.get(path) or digest(path)

    def note_first(self, hashes: list[str]) -> None:
        """Note what the outputs of the first stage contain, as far as that is known."""
        self.hashes = hashes
        pairs = zip(self.job.output, hashes)
        self._first = {path: each for path, each in pairs if not each.startswith("dir:")}

    def note_written(self, places: dict[str, str], root_name: bytes) -> None:
        """Note what the outputs of a job that is not ready contain.

        Parameters
        ----------
        places
            Where each of them lies.
        root_name
            Of the directory that all are staged in.

        Raises
        ------
        NotStageable
            One of them contains the path where it was written.
        """
        for path, place in places.items():
            if os.path.lexists(place):  # else Snakemake creates it
                self._known[path], is_misplaced = examined(place, [root_name])
                if is_misplaced:
                    raise NotStageable(f"{path} contains the path where it was written")
        self.written.update(places)


def tried_first(batches: Iterable[list[int]]) -> Iterator[list[int]]:
    """Yield micro-batches, the first in parts: an item, others up to ``TRIED``, the rest."""
    for number, batch in enumerate(batches):
        parts = [batch[:1], batch[1:TRIED], batch[TRIED:]] if number == 0 else [batch]
        yield from filter(None, parts)


class Packed:
    """A result: its packed parts, and the object itself if it was computed just now."""

    def __init__(self, parts: list[Any], value: Any = None) -> None:
        self.parts = parts
        self._value = value

    def copy(self) -> Any:
        """Return a copy of the result, as if unpacked from a frame: ``write`` may change it."""
        if is_float_array(self._value):
            return self._value.copy()
        return load_bytes(b"".join(self.parts))


class Memory:
    """The latest results by key, within a bound, for later dispatches."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, ...]) -> list[Any] | None:
        """Return a packed result, or None."""
        whole = self._kept.get(key)
        return None if whole is None else [whole]

    def keep(self, key: tuple[str, ...], parts: list[Any]) -> None:
        """Keep a packed result; the oldest are dropped when there are too many."""
        self._kept[key] = b"".join(parts)
        self._bytes += len(self._kept[key])
        while self._bytes > REMEMBERED_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)


def has_words(values: list[Any], words: Iterable[str]) -> bool:
    """Return whether any of some words occurs anywhere in the values."""
    if all(type(value) is bytes for value in values):  # packing takes longer than the search
        parts = values
    else:
        parts = [bytes(part) for part in pack(values)]
    return any(each in part for word in words for each in _encoded(word) for part in parts)


@functools.lru_cache(maxsize=256)
def _encoded(word: str) -> tuple[bytes, ...]:
    """Return a word as texts in values may have it."""
    return tuple(word.encode(code) for code in ("utf-8", "utf-32-le", "utf-16-le"))


def known_results(chains: list[Chain]) -> dict[str, Packed]:
    """Return the results that were sent instead of items, computed for other jobs."""
    return {
        key: Packed(pack(value))
        for chain in chains
        for key, is_known, value in zip(chain.keys, chain.meta["known"], chain.items)
        if is_known
    }


def unpack_chains(frame: Frame, stages: int) -> list[Chain]:
    """Return the requests of a ``chain`` frame, each of so many jobs."""
    chains, blobs = [], list(frame.blobs)
    for meta in frame.meta["chains"]:
        values = [load_payload(blobs.pop(0)) for _ in range(stages + len(meta["keys"]))]
        chains.append(Chain(meta, values[:stages], values[stages:]))
    return chains


def is_misplaced(chain: Chain) -> bool:
    """Return whether items contain the path that they were read from.

    A model that uses the path would look in the wrong directory, or miss published files.
    """
    place = os.path.basename(chain.meta["staged"])
    files = [os.path.basename(path) for path in chain.job.input if path in chain.written]
    # Arrays of floats contain no paths, and are most of the data.
    worded = [item for item in chain.items if not is_float_array(item)]
    if worded and has_words(worded, [place, *files]):
        return True
    # Of one text for all, as of each, it is seen whether it has the word.
    return has_words(["\0".join(chain.names).encode("utf-8", "surrogatepass")], [place])
