"""Jobs of a whole run, as it hands them to a server, and what comes back. Nothing is unpickled."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from snakemake_executor_gpupool.frontends.server.job_requests import BadMessage, ClientJob
from snakemake_executor_gpupool.runtime.plain import from_plain, to_plain
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.kept import StoreAddress
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
    """

    base: Request
    wanted: tuple[str, ...]
    numbered: Callable[[int, ToolRef], None]

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.base.title

    def outputs(self) -> list[str]:
        """Return its outputs by their absolute paths."""
        return [os.path.join(self.cwd, path) for path in self.wanted]

    def request(self, job_id: int, ref: ToolRef) -> Request:
        """Return the request for the pool."""
        self.numbered(job_id, ref)
        return replace(self.base, job_id=job_id, tool=ref)


def job_message(request: Request) -> dict[str, Any]:
    """Return a request as a message."""
    empty: dict[str, Any] = dict.fromkeys(_BLOBS, b"")
    plain = to_plain(replace(request, tool=_NOBODY, follow=(), wave="", **empty))
    for name in (*_BLOBS, "tool"):
        plain.pop(name, None)
    blobs = {name: base64.b64encode(getattr(request, name)).decode() for name in _BLOBS}
    return {
        **blobs,
        "request": plain,
        "spec": request.tool.spec,
        "name": str(request.tool),
        "texts": list(request.texts),
        "outputs": list(request.facts.all_outputs),
        "store": list(request.store) if request.store is not None else None,
        "has_provenance": request.has_provenance,
    }


def read_job(
    message: Mapping[str, Any], client: Client, numbered: Callable[[int, ToolRef], None]
) -> RunJob:
    """Return the job that a message describes; ``numbered`` as a :class:`RunJob` has it.

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
        store = message["store"]
        base = replace(
            base,
            **blobs,
            store=None if store is None else StoreAddress(str(store[0]), store[1]),
            has_provenance=bool(message["has_provenance"]),
        )
        if not os.path.isabs(base.cwd):
            raise ValueError(f"{base.cwd!r:.80} is no directory")
        return RunJob(
            spec=str(message["spec"]),
            name=str(message["name"]),
            job=Job(params={"texts": [str(text) for text in message["texts"]]}),
            device=base.devices,
            cwd=base.cwd,
            umask=client.umask,
            variables=client.variables,
            base=base,
            wanted=tuple(str(path) for path in message["outputs"]),
            numbered=numbered,
        )
    except (ValueError, TypeError, KeyError, IndexError, binascii.Error) as error:
        raise BadMessage(f"a job's message is malformed: {error!r}") from error


def report_message(report: JobReport, own_id: int) -> dict[str, Any]:
    """Return how a job has ended, under the number that its run has given it."""
    return {
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
    return JobReport(
        int(message["job_id"]),
        None if error is None else str(error),
        float(message["seconds"]),
        withdrawn=bool(message["withdrawn"]),
        cause=None if cause is None else from_plain(WorkerError, cause),
        cost=dict(message["cost"]),
    )
