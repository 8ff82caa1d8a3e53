"""The Snakemake side: the only part, with ``settings``, that knows Snakemake."""

from snakemake_executor_gpupool.executor.adapter import Executor, common_settings

__all__ = ["Executor", "common_settings"]
