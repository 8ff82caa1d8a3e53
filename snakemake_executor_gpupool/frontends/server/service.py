"""The server's side: takes jobs in from clients, hands them to the pool, tells how they ended.

One thread with an event loop talks to clients; the pool has its own. A connection carries one
job: when the client ends, so does the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import (
    FrameError,
    GpupoolError,
    PoolEnded,
    UnlistedCode,
    WeightsChanged,
)
from snakemake_executor_gpupool.frontends.server.address import key_of, namespace, root_directory
from snakemake_executor_gpupool.frontends.server.code_watch import (
    CodeWatch,
    ToolError,
    is_in_container,
)
from snakemake_executor_gpupool.frontends.server.job_requests import (
    CHANGES,
    PRELOAD,
    RUN,
    SPOILING,
    BadMessage,
    ClientJob,
    ComputeThere,
    Renewed,
    answer_of,
    failure,
    lacks_a_file,
    read_job,
    refuse_relative_weights,
)
from snakemake_executor_gpupool.frontends.server.own import why_not_served
from snakemake_executor_gpupool.frontends.server.printouts import Printouts
from snakemake_executor_gpupool.frontends.server.relay import Relay
from snakemake_executor_gpupool.frontends.server.run_session import RunSession
from snakemake_executor_gpupool.frontends.server.status import status_of
from snakemake_executor_gpupool.frontends.server.streams import receive_from, uid_of_peer
from snakemake_executor_gpupool.frontends.server.talk import encode
from snakemake_executor_gpupool.frontends.server.upkeep import Upkeep
from snakemake_executor_gpupool.frontends.server.variables import depends_on_place, digest_of, shown
from snakemake_executor_gpupool.frontends.server.workplaces import (
    FOUND_HERE,
    Workplace,
    Workplaces,
    places_after,
)
from snakemake_executor_gpupool.hosts.staged_leftovers import remove_staged
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.fingerprint import fingerprint
from snakemake_executor_gpupool.wire.requests import JobReport

LOG = logging.getLogger("snakemake_executor_gpupool.serve")
#: How often a job is begun again because its tool's code has changed meanwhile.
MAX_CHANGES = 5
#: How long a client may take to open the files that say what was printed for it.
TAKEN_S = 10.0

Message = dict[str, Any]


class Service:
    """Answers clients.

    Parameters
    ----------
    key
        What clients must have in common with the server.
    workplaces
        Those of the pool's workers.
    idle
        After how long without a job a model's processes end.
    """

    def __init__(self, key: str, workplaces: Workplaces, idle: IdleTime) -> None:
        self.key = key
        self.workplaces = workplaces
        self.upkeep = Upkeep(workplaces, idle)
        self._watch = CodeWatch()
        self._package = fingerprint()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[JobReport]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None
        self.started_s = self.used_s = time.monotonic()
        self._here = namespace(), list(root_directory())
        self._groups = [os.getegid(), *sorted(os.getgroups())]
        #: Passes what happens on to runs that are attached.
        self.relay = Relay()
        self.printouts = Printouts(self._log_of)
        #: Connections that have a job.
        self.clients = 0
        self.done = self.failed = 0
        #: Set when the server is to end: no job is taken any longer.
        self.ending = asyncio.Event()
        self.why_ended = ""

    def opened(self, pool: Pool) -> None:
        """Say which pool does the work; called from the event loop."""
        self._pool, self._loop = pool, asyncio.get_running_loop()

    def _log_of(self, worker: str) -> Path:
        return self.pool.paths.worker_log(worker)

    # -- from the pool's reporting thread ------------------------------------------------
    def report(self, report: JobReport) -> None:
        """A job has ended."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reported, report)

    def broken(self, error: BaseException) -> None:
        """The pool has failed: clients go elsewhere, and the server ends."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.end, f"its pool has failed: {error!r}")

    def _reported(self, report: JobReport) -> None:
        future = self._waiting.pop(report.job_id, None)
        if future is not None and not future.done():
            future.set_result(report)

    def end(self, why: str) -> None:
        """Take no more jobs."""
        self.why_ended = self.why_ended or why
        self.ending.set()

    # -- a connection ----------------------------------------------------------------------
    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a client."""
        with contextlib.suppress(ConnectionError, FrameError, asyncio.IncompleteReadError):
            try:
                if uid_of_peer(writer) == os.getuid():
                    await self._talk(reader, writer)
            finally:
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode({"type": "hello", "key": self.key, "version": __version__}))
        if (message := await receive_from(reader)) is None:
            return
        kind = message["type"]
        if kind in (RUN, PRELOAD):
            await self._run_for(message, reader, writer)
            return
        if kind == "attach":
            await RunSession(self, writer).talk(message, reader)
            return
        if kind == "status":
            answer = await status_of(self)
        elif kind == "stop":
            answer = {"type": "stopping", "jobs": self.clients, "pid": os.getpid()}
            self.end("it was asked to")
        else:
            answer = {"type": "refused", "why": f"it does not know {kind!r:.40}"}
        writer.write(encode(answer))
        await writer.drain()

    @property
    def pool(self) -> Pool:
        """What does the work."""
        assert self._pool is not None
        return self._pool

    # -- a job -----------------------------------------------------------------------------
    async def run(self, message: Message, gone: asyncio.Future[bytes]) -> Message:
        """Do the job that a message asks for, unless its client has gone; return the answer."""
        if (refusal := self.refusal(message)) is not None:
            return refusal
        self.clients += 1
        try:
            answer = await self._answer(message, gone)
        finally:
            self.left()
        self.done += answer["type"] == "done"
        self.failed += answer["type"] == "failed"
        return answer

    async def _run_for(
        self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Do the job of a client that waits for it."""
        # A client says nothing more, unless it does not want the job any longer, or ends.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            answer = await self.run(message, gone)
            self.clients += 1  # the logs that the answer names are there until it has opened them
            try:
                writer.write(encode(answer))
                await writer.drain()
                if answer.get("printed"):
                    await asyncio.wait((gone,), timeout=TAKEN_S)
            finally:
                self.left()
        finally:
            gone.cancel()

    def left(self) -> None:
        """A client has ended."""
        self.clients -= 1
        self.used_s = time.monotonic()

    def refusal(self, message: Message) -> Message | None:
        """Return why a client is not served; None: it is."""
        why = why_not_served(message, self.key, self._here, self._groups)
        if why:
            return {"type": "refused", "why": why}
        if self.ending.is_set():
            return {"type": "ending" if key_of(os.environ) == self.key else "renewed"}
        return None

    async def _answer(self, message: Message, gone: asyncio.Future[bytes]) -> Message:
        try:
            job = read_job(message)
            return answer_of(*await self.perform(job, gone))
        except BadMessage as error:
            return {"type": "refused", "why": str(error)}
        except ComputeThere as error:
            return {"type": "here", "why": str(error)}
        except Renewed:
            return {"type": "renewed"}
        except GpupoolError as error:
            plain = WorkerError(str(error), "input", type(error).__name__)
            cause = error.error if isinstance(error, ToolError) else plain
            return failure(cause.message, cause, cause.traceback)

    async def perform(
        self,
        job: ClientJob,
        gone: asyncio.Future[bytes],
        late: asyncio.Future[None] | None = None,
    ) -> tuple[JobReport, ClientJob, str]:
        """Have a job done; return its report, the job, and the version of its tool.

        Parameters
        ----------
        gone
            Done when nobody wants the job any longer.
        late
            Done when it is not to be begun any longer.

        Raises
        ------
        ComputeThere, Renewed, GpupoolError, ConnectionError
            It is not done here; cannot be begun, by its own fault; nobody wants it any longer.
        """
        lacking = job.device_lacking(device.name for device in self.pool.config.devices)
        if lacking:
            raise ComputeThere(f"the server does not manage {lacking}")
        try:
            return await self._done(job, gone, late)
        except PoolEnded as error:
            raise ComputeThere(f"the server is ending ({error})") from error
        except ConnectionError:
            raise
        except OSError as error:
            LOG.exception("a job could not be begun")
            raise ComputeThere(f"the server cannot take it: {error}") from error

    async def _done(
        self, job: ClientJob, gone: asyncio.Future[bytes], late: asyncio.Future[None] | None
    ) -> tuple[JobReport, ClientJob, str]:
        """Have a job done, as often as its tool's code changes meanwhile."""
        variables = shown(job.variables, job.cwd)
        # A container shows its processes the directory that it is started in.
        is_here = depends_on_place(variables) or is_in_container(job.entrance)
        for _ in range(MAX_CHANGES):
            place, version = await self._fit_workplace(job, variables, is_here=is_here)
            report = await self._once(job, await self._places(job, place), gone, late)
            if await place.unfit_for(job) == FOUND_HERE:
                raise ComputeThere(f"{job.name} looks for files in its working directory")
            kind = report.cause.type if report.cause is not None else ""
            if kind in SPOILING:
                self.workplaces.spoil(place)
                if key_of(os.environ) != self.key:
                    raise Renewed
            if report.error is not None and self.pool.is_cut_short:
                raise ComputeThere("the server was ended")
            if kind == UnlistedCode.__name__:
                raise ComputeThere(f"the server cannot serve {job.name}: {report.error}")
            refuse_relative_weights(kind, job, place.ref)
            lacks = lacks_a_file(report.cause) or kind in (WeightsChanged.__name__, FOUND_HERE)
            if lacks and job.is_repeatable and place.ref.base_dir != job.cwd:
                is_here = True  # a file that the tool looks for where its job runs
            elif kind in CHANGES and job.is_repeatable:
                why = str(report.error).partition("\n")[0]
                LOG.info("%s; the job is begun again, by other processes", why)
            else:
                return report, job, version
        raise ComputeThere(f"the code of {job.name}, or what it reads, changes again and again")

    async def _fit_workplace(
        self, job: ClientJob, variables: Mapping[str, str], *, is_here: bool
    ) -> tuple[Workplace, str]:
        """Return a job's workplace, as far as that is known before it begins."""
        for _ in range(MAX_CHANGES):
            try:
                place, version = await self._workplace(job, variables, is_here=is_here)
            except ToolError as error:
                if is_here or not lacks_a_file(error.error):
                    raise
                is_here = True
                continue
            unfit = await place.unfit_for(job)
            if not unfit:
                return place, version
            if unfit == FOUND_HERE:
                is_here = True
            else:
                self.workplaces.spoil(place)
        raise ComputeThere(f"what {job.name} reads changes again and again")

    async def _places(self, job: ClientJob, place: Workplace) -> tuple[Workplace, ...]:
        """Return a job's workplace, and those of the jobs that may go through with it."""
        after = await places_after(job, place, self._workplace_of)
        if place.has_met_others(after):
            self.pool.renew_files(place.ref)
        return (place, *after)

    async def _workplace_of(self, job: ClientJob, start: str) -> Workplace:
        """Return the workplace of a job that is to be done by a process that starts there."""
        variables, is_here = shown(job.variables, job.cwd), start == job.cwd
        return (await self._workplace(job, variables, is_here=is_here))[0]

    async def _workplace(
        self, job: ClientJob, variables: Mapping[str, str], *, is_here: bool
    ) -> tuple[Workplace, str]:
        """Return what workers of a job start from now, and the version of its tool."""
        start = job.cwd if is_here else self.workplaces.neutral
        software = digest_of({**variables, "": start, "=": repr(job.entrance)})
        code = await self._watch.code_of(job.spec, variables, software, start, job.entrance)
        if code.package != self._package:
            raise Renewed
        what = sys.executable, self.pool.config.mode, code, variables, software, job
        place = self.workplaces.of_job(*what, is_here=is_here)
        self.upkeep.retire_earlier(self.pool, place)
        return place, code.version

    async def _once(
        self,
        job: ClientJob,
        places: tuple[Workplace, ...],
        gone: asyncio.Future[bytes],
        late: asyncio.Future[None] | None,
    ) -> JobReport:
        """Have a job done once, by workers of its workplace; the others are of jobs that follow."""
        if gone.done():
            raise ConnectionError("the client has ended")
        pool, job_id = self.pool, next(self._ids)
        report: asyncio.Future[JobReport] = asyncio.get_running_loop().create_future()
        self._waiting[job_id] = report
        for place in places:
            place.jobs += 1
        if job.is_shown:
            self.printouts.add(job_id, places[0].ref.stamp)
        try:
            job.submit(pool, job_id, places[0].ref, [place.ref for place in places[1:]])
            ends = (report, gone) if late is None else (report, gone, late)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not report.done() and not gone.done():
                pool.unwanted(job_id, None)
                await asyncio.wait((report, gone), return_when=asyncio.FIRST_COMPLETED)
            if not report.done():
                pool.unwanted(job_id, "its client has ended")
                await report
                await asyncio.to_thread(remove_staged, job.outputs())
            return report.result()
        finally:
            self._waiting.pop(job_id, None)
            job.take_printout(self.printouts.finish(job_id))
            for place in places:
                place.jobs -= 1
                place.used_s = time.monotonic()
