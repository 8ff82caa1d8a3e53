"""The Python API: the same tools and the same pool, without Snakemake.

>>> embed = tool_function("esm2-embed", model="esm2_t33_650M_UR50D")   # doctest: +SKIP
>>> with ToolPool(devices="all"):                                       # doctest: +SKIP
...     embeddings = embed(["MKTAYIAKQR", "MADQLTEEQI"])
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.manager import DeviceManager
from snakemake_executor_gpupool.devices.settings import Managed
from snakemake_executor_gpupool.errors import GpupoolError, PoolEnded
from snakemake_executor_gpupool.frontends.python import opening
from snakemake_executor_gpupool.frontends.python.calls import check_call, check_params
from snakemake_executor_gpupool.frontends.python.pending import PendingCalls
from snakemake_executor_gpupool.frontends.python.submission import (
    Bringing,
    Files,
    items_read,
    job_of,
    request_of,
)
from snakemake_executor_gpupool.runtime.broken import what_broke
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.idle_time import idle_time
from snakemake_executor_gpupool.scheduling.packed import CALL_FIRST
from snakemake_executor_gpupool.scheduling.settled import SettledItems
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class, resolve_spec
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.payload import load_payloads, load_places
from snakemake_executor_gpupool.wire.requests import JobReport, Request
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.describe import tool_info
from snakemake_executor_gpupool.worker.loaded import for_files
from snakemake_executor_gpupool.worker.result_file import KeptResults

LOG = logging.getLogger("snakemake_executor_gpupool")

NOT_OPEN = "this ToolPool is not open: use it in a with block"
CLOSED = "this ToolPool is closed: open another one in a with block"


class ToolPool:
    """Warm workers for the length of a ``with`` block.

    Parameters
    ----------
    devices
        What the pool may use: ``"auto"`` (the default), ``"all"``, a count, a list such as
        ``["cuda:0", "cuda:1"]`` or ``[0, 1]``, or ``"cpu:2"``.
    offload_strategy, allow_multiple_per_device
        As the options of the executor.
    idle_timeout_s
        Seconds without work after which a worker ends; None: at the end of the block.
    cache
        Directory of results kept across runs.
    reproducible
        Make an item's result the same to the bit whatever shares its batch (``docs/trust.md``);
        None: as ``GPUPOOL_REPRODUCIBLE`` says.
    seed
        What the seeds of items are made from; None: as ``GPUPOOL_SEED`` says, else 0.
    server
        ``"auto"`` (started if there is none), ``"on"`` or a socket's path: a server (``gpupool
        serve``) does the work, and models stay loaded after the block.

    Raises
    ------
    GpupoolError
        Another pool is open in this process.
    ConfigError
        An argument is malformed or names a device that is not there.

    Examples
    --------
    >>> with ToolPool(devices="cpu:2") as pool:                # doctest: +SKIP
    ...     results = pool.run("tools/mine.py:Mine", items, {"model": "weights.pt"})
    """

    _open: ClassVar[ToolPool | None] = None
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        devices: Managed | None = None,
        *,
        offload_strategy: str | None = None,
        allow_multiple_per_device: bool | None = None,
        idle_timeout_s: float | None = None,
        cache: str | None = None,
        reproducible: bool | None = None,
        seed: int | None = None,
        server: str = "off",
    ) -> None:
        self._server = server
        self._options: dict[str, Any] = {
            "managed_devices": devices,
            "offload_strategy": offload_strategy,
            "allow_multiple_per_device": allow_multiple_per_device,
            "dispatch": DispatchConfig(batch_window_s=0.0, idle=idle_time(idle_timeout_s)),
            "cache": cache,
            "reproducible": reproducible,
            "seed": seed,
        }
        self._pid = os.getpid()
        self._calls = PendingCalls(self._discard)
        self._classes: dict[str, type[Tool]] = {}
        self._pool: Pool | None = None
        #: Why it takes no more work.
        self._end = NOT_OPEN
        self._kept: KeptResults | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> ToolPool:
        with ToolPool._guard:
            if ToolPool.current() is not None:
                raise GpupoolError(
                    "a ToolPool is open already, and two would compete for the same devices: use "
                    "that one, or close it first"
                )
            with contextlib.ExitStack() as undo:
                # The pool locks it, and removes it at its end; so does the reaper, or a later run.
                directory = opening.temporary_directory()
                undo.callback(shutil.rmtree, directory, ignore_errors=True)
                config = opening.configured(directory, self._options)
                calls = self._calls
                callbacks = Callbacks(
                    *(calls.report, _no_leases, self._broken, _silent, LOG.warning),
                    wants_items=calls.more,
                )
                self._pool = opening.opened_pool(config, callbacks, self._server, self._options)
                if self._pool.store is not None:
                    self._kept = KeptResults(self._pool.store, self._pool.tell_trouble)
                    undo.callback(self._kept.close)
                self._cleanup = undo.pop_all()
            self._pid, self._end = os.getpid(), ""
            ToolPool._open = self
            DeviceManager.get_instance().include(self._pool.allocation_map)
            let_go_in_children(self)
            atexit.register(self.__exit__, None, None, None)
        return self

    def __exit__(self, *exception: object) -> None:
        if os.getpid() != self._pid or self._pool is None or self._end == CLOSED:
            return  # a forked child leaves the block: the pool, and its files, are the parent's
        self._end, failed = CLOSED, self._end
        try:
            if exception[0] is not None:
                self._pool.cancel("ended by an exception in the block of its ToolPool")
            self._pool.close()
            self._cleanup.close()
        finally:
            self._calls.end(PoolEnded(failed or CLOSED))
            atexit.unregister(self.__exit__)
            with ToolPool._guard:
                DeviceManager.get_instance().include(None)
                ToolPool._open = None

    def in_child(self) -> None:
        """Let go of everything in a forked child; its own pool is for it to open."""
        ToolPool._guard = threading.Lock()
        ToolPool._open = None
        self._calls.forget()

    @classmethod
    def current(cls) -> ToolPool | None:
        """Return the pool that is open in this process; None if there is none."""
        pool = cls._open
        # A forked process has none of its parent's threads, and so not its pool.
        return pool if pool is not None and pool._pid == os.getpid() else None

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that the pool manages."""
        return self._opened().config.devices

    @property
    def summary(self) -> dict[str, Any]:
        """The figures so far, as ``summary.json`` has them; after the block the last ones."""
        return self._opened().summary()

    def allocation_map(self) -> dict[str, list[str]]:
        """Return which models are on each device: ``{"cuda:0": ["esm2-embed"], "cuda:1": []}``."""
        return self._at_work().allocation_map()

    def __repr__(self) -> str:
        if self._end:
            return f"<ToolPool: {self._end.removeprefix('this ToolPool ')}>"
        if self._pid != os.getpid():
            return f"<ToolPool: of process {self._pid}>"
        return f"<ToolPool on {', '.join(device.name for device in self.devices)}>"

    def __str__(self) -> str:
        try:
            there = self.allocation_map()
        except PoolEnded:
            return repr(self)
        lines = [f"  {name}: {', '.join(owners) or 'nobody'}" for name, owners in there.items()]
        return "\n".join([f"{self!r}, who is where:", *lines])

    def _opened(self) -> Pool:
        if self._pool is None:
            raise PoolEnded(NOT_OPEN)
        return self._pool

    def _at_work(self) -> Pool:
        """Return the pool, if it takes work.

        Raises
        ------
        PoolEnded
            It does not, and never will.
        """
        pool = self._opened()
        if os.getpid() != self._pid:
            raise PoolEnded(
                f"this ToolPool is of process {self._pid}, from which this one was forked: open "
                "one here, or call it there"
            )
        if self._end:
            raise PoolEnded(self._end)
        return pool

    # -- work ------------------------------------------------------------------------
    def run(
        self,
        tool: str,
        items: Iterable[Any],
        params: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        instance: str = "",
    ) -> list[Any]:
        """Compute items on all workers; return one result per item, in order.

        Duplicates are computed once. The model stays loaded for later calls in the block.

        Parameters
        ----------
        tool
            Name of an installed tool, ``package.module:Class`` or ``path/to/file.py:Class``.
        items
            What the tool's ``run`` takes, or its ``item`` makes items of.
        params
            The tool's params.
        device
            A device string; None: as the tool prefers.
        instance
            Name of a worker group of its own.

        Raises
        ------
        UnknownTool
            There is no such tool.
        JobFailed
            An item failed; the message names it.
        PoolEnded
            The pool is closed, or has failed, before or during the call.
        """
        return self.run_spec(
            resolve_spec(tool, str(Path.cwd())), tool, items, params, device, instance
        )

    def run_spec(
        self,
        spec: str,
        tool: str,
        items: Iterable[Any],
        params: Mapping[str, Any] | None,
        device: str | None,
        instance: str,
    ) -> list[Any]:
        """Do the same for a tool that has been looked up; ``tool`` is what messages call it."""
        try:
            return self._run(spec, tool, list(items), params or {}, device, instance)
        except OSError:
            self._at_work()  # raises if the pool was closed meanwhile, which removed its files
            raise

    def _run(
        self,
        spec: str,
        tool: str,
        values: list[Any],
        params: Mapping[str, Any],
        device: str | None,
        instance: str,
    ) -> list[Any]:
        pool = self._at_work()
        tool_class = self._class(spec)
        check_call(tool_class, tool, values, params)
        described_by = for_files(tool_class, params)
        items = described_by.items_of_call(values)
        kept = self._kept if described_by.deterministic else None
        info = ToolInfo.from_fields(Fields(tool_info(tool_class), f"tool {tool}"))

        def call() -> tuple[Request, JobReport]:
            request = self._request(spec, tool, Job(params=params), device, instance)
            first = CALL_FIRST if pool.takes_pieces else len(items)
            pieces = items_read(described_by, items, request, Spool(pool.spools), kept, first)
            with Bringing(pool, request, info, pieces, len(items)) as on_its_way:
                submit, go_on = on_its_way.submit, on_its_way.go_on
                return request, self._calls.wait(request.job_id, tool, submit, go_on)

        request, report = opening.tried_again(call)
        settled: tuple[SettledItems, ...] = report.details["settled"]  # type: ignore[assignment]
        blobs: list[Blob] = report.details["blobs"]  # type: ignore[assignment]
        order: list[int] = report.details["order"]  # type: ignore[assignment]
        try:
            results = [result for piece in settled for result in load_payloads(piece.results())]
            results += load_places(blobs, order)
        finally:
            pool.take_back(request.job_id)
        return described_by.results_of_call(items, results)

    def run_job(
        self,
        tool: str,
        *,
        input: Files = (),
        output: Files = (),
        params: Mapping[str, Any] | None = None,
        log: Sequence[str] = (),
        device: str | None = None,
    ) -> None:
        """Do one job from files to files, as a rule would.

        Raises
        ------
        JobFailed
            The job failed; its outputs do not exist.
        PoolEnded
            The pool is closed, or has failed, before or during the call.
        UnknownParam
            The tool has no such param.
        """
        pool = self._at_work()
        spec = resolve_spec(tool, str(Path.cwd()))
        check_params(self._class(spec), tool, params or ())
        request = self._request(spec, tool, job_of(input, output, params, log), device, "")
        self._calls.wait(request.job_id, tool, lambda: pool.submit([request]))

    def _class(self, spec: str) -> type[Tool]:
        if spec not in self._classes:
            self._classes[spec] = load_tool_class(spec)
        return self._classes[spec]

    def _request(
        self, spec: str, name: str, job: Job, device: str | None, instance: str
    ) -> Request:
        config = self._at_work().config
        return request_of(config, self._calls.new_id(), spec, name, job, device, instance)

    # -- reports, on the pool's reporting thread -----------------------------------------
    def _broken(self, error: BaseException) -> None:
        self._end = self._end or f"this ToolPool has failed: {what_broke(error)}"
        self._calls.end(PoolEnded(self._end), error)

    def _discard(self, job_id: int) -> None:
        if self._pool is not None:
            self._pool.unwanted(job_id, "its call was interrupted")
            self._pool.take_back(job_id)


def _no_leases(job_id: int, devices: tuple[Device, ...], environment: dict[str, str]) -> None:
    raise AssertionError("a ToolPool asks for no leases")


def _silent(line: str) -> None:
    """Keep progress lines out of other people's programs."""
