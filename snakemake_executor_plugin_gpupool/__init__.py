"""Where Snakemake finds the executor: it looks for packages of this prefix.

The product itself is :mod:`snakemake_executor_gpupool`.
"""

from snakemake_executor_gpupool.frontends.snakemake import Executor, common_settings
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
