"""What Snakemake does less of for each job, all of it; what it does stays the same."""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.job_records import write_new_ones_at_once
from snakemake_executor_gpupool.frontends.snakemake.log_lines import word_once
from snakemake_executor_gpupool.frontends.snakemake.recorded_params import import_no_pandas
from snakemake_executor_gpupool.frontends.snakemake.rule_resources import evaluate_once


def do_once_what_is_the_same(workflow: Any, logger: Any) -> None:
    """Have this in place before the first job is ready; once is enough for a workflow."""
    evaluate_once(workflow)
    word_once(logger)
    write_new_ones_at_once(workflow.persistence)
    import_no_pandas(workflow.persistence)
