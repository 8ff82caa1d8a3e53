"""Jobs of a whole run, as it hands them to a server, and what comes back. Nothing is unpickled."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snakemake_executor_gpupool.frontends.server.job_requests import BadMessage, ClientJob, Entrance
from snakemake_executor_gpupool.frontends.server.printouts import Printout
from snakemake_executor_gpupool.runtime.plain import from_plain, to_plain
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.forecast import wave_of_client
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.frames import Blob, SpoolFile
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

#: What of a request is for workers alone.
_BLOBS = ("job", "params", "bare")
_NOBODY = ToolRef("", "", "")


@dataclass(frozen=True)
class Client:
    """What a run has in common with all its jobs.

    Attributes
    ----------
    cwd
        Where it was started; a job may have another directory.
    """

    cwd: str
    umask: int
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RunJob(ClientJob):
    """A job of a run.

    Attributes
    ----------
    base
        Its request, but for its number and its tool.
    wanted
        The paths of all its outputs.
    numbered
        Called with each number that the server gives it, one for each try.
    after
        The jobs that follow it, as they are guessed.
    """

    base: Request
    wanted: tuple[str, ...]
    numbered: Callable[[int, ToolRef], None]
    after: tuple[RunJob, ...] = ()  # type: ignore[misc]
    is_shown = False

    def take_printout(self, printout: Printout) -> None:
        """Its run has logs of its own."""

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.base.title

    @property
    def files_in(self) -> str:
        """Where its relative paths start from: it may be a shadow directory."""
        return self.base.cwd

    def outputs(self) -> list[str]:
        """Return its outputs by their absolute paths."""
        return [os.path.join(self.base.cwd, path) for path in self.wanted]

    def request(self, job_id: int, ref: ToolRef, after: Sequence[ToolRef] = ()) -> Request:
        """Return the request for the pool."""
        self.numbered(job_id, ref)
        later = zip(self.after, after, strict=False)
        staging = self.base.staging
        follow = tuple(replace(job.base, tool=its, staging=staging) for job, its in later)
        return replace(self.base, job_id=job_id, tool=ref, follow=follow)


@dataclass(frozen=True, kw_only=True)
class RunCall(RunJob):
    """A call from Python, whose items are in memory and whose results are reported."""

    info: ToolInfo
    items: ItemsRead
    is_repeatable = False

    def submit(self, pool: Pool, job_id: int, ref: ToolRef, after: Sequence[ToolRef] = ()) -> None:
        """Have the pool compute its items."""
        items = replace(self.items, job_id=job_id)
        pool.submit_items(self.request(job_id, ref), self.info, items)


def call_message(request: Request, info: ToolInfo, items: ItemsRead) -> dict[str, Any]:
    """Return a call as a message."""
    nothing: dict[str, Any] = {"payloads": (), "model": replace(items.model, origin={})}
    plain = to_plain(replace(items, kept=frozenset(), **nothing))
    call = {
        "info": to_plain(info),
        "items": plain,
        "kept": sorted(items.kept),
        "payloads": [*map(blob_message, items.payloads)],
    }
    return {**job_message(request), "call": call}


def blob_message(blob: Blob) -> Any:
    """Return a blob as JSON has it: its place in a file, or its bytes."""
    return list(blob) if isinstance(blob, SpoolFile) else base64.b64encode(blob).decode()


def read_blob(value: Any) -> Blob:
    """Return the blob that a message has.

    Raises
    ------
    ValueError
        It is none.
    """
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    path, *numbers = value
    if not isinstance(path, str) or [type(number) for number in numbers] != [int] * 3:
        raise ValueError(f"{value!r:.80} is no place in a file")
    return SpoolFile(path, *numbers)


def _read_call(job: RunJob, call: Mapping[str, Any], spools: Collection[str]) -> RunCall:
    payloads = tuple(map(read_blob, call["payloads"]))
    for blob in payloads:
        if isinstance(blob, SpoolFile) and os.path.dirname(blob.path) not in spools:
            raise ValueError(f"{blob.path} is in no directory of the server's")
    items = from_plain(_Items, call["items"])
    columns = items.keys, items.costs, items.tokens, items.names
    if any(len(column) != len(payloads) for column in columns):
        raise ValueError("columns of items that are not equally long")
    read = ItemsRead(0, items.model, *columns, payloads, frozenset(map(int, call["kept"])))
    fields = {each.name: getattr(job, each.name) for each in dataclasses.fields(job)}
    return RunCall(**fields, info=from_plain(ToolInfo, call["info"]), items=read)


@dataclass(frozen=True)
class _Items:
    """The part of a call's items that is not bytes."""

    model: ModelInfo
    job_id: int = 0
    keys: tuple[str, ...] = ()
    costs: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()


def tool_message(tool: ToolRef) -> dict[str, Any]:
    """Return what a message says of a job's tool."""
    has_own = tool.environment or tool.activation or tool.container or tool.python != sys.executable
    entrance = Entrance(tool.python, tool.environment, tool.activation, tool.container)
    return {
        "spec": tool.spec,
        "base_dir": tool.base_dir,
        "name": str(tool),
        "entrance": to_plain(entrance) if has_own else None,
    }


def job_message(request: Request) -> dict[str, Any]:
    """Return a request as a message."""
    empty: dict[str, Any] = dict.fromkeys(_BLOBS, b"")
    plain = to_plain(replace(request, tool=_NOBODY, follow=(), **empty))
    for name in (*_BLOBS, "tool"):
        plain.pop(name, None)
    blobs = {name: base64.b64encode(getattr(request, name)).decode() for name in _BLOBS}
    return {
        **blobs,
        "request": plain,
        "follow": [*map(job_message, request.follow)],
        "staging": request.staging,
        **tool_message(request.tool),
        "texts": list(request.texts),
        "outputs": list(request.facts.all_outputs),
        "store": list(request.store) if request.store is not None else None,
        "has_provenance": request.has_provenance,
    }


def read_job(
    message: Mapping[str, Any],
    client: Client,
    numbered: Callable[[int, ToolRef], None],
    spools: Collection[str],
    run: str = "",
) -> RunJob:
    """Return the job that a message describes; ``numbered`` as a :class:`RunJob` has it.

    Parameters
    ----------
    spools
        The only directories whose files it may name as items.
    run
        Tells the client from others: jobs of two runs may have the same identity, and waves the
        same names.

    Raises
    ------
    BadMessage
        It describes none.
    """
    try:
        blobs = {name: base64.b64decode(message[name], validate=True) for name in _BLOBS}
        plain = {**message["request"], "tool": {"spec": "", "base_dir": "", "python": ""}}
        nothing = {"bytes": 0, "digest": ""}
        base = from_plain(Request, {**plain, **dict.fromkeys(_BLOBS, nothing)})
        store, entrance = message["store"], message["entrance"]
        base = replace(
            base,
            **blobs,
            identity=(run, *base.identity) if base.identity else (),
            wave=wave_of_client(base.wave, run),
            staging=str(message["staging"]),
            store=None if store is None else StoreAddress(str(store[0]), store[1]),
            has_provenance=bool(message["has_provenance"]),
        )
        for place in (base.cwd, message["base_dir"]):
            if not os.path.isabs(place):
                raise ValueError(f"{place!r:.80} is no directory")
        job = RunJob(
            spec=str(message["spec"]),
            name=str(message["name"]),
            job=Job(params={"texts": [str(text) for text in message["texts"]]}),
            device=base.devices,
            # Where its processes may start; a job in a shadow directory has its files elsewhere.
            cwd=str(message["base_dir"]),
            umask=client.umask,
            variables=client.variables,
            base=base,
            wanted=tuple(str(path) for path in message["outputs"]),
            numbered=numbered,
            entrance=None if entrance is None else from_plain(Entrance, entrance),
            after=tuple(
                read_job(later, client, numbered, spools, run) for later in message["follow"]
            ),
        )
        call = message.get("call")
        return job if call is None else _read_call(job, call, spools)
    except (ValueError, TypeError, KeyError, IndexError, binascii.Error) as error:
        raise BadMessage(f"a job's message is malformed: {error!r}") from error


def report_message(report: JobReport, own_id: int) -> dict[str, Any]:
    """Return how a job has ended, under the number that its run has given it."""
    settled: Any = report.details.get("settled", ())
    first = [blob for piece in settled for blob in piece.results()]
    blobs: Any = report.details.get("blobs", ())
    order: Any = report.details.get("order")
    if order is not None:
        order = [*range(len(first)), *(len(first) + place for place in order)]
    return {
        "order": order,
        "blobs": [*map(blob_message, [*first, *blobs])],
        "job_id": own_id,
        "error": report.error,
        "seconds": report.seconds,
        "withdrawn": report.withdrawn,
        "cause": None if report.cause is None else to_plain(report.cause),
        "cost": dict(report.cost),
    }


def read_report(message: Mapping[str, Any]) -> JobReport:
    """Return the report that a message holds.

    Raises
    ------
    ValueError, TypeError, KeyError
        It holds none.
    """
    cause = message["cause"]
    error = message["error"]
    details: dict[str, object] = {}
    if message["order"] is not None:
        details["order"] = [int(place) for place in message["order"]]
        details["blobs"] = [*map(read_blob, message["blobs"])]
        details["settled"] = ()
    return JobReport(
        int(message["job_id"]),
        None if error is None else str(error),
        float(message["seconds"]),
        details,
        withdrawn=bool(message["withdrawn"]),
        cause=None if cause is None else from_plain(WorkerError, cause),
        cost=dict(message["cost"]),
    )
