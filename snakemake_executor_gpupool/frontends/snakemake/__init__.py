"""The Snakemake side: the only part, with ``settings``, that knows Snakemake."""

from snakemake_executor_gpupool.frontends.snakemake.executor import Executor, common_settings

__all__ = ["Executor", "common_settings"]
