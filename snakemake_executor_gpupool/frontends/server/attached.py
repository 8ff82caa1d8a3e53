"""A run's pool whose served jobs a server does; everything else it does by itself.

The run hands whole jobs over, and writes down what the server tells of them as if it had seen it
itself: events, figures, provenance, reports. Leases, and jobs that the server hands back, are its
own, and so are all jobs once the server is lost, if the run may go on without.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError, PoolEnded
from snakemake_executor_gpupool.frontends.server.connection import (
    Connection,
    Server,
)
from snakemake_executor_gpupool.frontends.server.forecast_fields import plain_forecast
from snakemake_executor_gpupool.frontends.server.run_requests import (
    call_message,
    job_message,
    read_report,
)
from snakemake_executor_gpupool.frontends.server.still_to_come import StillToCome
from snakemake_executor_gpupool.hosts.staged_leftovers import remove_staged
from snakemake_executor_gpupool.runtime.carry_out import Callbacks, UserLines, trouble_line
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.elsewhere import LOST_CALL, News
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.forecast import Forecast
from snakemake_executor_gpupool.wire.described import ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.frames import SpoolFile
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import JobReport, Request

#: How long the server may take to end jobs that are not wanted any longer.
FAREWELL_S = 5.0
#: How long processes of a server that was killed may take to end, and how often that is looked at.
LEFT_S, LOOK_S = 10.0, 0.02


class AttachedPool(Pool):
    """A pool that has its jobs done by a server.

    Parameters
    ----------
    config, callbacks
        As any pool has them.
    server
        What does the jobs.
    falls_back
        Whether the pool's own workers do them if the server is lost; else that ends the run.
    """

    def __init__(
        self, config: PoolConfig, callbacks: Callbacks, server: Server, *, falls_back: bool
    ) -> None:
        super().__init__(config, callbacks)
        self._server = server
        self._falls_back = falls_back
        self._lines = UserLines(callbacks, self._reporter.put)
        self._has_provenance = config.has_provenance and not config.is_temporary
        self._state = threading.Condition()
        #: Handed over, and not reported.
        self._outstanding: dict[int, Request] = {}
        #: Why no further job is handed over; empty: they are.
        self._over = ""
        self._is_leaving = False
        self._cancelled = ""
        self._said: set[str] = set()
        #: Calls that the server was handed.
        self._calls: set[int] = set()
        self._still = StillToCome()
        self._has_staging = False
        self._handlers: dict[str, Callable[[Any], None]] = {
            "news": self._take_news,
            "ending": self._ending,
        }
        fields = {"directory": server.directory, "pid": server.pid, "devices": server.devices}
        self.take_news([News(_now_s(), "server_attached", fields)])
        self._lines.say(
            f"gpupool: served rules are done by the server of process {server.pid} on "
            f"{', '.join(server.devices)} ({server.directory})"
        )
        self._connection = Connection(server.socket, self._hear)

    # -- called by the run -----------------------------------------------------------------
    def submit(self, requests: Sequence[Request]) -> None:
        """Serve jobs, by the server where that can. Returns at once."""
        if not requests:
            return
        with self._state:
            is_own = bool(self._over or self._cancelled)
            if not is_own:
                self._outstanding.update((request.job_id, request) for request in requests)
                self._still.handed_over(requests)
        if not is_own:
            self._connection.send({"type": "jobs", "jobs": [*map(self._message, requests)]})
            return
        if self._over and not self._falls_back:
            self.fail(ConfigError(f"{self._over}, and this run was to have one"))
        super().submit(requests)

    def _message(self, request: Request) -> dict[str, Any]:
        own = replace(request, has_provenance=self._has_provenance, store=self.store)
        if request.follow:
            own = replace(own, staging=self._staging())
        return {**job_message(own), "job_id": request.job_id}

    def _staging(self) -> str:
        """Return where a server stages outputs of jobs that follow: it does not make it."""
        if not self._has_staging:
            os.makedirs(self.paths.staged, mode=0o700, exist_ok=True)
            self._has_staging = True
        return self.paths.staged

    def foresee(self, forecast: Forecast, run: str = "") -> None:
        """Say which jobs are still to come, to whoever serves them."""
        with self._state:
            self._still.foresee(forecast)
            over = bool(self._over)
        if over:
            super().foresee(forecast, run)
        else:
            self._connection.send({"type": "forecast", "forecast": plain_forecast(forecast)})

    def handing_over(self, *, goes_on: bool) -> None:
        """Say that many jobs begin to be submitted, or that all were: a server has others, too."""
        with self._state:
            over = bool(self._over)
        if over:
            super().handing_over(goes_on=goes_on)

    @property
    def places(self) -> list[str]:
        """Directories that processes in containers must see: the server's, whoever serves."""
        return [self._server.directory]

    @property
    def spools(self) -> list[str]:
        """The directories that items of calls are to be put into."""
        return super().spools if self._over else self._server.spools

    #: A call's message to the server holds all of its items.
    takes_pieces = False

    def submit_items(
        self, request: Request, info: ToolInfo, items: ItemsRead, to_come: int = 0
    ) -> None:
        """Serve items that are in memory; the report's details have the results.

        They were put into ``spools``, and so go with the server should that end meanwhile.
        """
        with self._state:
            over = bool(self._over or self._cancelled)
            if not over:
                self._outstanding[request.job_id] = request
                self._calls.add(request.job_id)
        if self._over and self._are_gone(items):
            self._lose_call(request.job_id)
            return
        if over:
            super().submit_items(request, info, items)
            return
        own = replace(request, has_provenance=False, store=self.store)
        message = {**call_message(own, info, items), "job_id": request.job_id}
        self._connection.send({"type": "jobs", "jobs": [message]})

    def _are_gone(self, items: ItemsRead) -> bool:
        """Whether the server has ended since items were put into its directories."""
        files = [blob for blob in items.payloads if isinstance(blob, SpoolFile)]
        return any(os.path.dirname(file.path) in self._server.spools for file in files)

    def _lose_call(self, job_id: int) -> None:
        self._report(JobReport(job_id, LOST_CALL, cause=WorkerError(LOST_CALL)))

    def take_back(self, job_id: int) -> None:
        """Say that a call's results have been read."""
        with self._state:
            is_pending = job_id in self._outstanding  # it is taken back when it has been reported
        if job_id not in self._calls:
            super().take_back(job_id)
        elif not is_pending:
            self._calls.discard(job_id)
            self._connection.send({"type": "read", "jobs": [job_id]})

    def unwanted(self, job_id: int, reason: str | None) -> None:
        """Fail a job that nobody wants any longer."""
        with self._state:
            is_theirs = job_id in self._outstanding
        if is_theirs:
            self._connection.send({"type": "unwanted", "jobs": [job_id]})
        else:
            super().unwanted(job_id, reason)

    def wind_down(self) -> None:
        """Start nothing new; finish what has begun. Returns at once."""
        super().wind_down()
        self._connection.send({"type": "late"})

    def cancel(self, reason: str) -> None:
        """Fail every job of this run, end every worker of its own, take no more."""
        super().cancel(reason)
        with self._state:
            self._cancelled = self._cancelled or reason
            jobs = list(self._outstanding)
        self._connection.send({"type": "unwanted", "jobs": jobs})

    def begin_close(self) -> None:
        """Leave the server, and have every worker end."""
        if os.getpid() == self._pid and not self._is_leaving:
            self._leave()
        super().begin_close()

    def _leave(self) -> None:
        with self._state:
            jobs = list(self._outstanding)
        if jobs:
            self._connection.send({"type": "unwanted", "jobs": jobs})
        with self._state:
            # None of their outputs is to appear once this run has ended.
            self._state.wait_for(lambda: not self._outstanding or bool(self._over), FAREWELL_S)
            self._is_leaving = True
            left, self._outstanding = self._outstanding, {}
        self._connection.close()
        for request in left.values():
            why = self._cancelled or "the run has ended"
            self._report(JobReport(request.job_id, f"{request.title}: {why}"))

    # -- what the server says, on the connection's thread --------------------------------------
    def _hear(self, message: dict[str, Any] | None) -> None:
        if message is None:
            try:
                self._lost()
            except BaseException as error:  # nobody else would hear of it
                self.fail(error)
            return
        handler = self._handlers.get(message["type"])
        if handler is not None:
            handler(message)

    def _ending(self, message: dict[str, Any]) -> None:
        with self._state:
            self._over = f"the server of process {self._server.pid} ends: {message.get('why')}"
            left = self._still.forecast(())
        if self._falls_back:
            super().foresee(left)
            self._say_once(f"{self._over}; workers of this run serve all later jobs")

    def _take_news(self, message: dict[str, Any]) -> None:
        news: list[News] = []
        for kind, *more in message["news"]:
            if kind == "report":
                self._write_down(news)
                news = []
                self._reported(read_report(more[0]))
            elif kind == "back":
                self._given_back(*more)
            else:
                time_s, name, fields = more
                each = self._own(News(time_s, name, fields, is_fact=kind == "fact"))
                if each is not None:
                    news.append(each)
        self._write_down(news)

    def _own(self, news: News) -> News | None:
        """Return news as this run has them, after telling the user what concerns him."""
        fields = news.fields
        if news.is_fact and news.name == "job":
            request = self._outstanding.get(fields["job_id"])
            if request is None:
                return None
            return replace(news, fields={**fields, "request": request})
        if not news.is_fact:
            self._tell(news.name, fields)
        return news

    def _tell(self, name: str, fields: Mapping[str, Any]) -> None:
        started = self._callbacks.started
        if name == "batch_sent" and started is not None:
            self._reporter.put(partial(started, list(fields["jobs"])))
        elif name == "remark":
            self._lines.warn(f"gpupool: {fields['text']}")
        elif name == "store_trouble" and fields["kind"] not in self._said:
            self._said.add(fields["kind"])
            self._lines.warn(trouble_line(fields["kind"], fields["why"]))

    def _write_down(self, news: list[News]) -> None:
        if news:
            self.take_news(news)

    def _reported(self, report: JobReport) -> None:
        with self._state:
            request = self._outstanding.pop(report.job_id, None)
            self._state.notify_all()
        if request is None:
            return
        if report.error is not None and self._cancelled:
            report = replace(report, error=f"{request.title}: {self._cancelled}")
        self._report(report)

    def _report(self, report: JobReport) -> None:
        self._reporter.put(partial(self._callbacks.report, report))

    def _given_back(self, job_id: int, why: str) -> None:
        """The server cannot do a job: a worker of this run does."""
        with self._state:
            request = self._outstanding.pop(job_id, None)
            self._state.notify_all()
        if request is not None and self._over and not self._falls_back:
            self.fail(ConfigError(f"{self._over}, and this run was to have one"))
        elif request is not None:
            self._say_once(f"{why}; a worker of this run serves it")
            self._serve_here([request])

    def _serve_here(self, requests: Sequence[Request]) -> None:
        """Have workers of this run do jobs; items of calls have gone with the server."""
        self.forget_elsewhere([request.job_id for request in requests])
        calls = [request for request in requests if request.job_id in self._calls]
        for request in calls:
            self._calls.discard(request.job_id)
            self._lose_call(request.job_id)
        requests = [request for request in requests if request not in calls]
        try:
            super().submit(requests)
        except PoolEnded as error:
            for request in requests:
                self._report(JobReport(request.job_id, f"{request.title}: {error}"))

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._lines.warn(f"gpupool: {line}")

    def _lost(self) -> None:
        """The connection has ended: the server has, too."""
        with self._state:
            if self._is_leaving:
                return
            was_told = bool(self._over)
            why = self._over or f"the server of process {self._server.pid} has ended unexpectedly"
            self._over = why
            left, self._outstanding = list(self._outstanding.values()), {}
            forecast = self._still.forecast(left)
            self._state.notify_all()
        if was_told and not left:
            return
        self.take_news([News(_now_s(), "server_lost", {"why": why, "jobs": len(left)})])
        if self._cancelled:
            for request in left:
                self._report(JobReport(request.job_id, f"{request.title}: {self._cancelled}"))
        elif self._falls_back:
            self._lines.warn(
                f"gpupool: {why}; {len(left)} jobs that it had, and all later ones, are served by "
                "workers of this run"
            )
            self._await_its_end()
            if not was_told:
                super().foresee(forecast)
            for request in left:
                outputs = request.facts.all_outputs
                remove_staged(os.path.join(request.cwd, path) for path in outputs)
            self._serve_here(left)
        else:
            self.fail(ConfigError(f"{why}; --gpupool-server auto would go on without"))

    def _await_its_end(self) -> None:
        """Wait until none of its processes can write any longer: its reaper removes its files."""
        end_s = time.monotonic() + LEFT_S
        while Path(self._server.files).exists() and time.monotonic() < end_s:
            time.sleep(LOOK_S)


def _now_s() -> float:
    return round(time.time(), 6)
