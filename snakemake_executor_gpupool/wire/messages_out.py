"""What workers are told: one function for each kind of frame that goes to a worker.

The names of fields stand here, and where :mod:`~snakemake_executor_gpupool.worker.serve`,
:mod:`~snakemake_executor_gpupool.worker.server`,
:mod:`~snakemake_executor_gpupool.worker.writer` and
:mod:`~snakemake_executor_gpupool.worker.chain_server` read them; a test compares the two. Frames
are as :mod:`~snakemake_executor_gpupool.wire.frames` encodes them: what is in ``meta`` has to be
what JSON can hold, and blobs are opaque.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: Kinds of frames whose blobs or input files another machine may have written a moment ago.
_AFTER_OTHERS = frozenset({"read", "write", "publish", "run", "chain", "step"})


def with_latency(meta: Mapping[str, object], latency_wait_s: float) -> dict[str, object]:
    """Return a frame's fields, with how long its files may take to be seen if it has any."""
    if meta["type"] not in _AFTER_OTHERS:
        return dict(meta)
    return {**meta, "latency_wait_s": latency_wait_s}


# -- to any process ------------------------------------------------------------------------
def serve_tool(
    tool: ToolRef,
    spools: Sequence[str],
    *,
    is_shared: bool,
    early: Mapping[str, object] | None = None,
    is_ahead: bool = False,
) -> Frame:
    """Have a process import its tool; the first frame that it gets.

    Parameters
    ----------
    spools
        Directories for large blobs.
    is_shared
        Whether other machines read them, too.
    early
        Not None: it is to say which packages the tool imports. A process that was started before
        this was known takes its ``log`` and ``variables`` from there.
    is_ahead
        There is no job for it yet: it notes what it sees, for :func:`check_process`.
    """
    names = {"spec": tool.spec, "base_dir": tool.base_dir, "more": tool.more}
    places = {"spool": spools, "shared": is_shared}
    return Frame({"type": "tool", **names, **places, "early": early, "ahead": is_ahead}, [])


def check_process(model: str = "", params: Iterable[bytes] = ()) -> Frame:
    """Have it said whether what was imported and loaded ahead is what it would be now.

    Parameters
    ----------
    model
        What file processes call the model that was loaded; empty: none was.
    params
        Its pickled params.
    """
    return Frame({"type": "check", "model": model}, list(params))


# -- to processes that read and write --------------------------------------------------------
def read_job(request: Request, store: StoreAddress | None, *, hashes: bool = True) -> Frame:
    """Have a job's inputs read, and results looked up in the store, if there is one.

    ``hashes``: say what the content of files is; so below.
    """
    meta = {
        "type": "read",
        "job": request.job_id,
        "cwd": request.cwd,
        "follow": [later.tool.spec for later in request.follow],
        "stamps": [later.tool.stamp for later in request.follow],
        "store": store,
        "space": request.kept_space,
        "hashes": hashes,
        "items": not request.loads_only,
        "strict": request.is_strict,
        "prints_apart": request.prints_apart,
    }
    return Frame(meta, [request.job, *(later.job for later in request.follow)])


def foresee_job(
    request: Request, device: str, store: StoreAddress | None, *, reads: bool, most: int
) -> Frame:
    """Have it said what a job will ask of its model; nothing is computed or written.

    Parameters
    ----------
    device
        The kind of device that the model is to be on, for the budget of micro-batches.
    reads
        Whether its inputs are there, to be read.
    most
        How many of its items are described.
    """
    meta = {
        "type": "foresee",
        "job": request.job_id,
        "cwd": request.cwd,
        "device": device,
        "reads": reads,
        "most": most,
        "store": store,
        "space": request.kept_space,
    }
    return Frame(meta, [request.job])


def describe_model(request: Request) -> Frame:
    """Have it said which model a job will need, and nothing else of it."""
    return foresee_job(request, "", None, reads=False, most=0)


def write_job(
    request: Request,
    order: Sequence[int],
    names: Sequence[str],
    results: Iterable[Blob],
    log_text: str,
    *,
    settled: int = 0,
    hashes: bool = True,
) -> Frame:
    """Have a job's outputs written.

    Parameters
    ----------
    order
        For each item, which of the results is its own; not said where each has one of its own.
    names
        Of the items.
    log_text
        What the job's log says first.
    settled
        How many items there are before these, sent as ``results``.
    """
    blobs = [request.job, *results]
    meta = {
        "type": "write",
        "job": request.job_id,
        "settled": settled,
        "cwd": request.cwd,
        "order": None if [*order] == [*range(len(blobs) - 1)] else order,
        "names": names,
        "log_text": log_text,
        "updates": request.updates,
        "touched": request.touched,
        "directories": request.directories,
        "hashes": hashes,
        "prints_apart": request.prints_apart,
    }
    return Frame(meta, blobs)


def results_of(job_id: int, names: Sequence[str], results: Iterable[Blob]) -> Frame:
    """Have the next of a large job's results ready for ``write``, which follows.

    Each item has a result of its own here.
    """
    return Frame({"type": "results", "job": job_id, "names": list(names)}, list(results))


@dataclass(frozen=True, slots=True)
class Results:
    """What a job's outputs are written from.

    Attributes
    ----------
    order, names
        For each item, which of the blobs is its result, and what it is called.
    log_text
        What the job's log says first.
    """

    order: Sequence[int]
    names: Sequence[str]
    blobs: Sequence[Blob]
    log_text: str


@dataclass(frozen=True, slots=True)
class Guessed:
    """What a job was taken to be before it was there; if it is not, nothing is published.

    Attributes
    ----------
    digests
        Of its inputs, in its order, and of the files that its params name; and its group.
    model
        As a process of its tool described it.
    tool
        The job's tool, where the process that publishes serves another one; else None.
    """

    digests: Sequence[str]
    model: str
    tool: ToolRef | None = None


def publish_job(
    request: Request,
    guessed: Guessed,
    outputs: Sequence[str],
    logs: Sequence[str],
    *,
    hashes: bool = True,
    results: Results | None = None,
) -> Frame:
    """Have outputs put in place that lie at ``outputs`` and ``logs``.

    Parameters
    ----------
    results
        What outputs are written from that lie nowhere yet.
    """
    tool = guessed.tool
    meta = {
        "type": "publish",
        "job": request.job_id,
        "cwd": request.cwd,
        "digests": guessed.digests,
        "model": guessed.model,
        "outputs": outputs,
        "logs": logs,
        "touched": request.touched,
        "hashes": hashes,
        "order": None if results is None else results.order,
        "names": [] if results is None else results.names,
        "log_text": "" if results is None else results.log_text,
        "tool": "" if tool is None else tool.spec,
        "stamp": "" if tool is None else tool.stamp,
        "updates": request.updates,
        "directories": request.directories,
        "prints_apart": request.prints_apart,
    }
    return Frame(meta, [request.job, *(() if results is None else results.blobs)])


# -- to processes that hold a model ------------------------------------------------------------
def load_model(device: str, model: str, params: Iterable[bytes]) -> Frame:
    """Have a model loaded, or those of a chain.

    Parameters
    ----------
    device
        What the tool is told.
    model
        What file processes call it; of a chain: empty.
    params
        The pickled params of each stage.
    """
    return Frame({"type": "load", "device": device, "model": model}, list(params))


def move_model(device: str, *, is_away: bool) -> Frame:
    """Have weights moved to host memory (``is_away``), or back to a device."""
    return Frame({"type": "move", "device": device, "away": is_away}, [])


def run_batch(
    batch_id: int,
    params: bytes,
    items: Iterable[Blob],
    keys: Sequence[object],
    store: StoreAddress | None,
) -> Frame:
    """Have a micro-batch computed.

    Parameters
    ----------
    params
        Pickled.
    keys
        For each item, under which key its result is kept across runs; None: it is not.
    """
    meta = {"type": "run", "batch": batch_id, "keys": keys, "store": store}
    return Frame(meta, [params, *items])


@dataclass(frozen=True, slots=True)
class ChainRequest:
    """One short request, on its way through the models of a chain, from one to the last.

    Attributes
    ----------
    requests
        Of its stages; the first is ready, the others are guessed.
    keys, items
        Of the first stage's distinct items; where ``is_known``, the packed result instead.
    order, names
        For each of the first job's items, which distinct one it is, and what it is called.
    by
        What the jobs' logs say of who has computed them.
    models
        Of each stage: what the keys of results start with.
    staged
        Where outputs are staged; ``is_lent``: it is another run's directory, and is not made again
        once it is gone.
    """

    requests: Sequence[Request]
    keys: Sequence[str]
    items: Sequence[Blob]
    is_known: Sequence[bool]
    order: Sequence[int]
    names: Sequence[str]
    by: str
    models: Sequence[tuple[str, str, str]]
    staged: str
    is_lent: bool = False

    def fields(self) -> dict[str, object]:
        """Return what the frame says of it."""
        return {
            "cwd": self.requests[0].cwd,
            "keys": self.keys,
            "known": self.is_known,
            "order": self.order,
            "names": self.names,
            "by": self.by,
            "updates": self.requests[0].updates,
            "touched": [request.touched for request in self.requests],
            "models": self.models,
            "staged": self.staged,
            "lent": self.is_lent,
        }


def run_chains(
    batch_id: int,
    chains: Sequence[ChainRequest],
    store: StoreAddress | None,
    *,
    offset: int = 0,
    hashes: bool = True,
    item_limit_s: float | None = None,
) -> Frame:
    """Have short requests taken through the models of a chain.

    Parameters
    ----------
    offset
        Which of the chain's stages is their first.
    item_limit_s
        Where computing an item takes longer, requests end before the stage, but for those that
        were tried.
    """
    blobs: list[Blob] = []
    for chain in chains:
        blobs += [request.job for request in chain.requests]
        blobs += chain.items
    meta = {"type": "chain", "batch": batch_id, "chains": [chain.fields() for chain in chains]}
    meta |= {"offset": offset, "store": store}
    return Frame({**meta, "hashes": hashes, "item_limit_s": item_limit_s}, blobs)


def run_step(
    batch_id: int,
    stage: int,
    params: bytes,
    items: Iterable[Blob],
    known: Sequence[int],
    keys: Sequence[str],
    head: tuple[str, str, str],
    store: StoreAddress | None,
    *,
    item_limit_s: float | None = None,
    loads_next: bool = False,
) -> Frame:
    """Have items of short requests computed by the model of one stage of a chain.

    Parameters
    ----------
    stage
        Its number in the chain.
    params
        Pickled.
    known
        Which of the items are results, computed for other jobs.
    keys, head
        Of each item its own key, and what the keys of all results start with.
    item_limit_s
        Where computing an item takes longer, some are computed and the others left.
    loads_next
        Whether to load the next stage's model after that, unless there is more to compute.
    """
    meta = {"type": "step", "batch": batch_id, "stage": stage, "known": known, "keys": keys}
    meta |= {"head": head, "store": store, "item_limit_s": item_limit_s}
    return Frame({**meta, "load_next": loads_next}, [params, *items])
