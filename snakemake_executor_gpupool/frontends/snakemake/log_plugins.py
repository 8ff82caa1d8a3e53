"""What Snakemake's logger plugins (``--logger``) are told, beside what the terminal shows.

Snakemake logs that a job was started when it hands the job out, and an executor that takes all
ready jobs at once leaves them waiting. Its local executor logs the error of each job as a record
of its own, and the end of each member of a group. Plugins take durations, messages and states
from these records, so they get them here as well; in the terminal they would be said twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from logging.handlers import QueueHandler
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent


def tell_started(logger: Any, jobs: Iterable[Any]) -> None:
    """Tell that jobs have really started: they compute, or their process runs."""
    numbers = [job.jobid for job in jobs]
    if numbers:
        _tell(logger, logging.INFO, LogEvent.JOB_STARTED, "Started", jobs=numbers)


def tell_error(logger: Any, kind: str, message: str, rule: str | None = None) -> None:
    """Tell why a job has failed; ``kind`` names the error's class."""
    _tell(logger, logging.ERROR, LogEvent.ERROR, message, exception=kind, rule=rule)


def tell_ended_with_group(logger: Any, member: Any, message: str) -> None:
    """Tell that a member of a failed group has failed with it."""
    record = {**member.get_log_error_info(message, True), "shellcmd": None}
    record.pop("event", None)
    text = f"Error in rule {member.rule.name}, jobid: {member.jobid}"
    _tell(logger, logging.ERROR, LogEvent.JOB_ERROR, text, **record)


def _tell(logger: Any, level: int, event: LogEvent, message: str, **fields: Any) -> None:
    """Give the plugins a record; Snakemake feeds them all from a queue."""
    queues = [each for each in getattr(logger, "handlers", ()) if isinstance(each, QueueHandler)]
    if not queues:
        return
    extra = {"event": event, **fields}
    record = logger.makeRecord(logger.name, level, __file__, 0, message, (), None, extra=extra)
    for each in queues:
        each.handle(record)
