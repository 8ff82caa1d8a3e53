"""An executor that creates each job's outputs, empty, and does nothing else.

What it takes is Snakemake's own: parsing, the DAG, scheduling, bookkeeping. No
executor that obeys the interface can be faster.
"""

import json
import time
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
)


#: In the run's directory: when the first job came, when the last one was done, when Snakemake had
#: looked after that as well, and the processor seconds of its thread from the first to then.
TIMES = Path("touchfloor.json")


def touch(job) -> None:
    """Create what a job has to leave."""
    for path in (*job.output, *filter(None, [job.benchmark])):
        Path(path).touch()


class Executor(RealExecutor):
    """Touch outputs where real executors work."""

    first_s = last_s = own_s = 0.0

    def run_jobs(self, jobs) -> None:
        """Create the outputs of all jobs that are ready and report success at once."""
        if not self.first_s:
            self.first_s, self.own_s = time.time(), -time.thread_time()
        self.workflow.async_run(self._prepare(jobs))
        for job in jobs:
            self.run_job_pre(job)
            self.run_job(job)
        self.last_s = time.time()

    async def _prepare(self, jobs) -> None:
        for job in jobs:
            await job.prepare()

    def run_job(self, job) -> None:
        """Create the outputs of one prepared job."""
        info = SubmittedJobInfo(job)
        touch(job)
        self.report_job_submission(info)
        self.report_job_success(info)

    def cancel(self) -> None:
        """Nothing ever runs."""

    def shutdown(self) -> None:
        """Write down how long it took; nothing runs any more."""
        own_s = self.own_s + time.thread_time()
        TIMES.write_text(json.dumps([self.first_s, self.last_s, time.time(), own_s]))

    @property
    def cores(self) -> int:
        """Return the cores a job may use."""
        return self.workflow.resource_settings.cores

    def get_exec_mode(self) -> ExecMode:
        """Return the mode of a job's own Snakemake; there is none."""
        return ExecMode.REMOTE

    def get_python_executable(self) -> str:
        """Return the Python of a job's own Snakemake; there is none."""
        return "python"
