"""The Snakemake frontend: the only part of gpupool that imports Snakemake."""

from snakemake_executor_gpupool.frontends.snakemake.early import begin_at_import

begin_at_import()  # while all else is imported
from snakemake_executor_gpupool.frontends.snakemake.executor import (  # noqa: E402
    Executor,
    common_settings,
)

__all__ = ["Executor", "common_settings"]
