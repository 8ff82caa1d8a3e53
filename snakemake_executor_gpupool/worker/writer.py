"""Puts a job's outputs in place: written by its tool, or staged by a chain.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.payload import load_payload, load_places
from snakemake_executor_gpupool.worker.channel import Channel, latency_of
from snakemake_executor_gpupool.worker.describe import describe_model
from snakemake_executor_gpupool.worker.early_results import EarlyResults
from snakemake_executor_gpupool.worker.file_hashes import hashes_of
from snakemake_executor_gpupool.worker.late_files import wait_for_blobs, wait_for_files
from snakemake_executor_gpupool.worker.later_tools import LaterTools
from snakemake_executor_gpupool.worker.loaded import RestoredTools, for_files
from snakemake_executor_gpupool.worker.named_files import params_digest
from snakemake_executor_gpupool.worker.output_capture import job_log, tell_error
from snakemake_executor_gpupool.worker.outputs import staged_outputs
from snakemake_executor_gpupool.worker.printed import Printed
from snakemake_executor_gpupool.worker.staging_folders import StagingFolders
from snakemake_executor_gpupool.worker.unchanged import Unchanged
from snakemake_executor_gpupool.worker.written import Expected


class Writer:
    """Answers the frames that are about a job's outputs.

    Parameters
    ----------
    later
        The tools of jobs that follow, whose outputs may be written here, too.
    """

    def __init__(
        self,
        channel: Channel,
        tool_class: type[Tool],
        restored: RestoredTools,
        unchanged: Unchanged,
        later: LaterTools,
        printed: Printed | None = None,
    ) -> None:
        self._printed = printed or Printed(is_wanted=False)
        self._channel = channel
        self._tool_class = tool_class
        self._later = later
        self._restored = restored
        self._unchanged = unchanged
        self._folders = StagingFolders()
        self._early = EarlyResults()
        #: A frame that waits, and its job.
        self._next: tuple[Frame, Job] | None = None

    def results(self, frame: Frame) -> None:
        """Take the next of a large job's results in, which is written after that."""
        self._early.take(frame)

    def write(self, frame: Frame) -> None:
        """Have a job's outputs written, and say how that went."""
        job = self._job_of(frame)
        ident = frame.meta["job"]
        started_s = time.perf_counter()
        try:
            os.chdir(frame.meta["cwd"])
            is_apart = frame.meta["prints_apart"]
            with job_log(job, frame.meta.get("log_text", ""), is_apart=is_apart):
                hashes = self._write_outputs(job, frame)
        except Exception as error:
            self._folders.clear()
            self._printed.tell(self._channel, "write", ident)
            self._channel.send({"type": "write_failed", "job": ident, "error": tell_error(error)})
            return
        # Once this job is reported, others may look into its directories.
        self._folders.clear(keep=self._next_places())
        seconds = time.perf_counter() - started_s
        self._printed.tell(self._channel, "write", ident)
        answer = {"type": "written", "job": ident, "seconds": seconds, "outputs": hashes}
        self._channel.send(answer)

    def _job_of(self, frame: Frame) -> Job:
        waited, self._next = self._next, None  # not held any longer than needed: it may be large
        job: Job = waited[1] if waited and waited[0] is frame else load_payload(frame.blobs[0])
        return job

    def _next_places(self) -> set[str]:
        """Return the directories that outputs are written to next, if that is known already."""
        frame = self._channel.waiting()
        if frame is None or not (frame.type == "write" or is_to_write(frame)):
            return set()
        with contextlib.suppress(Exception):  # met again, and reported, when it is its turn
            self._next = frame, load_payload(frame.blobs[0])
            places = (os.path.join(frame.meta["cwd"], path) for path in self._next[1].output)
            return {os.path.dirname(os.path.normpath(place)) for place in places}
        return set()

    def _write_outputs(self, job: Job, frame: Frame) -> list[str]:
        """Have the tool write a job's outputs; return their hashes, if they are wanted."""
        if latency_of(frame):
            for error in wait_for_blobs(frame.blobs, latency_of(frame)).values():
                raise error
        names, results = self._early.of(frame.meta["job"], frame.meta["settled"])
        blobs, order = frame.blobs[1:], frame.meta["order"]
        results += load_places(blobs, range(len(blobs)) if order is None else order)
        names += frame.meta["names"]
        return self._have_written(self._tool_class, job, frame, names, results)

    def _have_written(
        self,
        tool_class: type[Tool],
        job: Job,
        frame: Frame,
        names: list[str],
        results: list[Any],
    ) -> list[str]:
        tool = self._restored.for_job(tool_class, job)
        sources = {job.output[number]: source for number, source in frame.meta["updates"]}
        declared = frame.meta["directories"]
        directories = None if declared is None else frozenset(declared)
        expected = Expected(type(tool).__name__, frozenset(frame.meta["touched"]), directories)
        with staged_outputs(job.output, sources.get, expected, self._folders) as staged:
            tool.write(job.replace(output=staged, params=tool.params, item_names=names), results)
            self._unchanged.require()
            self._unchanged.reads.require_none_in(".")
            return hashes_of(staged) if frame.meta["hashes"] else []

    def publish(self, frame: Frame) -> None:
        """Put outputs in place that a chain has staged, or computed, if they are this job's."""
        started_s = time.perf_counter()
        ident = frame.meta["job"]
        hashes: dict[str, Any] | None = None
        with contextlib.suppress(Exception):  # serving the job by itself reports the error
            os.chdir(frame.meta["cwd"])
            self._unchanged.reads.require()
            self._unchanged.reads.require_none_in(".")
            job = self._job_of(frame)
            tool_class = self._class_of(frame)
            if is_as_described(tool_class, job, frame):
                act = self._write_computed if is_to_write(frame) else self._move_staged
                hashes = act(tool_class, job, frame)
        if is_to_write(frame):
            self._folders.clear(keep=self._next_places() if hashes is not None else ())
            self._printed.tell(self._channel, "write", ident)
        if hashes is None:
            self._channel.send({"type": "unpublished", "job": ident})
            return
        seconds = time.perf_counter() - started_s
        self._channel.send({"type": "published", "job": ident, "seconds": seconds, **hashes})

    def _class_of(self, frame: Frame) -> type[Tool]:
        """Return the tool of the job that a frame is about."""
        spec, stamp = frame.meta["tool"], frame.meta["stamp"]
        return self._later.of(spec, stamp) if spec else self._tool_class

    @staticmethod
    def _move_staged(_: type[Tool], job: Job, frame: Frame) -> dict[str, Any] | None:
        """Move outputs that a chain has staged into place; return hashes, None if it cannot be."""
        # Most processes never need it.
        from snakemake_executor_gpupool.worker.staging import hashes_read, publish

        digests = frame.meta["digests"][:-2]
        outputs, touched = frame.meta["outputs"], frame.meta["touched"]
        awaited = [path for number, path in enumerate(outputs) if number not in touched]
        wait_for_files([*awaited, *job.input], latency_of(frame))
        has_hashes = frame.meta["hashes"]
        found = hashes_of(outputs if has_hashes else ())
        if not publish(job, digests, outputs, frame.meta["logs"], touched):
            return None
        return {"outputs": found, "inputs": hashes_read(job.input, digests) if has_hashes else []}

    def _write_computed(
        self, tool_class: type[Tool], job: Job, frame: Frame
    ) -> dict[str, Any] | None:
        """Have outputs written that a chain has computed; return hashes, None if it cannot be."""
        from snakemake_executor_gpupool.worker.staging import (
            are_inputs,
            hashes_read,
            logs_put_back,
            move_logs,
        )

        wait_s, meta, inputs = latency_of(frame), frame.meta, frame.meta["digests"][:-2]
        wait_for_files(job.input, wait_s)
        if (wait_s and wait_for_blobs(frame.blobs, wait_s)) or not are_inputs(job, inputs):
            return None
        results = load_places(frame.blobs[1:], meta["order"])
        with logs_put_back(job):
            move_logs(job, meta["logs"])
            with job_log(job, meta["log_text"], is_apart=meta["prints_apart"]):
                outputs = self._have_written(tool_class, job, frame, meta["names"], results)
        hashes = hashes_read(job.input, inputs) if meta["hashes"] else []
        return {"outputs": outputs, "inputs": hashes}


def is_as_described(tool_class: type[Tool], job: Job, frame: Frame) -> bool:
    """Return whether a job's model and params are still what they were before it was there.

    They include the content of files that its params name, which may have changed meanwhile.
    """
    tool = for_files(tool_class, job.params)
    described, (*_, named, group) = describe_model(tool, job.output), frame.meta["digests"]
    if (described["model"], described["group"]) != (frame.meta["model"], group):
        return False
    return bool(params_digest(job.params, job.output) == named)


def is_to_write(frame: Frame) -> bool:
    """Return whether a job's outputs are to be published that are not written yet."""
    return frame.type == "publish" and frame.meta["order"] is not None
