"""Snakemake's own test-suite for executor plugins (S8)."""

from __future__ import annotations

import pytest
import snakemake.common.tests
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings


@pytest.mark.filterwarnings("ignore")
class TestWorkflows(snakemake.common.tests.TestWorkflowsLocalStorageBase):
    """What every executor must be able to do: simple and grouped jobs."""

    __test__ = True

    def get_executor(self) -> str:
        return "gpupool"

    def get_executor_settings(self) -> ExecutorSettingsBase | None:
        return ExecutorSettings()
