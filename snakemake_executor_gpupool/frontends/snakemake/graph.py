"""The graph that ``snakemake`` would work on with some arguments, as plain values.

Snakemake's own command line is parsed by Snakemake, and its settings are made from it as
``snakemake`` makes them: what is replaced is the one call that would run the workflow. Nothing is
run, nothing is locked, and no file is left in the workflow's directory.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from snakemake_executor_gpupool.errors import ConfigError, GpupoolError
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph

#: Options that make ``snakemake`` do something else than run a workflow.
OTHER_TASKS = {
    "lint": "--lint",
    "list_rules": "--list-rules",
    "list_target_rules": "--list-target-rules",
    "print_compilation": "--print-compilation",
    "containerize": "--containerize",
    "report": "--report",
    "reporter": "--reporter",
    "generate_unit_tests": "--generate-unit-tests",
    "dag": "--dag",
    "rulegraph": "--rulegraph",
    "filegraph": "--filegraph",
    "d3dag": "--d3dag",
    "unlock": "--unlock",
    "cleanup_metadata": "--cleanup-metadata",
    "conda_cleanup_envs": "--conda-cleanup-envs",
    "conda_create_envs_only": "--conda-create-envs-only",
    "list_conda_envs": "--list-conda-envs",
    "cleanup_shadow": "--cleanup-shadow",
    "container_cleanup_images": "--container-cleanup-images",
    "list_changes": "--list-changes",
    "list_input_changes": "--list-input-changes",
    "list_params_changes": "--list-params-changes",
    "list_untracked": "--list-untracked",
    "summary": "--summary",
    "detailed_summary": "--detailed-summary",
    "archive": "--archive",
    "delete_all_output": "--delete-all-output",
    "delete_temp_output": "--delete-temp-output",
    "touch": "--touch",
    "deploy_sources": "--deploy-sources",
}
EXECUTOR = "gpupool"


def read_graph(arguments: Sequence[str], plain: Callable[[Any, Any], Graph]) -> Graph:
    """Return what ``snakemake`` would do with these arguments.

    Parameters
    ----------
    arguments
        As ``snakemake`` takes them.
    plain
        Turns Snakemake's workflow, whose graph is there, and the executor's settings into values.

    Raises
    ------
    ConfigError
        Snakemake does not accept the arguments or the workflow; the message says why.
    """
    from snakemake.api import DAGApi, SnakemakeApi
    from snakemake.cli import args_to_api
    from snakemake.logging import LoggerManager

    parser, options = _parsed(arguments)
    graphs: list[Graph] = []

    def execute_workflow(api: Any, **settings: Any) -> None:
        with _unchanged_directory():
            workflow = _built(api, settings)
            graphs.append(plain(workflow, settings["executor_settings"]))

    def fail(api: Any, error: BaseException) -> None:
        raise error

    with (
        _kept_process(),
        mock.patch.object(DAGApi, "execute_workflow", execute_workflow),
        mock.patch.object(SnakemakeApi, "print_exception", fail),
        mock.patch.object(LoggerManager, "setup_logfile", lambda self, workdir=None: None),
    ):
        try:
            args_to_api(options, parser)
        except GpupoolError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"snakemake cannot plan this: {said(error)}") from error
    if not graphs:
        raise ConfigError("these arguments of snakemake do not run a workflow")
    return graphs[0]


def _parsed(arguments: Sequence[str]) -> tuple[Any, Any]:
    """Return Snakemake's parser and its options, changed so that nothing is run.

    Raises
    ------
    ConfigError
        Snakemake does not know an argument, or it would do something else than run a workflow.
    """
    from snakemake.cli import parse_args
    from snakemake.settings.types import Quietness

    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            parser, options = parse_args(list(arguments))
    except (Exception, SystemExit) as error:
        last = words.getvalue().strip().splitlines()
        why = last[-1] if isinstance(error, SystemExit) and last else said(error)
        raise ConfigError(f"snakemake does not take these arguments: {why}") from error
    for name, option in OTHER_TASKS.items():
        if getattr(options, name, None):
            raise ConfigError(f"{option} does not run the workflow: there is nothing to plan")
    if options.executor not in (None, EXECUTOR):
        raise ConfigError(
            f"--executor {options.executor} is not gpupool: leave it out, or say --executor gpupool"
        )
    options.executor = EXECUTOR
    # As a run has it: a dry run would have one core, and scale threads down to it.
    options.dryrun, options.quiet = False, {Quietness.ALL}
    options.jobs = options.jobs or sys.maxsize
    options.logger = []
    options.gpupool_early_start = "off"  # nothing runs that could take the processes over
    return parser, options


@contextlib.contextmanager
def _kept_process() -> Iterator[None]:
    """Restore what Snakemake and a Snakefile change of this process."""
    import logging

    logger = logging.getLogger("snakemake.logging")
    kept = list(sys.path), Path.cwd(), list(logger.handlers), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], directory, logger.handlers, sys.dont_write_bytecode = kept
        os.chdir(directory)


@contextlib.contextmanager
def _unchanged_directory() -> Iterator[None]:
    """Keep Snakemake from making its directory where there is none, and files in it."""
    from snakemake import workflow as snakemakes
    from snakemake.persistence import PersistenceBase

    def nothing(self: Any) -> None:
        """Neither save nor drop the inventory of files."""

    kept = [Path(".snakemake", name).is_dir() for name in ("metadata", "incomplete")]
    with tempfile.TemporaryDirectory(prefix="gpupool-plan-") as directory:
        elsewhere = None if all(kept) else Path(directory)

        class Persistence(snakemakes.FilePersistence):
            """Snakemake's records, read only."""

            def __init__(self, **options: Any) -> None:
                makes = contextlib.nullcontext() if elsewhere else mock.patch("os.makedirs")
                with makes:  # those of its directories that are not there are empty
                    super().__init__(**{**options, "nolock": True, "path": elsewhere})

        with (
            mock.patch.object(snakemakes, "FilePersistence", Persistence),
            mock.patch.object(PersistenceBase, "save_iocache", nothing),
            mock.patch.object(PersistenceBase, "drop_iocache", nothing),
        ):
            yield


def _built(api: Any, settings: dict[str, Any]) -> Any:
    """Return the workflow with its graph, as ``DAGApi.execute_workflow`` gets it.

    That method goes on to lock the directory and to run the jobs, so its first half is here.
    """
    from snakemake.resources import Resources
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    workflow_api, workflow = api.workflow_api, api.workflow_api._workflow
    plugin = ExecutorPluginRegistry().get_plugin(EXECUTOR)
    plugin.validate_settings(settings["executor_settings"])
    if workflow_api.resource_settings.default_resources is None:
        workflow_api.resource_settings.default_resources = Resources.default("full")
    workflow.execution_settings = settings["execution_settings"]
    workflow.execution_settings.use_threads = True
    workflow.remote_execution_settings = settings["remote_execution_settings"]
    workflow.scheduling_settings = settings["scheduling_settings"]
    workflow.group_settings = settings["group_settings"]
    workflow._executor_plugin = plugin
    workflow.executor_settings = settings["executor_settings"]
    workflow._prepare_dag(
        forceall=workflow.dag_settings.forceall,
        ignore_incomplete=workflow.execution_settings.ignore_incomplete,
        lock_warn_only=True,
        nolock=True,
        shadow_prefix=workflow.execution_settings.shadow_prefix,
    )
    workflow._build_dag()
    workflow.async_run(workflow.dag.postprocess(update_needrun=False, check_initial=True))
    return workflow


def said(error: BaseException) -> str:
    """Return what an error of Snakemake's says, as one line."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if kind == "MissingInputException":
        files = ", ".join(str(error).rpartition("affected files:")[2].split())
        return f"{files} is missing, and no rule makes it"
    return text if text and kind.endswith("Exception") else f"{kind}: {text}"
