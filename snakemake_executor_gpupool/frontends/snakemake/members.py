"""A child Snakemake whose jobs run at the same time, each with devices of its own.

``python -m snakemake_executor_gpupool.frontends.snakemake.members -m snakemake ARGUMENTS`` does
what ``python -m snakemake ARGUMENTS`` does, but processes that a job starts see the devices that
``GPUPOOL_MEMBERS`` gives to that job. Snakemake runs such jobs on threads of one process, with
one environment for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import types
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.bundles import MEMBERS_VARIABLE, identity

_current = threading.local()


def start_process(command: Any, *, env: Any = None, **options: Any) -> subprocess.Popen[Any]:
    """Start a process, as ``Popen`` does, with the environment of the job on this thread."""
    own = getattr(_current, "environment", {})
    environment = {**(os.environ if env is None else env), **own}
    process: subprocess.Popen[Any] = subprocess.Popen(command, env=environment, **options)
    return process


def environments() -> dict[tuple[str, str], dict[str, str]]:
    """Return the environment of each job, and remove the variable that holds them."""
    members = json.loads(os.environ.pop(MEMBERS_VARIABLE, "[]"))
    return {identity(job["rule"], job["wildcards"]): job["environment"] for job in members}


def give_each_its_own(of_jobs: dict[tuple[str, str], dict[str, str]]) -> None:
    """Make Snakemake's local executor start each job's processes with the job's environment."""
    # The package also has a class of that name.
    from importlib import import_module

    from snakemake.exceptions import SpawnedJobError
    from snakemake.executors.local import Executor

    shell: Any = import_module("snakemake.shell")
    shell.sp = types.SimpleNamespace(**vars(subprocess))
    shell.sp.Popen = start_process
    run = Executor.cached_or_run

    def cached_or_run(self: Any, job: Any, run_func: Any, *args: Any) -> None:
        _current.environment = of_jobs.get(identity(job.rule.name, job.wildcards_dict), {})
        try:
            run(self, job, run_func, *args)
        finally:
            _current.environment = {}

    def spawn_job(self: Any, job: Any) -> None:
        command = self.format_job_exec(job)
        if start_process(["bash", "-c", command]).wait() != 0:
            raise SpawnedJobError

    Executor.cached_or_run = cached_or_run
    Executor.spawn_job = spawn_job


def main() -> None:
    """Run Snakemake."""
    arguments = sys.argv[1:]
    if arguments[:2] == ["-m", "snakemake"]:
        arguments = arguments[2:]
    sys.argv = ["snakemake", *arguments]
    give_each_its_own(environments())
    from snakemake.cli import main as snakemake

    snakemake()


if __name__ == "__main__":
    main()
