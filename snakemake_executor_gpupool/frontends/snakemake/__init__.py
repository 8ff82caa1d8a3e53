"""The Snakemake frontend: the only part of gpupool that imports Snakemake."""

from snakemake_executor_gpupool.frontends.snakemake.executor import Executor, common_settings

__all__ = ["Executor", "common_settings"]
