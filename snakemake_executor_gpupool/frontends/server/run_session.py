"""A run's connection to a server: many jobs at a time, and what happens to each of them.

The run says::

    attach    once: who it is
    jobs      some are ready
    forecast  which are still to come, instead of what was said of that before
    read      results of these calls have been read: nobody needs them
    unwanted  these are not wanted any longer; none of their outputs appears once that is reported
    late      nothing new is to be begun

and hears::

    attached  once: on which devices
    news      events and facts of its jobs, and their reports, in order; and which jobs are not for
              this server, so that the run sees to them itself
    ending    no further job is taken
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool.errors import GpupoolError, ProtocolError
from snakemake_executor_gpupool.frontends.server.code_watch import ToolError
from snakemake_executor_gpupool.frontends.server.forecast_fields import forecast_of_plain
from snakemake_executor_gpupool.frontends.server.job_requests import (
    BadMessage,
    ComputeThere,
    Renewed,
)
from snakemake_executor_gpupool.frontends.server.relay import Item
from snakemake_executor_gpupool.frontends.server.run_requests import (
    Client,
    RunJob,
    read_job,
    report_message,
)
from snakemake_executor_gpupool.frontends.server.streams import pid_of_peer, receive_from
from snakemake_executor_gpupool.frontends.server.talk import encode
from snakemake_executor_gpupool.scheduling.job_state import JobState, explain
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.requests import JobReport, ToolRef

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.server.service import Service

LOG = logging.getLogger("snakemake_executor_gpupool.serve")
REPORT = "report"
_numbers = itertools.count(1)


class RunSession:
    """Serves a run; used by the server's event loop, but for :meth:`put`.

    Parameters
    ----------
    service
        Does the work.
    writer
        The connection.
    """

    def __init__(self, service: Service, writer: asyncio.StreamWriter) -> None:
        self._service = service
        #: Tells the run from others.
        self._run = f"run{next(_numbers)}"
        self._relay = service.relay
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._news: deque[Any] = deque()
        self._will_flush = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._gone: dict[int, asyncio.Future[bytes]] = {}
        #: Calls whose results are still to be read, and the server's numbers of them.
        self._lent: dict[int, int] = {}
        self._late: asyncio.Future[None] = self._loop.create_future()

    async def talk(self, hello: Mapping[str, Any], reader: asyncio.StreamReader) -> None:
        """Serve the run until it ends, or the server does and has finished its jobs."""
        refusal = self._service.refusal(dict(hello))
        client = _client_of(hello)
        if refusal is not None or client is None:
            why = {"type": "refused", "why": "what it says of itself is malformed"}
            self._writer.write(encode(refusal or why))
            return
        self._service.clients += 1
        self._relay.attach(self)
        farewell = asyncio.ensure_future(self._say_farewell(reader))
        who = f"the run of process {pid_of_peer(self._writer)} in {client.cwd}"
        LOG.info("%s attaches", who)
        try:
            self._writer.write(encode({"type": "attached", **self._who()}))
            while (message := await receive_from(reader)) is not None:
                self._take(message, client)
        finally:
            farewell.cancel()
            self._relay.detach(self)
            for gone in self._gone.values():
                _set(gone, b"")
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            for own_id in list(self._lent):
                self._take_back(own_id)
            self._service.pool.run_left(self._run)
            self._service.left()
            LOG.info("%s has left", who)

    async def _say_farewell(self, reader: asyncio.StreamReader) -> None:
        """Once the server is to end, say so; go once the jobs in flight have ended."""
        await self._service.ending.wait()
        self._writer.write(encode({"type": "ending", "why": self._service.why_ended}))
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        self._flush()
        await self._writer.drain()
        reader.feed_eof()

    def _who(self) -> dict[str, Any]:
        config = self._service.pool.config
        return {
            "pid": os.getpid(),
            "files": str(self._service.pool.paths.directory),
            "spools": self._service.pool.paths.spools,
            "devices": [device.name for device in config.devices],
        }

    def _take(self, message: Mapping[str, Any], client: Client) -> None:
        match message["type"]:
            case "jobs":
                for job in message.get("jobs", ()):
                    self._begin(int(job["job_id"]), job, client)
            case "forecast":
                with contextlib.suppress(ProtocolError):  # nothing but time depends on it
                    forecast = forecast_of_plain(message.get("forecast"))
                    self._service.pool.foresee(forecast, self._run)
            case "read":
                for own_id in message.get("jobs", ()):
                    self._take_back(own_id)
            case "unwanted":
                for own_id in message.get("jobs", ()):
                    if own_id in self._gone:
                        _set(self._gone[own_id], b"")
            case "late":
                _set(self._late, None)

    def _take_back(self, own_id: int) -> None:
        job_id = self._lent.pop(own_id, None)
        if job_id is not None:
            self._service.pool.take_back(job_id)

    # -- a job -------------------------------------------------------------------------------
    def _begin(self, own_id: int, message: Mapping[str, Any], client: Client) -> None:
        self._gone[own_id] = self._loop.create_future()
        task = self._loop.create_task(self._serve(own_id, message, client))
        self._tasks[own_id] = task
        task.add_done_callback(lambda task: self._tasks.pop(own_id, None))

    async def _serve(self, own_id: int, message: Mapping[str, Any], client: Client) -> None:
        tries: list[int] = []

        def numbered(job_id: int, ref: ToolRef) -> None:
            while tries:
                self._relay.close(tries.pop(), is_final=False)
            tries.append(job_id)
            self._relay.add(job_id, self, own_id, ref.stamp)

        report: JobReport | None = None
        job: RunJob | None = None
        try:
            spools = self._service.pool.paths.spools
            job = read_job(message, client, numbered, spools, self._run)
            if self._late.done() and not job.base.goes_on:
                report = JobReport(0, f"{job.title}: not started", withdrawn=True)
            else:
                report = await self._performed(job, own_id)
        except BadMessage as error:
            report = JobReport(0, str(error))
        except GpupoolError as error:
            report = failed(job, error)
        except ConnectionError:
            title = job.title if job is not None else "a job"
            report = JobReport(0, f"{title}: it is not wanted any longer")
        finally:
            for number in tries:
                self._relay.close(number, is_final=report is not None)
            del self._gone[own_id]
            if report is not None and report.details:
                self._lent[own_id] = tries[-1]
            if report is not None:
                self._put((REPORT, report_message(report, own_id)))
                self._service.done += report.error is None
                self._service.failed += report.error is not None

    async def _performed(self, job: RunJob, own_id: int) -> JobReport | None:
        """Have a job done; None: the run is to see to it itself, and has been told so."""
        try:
            report, _, _ = await self._service.perform(job, self._gone[own_id], self._late)
        except (ComputeThere, Renewed) as error:
            why = str(error) or "gpupool was installed anew"
            self._put(("back", own_id, why))
            return None
        return report

    # -- what the run is told ------------------------------------------------------------------
    def put(self, item: Item) -> None:
        """Tell the run of an event or a fact; any thread."""
        self._news.append(item)
        if not self._will_flush:
            self._will_flush = True
            with contextlib.suppress(RuntimeError):  # the server's loop has ended
                self._loop.call_soon_threadsafe(self._flush)

    def _put(self, item: tuple[Any, ...]) -> None:
        self._news.append(item)
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False  # first: what is appended from now on is taken, or asks again
        items = []
        while self._news:
            items.append(self._news.popleft())
        if items and not self._writer.is_closing():
            self._writer.write(encode({"type": "news", "news": items}))


def failed(job: RunJob | None, error: GpupoolError) -> JobReport:
    """Return the report of a job that could not be begun."""
    cause = WorkerError(str(error), "input", type(error).__name__)
    if isinstance(error, ToolError):
        cause = error.error
    if job is None:
        return JobReport(0, str(error), cause=cause)
    return JobReport(0, explain(JobState(job.base), cause), cause=cause)


def _client_of(hello: Mapping[str, Any]) -> Client | None:
    cwd, umask, variables = (hello.get(name) for name in ("cwd", "umask", "variables"))
    is_sound = (
        isinstance(cwd, str)
        and os.path.isabs(cwd)
        and type(umask) is int
        and 0 <= umask <= 0o777
        and isinstance(variables, dict)
        and all(isinstance(value, str) for value in variables.values())
    )
    return Client(str(cwd), int(umask), variables) if is_sound else None  # type: ignore[arg-type]


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
