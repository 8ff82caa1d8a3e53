"""How a job's failure is reported: in Snakemake's log, and in the job's own.

Snakemake logs "command exited with non-zero exit code" for every failed job that has a
``shell:``, and not which member of a group failed. These are the same records with the cause.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_executor_gpupool.frontends.snakemake.log_plugins import (
    tell_ended_with_group,
    tell_error,
)
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.requests import JobReport

#: Key in a report's details: the job's own command failed, and has printed why.
COMMAND_FAILED = "command_failed"
#: Key in a group's details: the report of each member that failed.
MEMBERS = "members"


def words_of(failure: BaseException) -> str:
    """Return what ended a job, in a few lines."""
    return printable(str(failure).strip() or type(failure).__name__)


def is_of_command(failure: BaseException) -> bool:
    """Return whether a job's own command failed, rather than a step before it."""
    from snakemake.exceptions import SpawnedJobError

    seen: set[int] = set()
    error: BaseException | None = failure
    while error is not None and id(error) not in seen:
        if isinstance(error, (subprocess.CalledProcessError, SpawnedJobError)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def tell_failure(job: Any, report: JobReport, logger: Any) -> None:
    """Log the failure of a job, or of a group and its failed members."""
    message = printable(report.error)
    if not job.is_group():
        has_failed = bool(report.details.get(COMMAND_FAILED))
        if not has_failed:
            note_in_log(job, message)
        tell_of_job(job, None if has_failed else message, logger, ran=has_failed)
        return
    errors: Mapping[Any, JobReport] = report.details.get(MEMBERS, {})  # type: ignore[assignment]
    tell_of_group(job, message, logger)
    for member, one in errors.items():
        ran = bool(one.details.get(COMMAND_FAILED))
        tell_of_job(member, printable(one.error), logger, ran=ran, indent=True)
    for member in job.jobs:
        if member in errors:
            note_in_log(member, printable(errors[member].error))
        else:
            with_group = f"its group has failed, and its outputs with it: {message}"
            note_in_log(member, with_group)
            tell_ended_with_group(logger, member, with_group)


def tell_of_job(
    job: Any, message: str | None, logger: Any, *, ran: bool, indent: bool = False
) -> None:
    """Write Snakemake's record of a failed job; ``ran``: its own command failed."""
    record = job.get_log_error_info(message, indent)
    if not ran:
        record["shellcmd"] = None
        if message:
            tell_error(logger, "JobFailed", message, job.rule.name)
    logger.error(f"Error in rule {job.rule.name}, jobid: {job.jobid}", extra=record)


def tell_of_group(group: Any, message: str, logger: Any) -> None:
    """Write Snakemake's record of a failed group, with the reason."""
    members = [member.get_log_error_info(indent=True) for member in group.jobs]
    record = {
        "event": LogEvent.GROUP_ERROR,
        "groupid": group.groupid,
        "aux_logs": [],
        "job_error_info": members,
    }
    logger.error(f"Error in group {group.groupid}: {message}", extra=record)


def of_members(jobs: Iterable[Any], report: JobReport) -> dict[Any, JobReport]:
    """Return the report of each job of a group that failed."""
    return dict.fromkeys(jobs, report)


def note_in_log(job: Any, message: str) -> None:
    """Append an error to the job's own log, if it has one that can be written."""
    if job.is_group() or not job.log or not message:
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK  # a pipe is not waited for
        with open(os.open(job.log[0], flags, 0o666), "ab") as log:  # noqa: PTH123
            log.write(f"gpupool: {printable(message)}\n".encode())
    except (OSError, ValueError):
        # The error is reported to Snakemake in any case.
        return
