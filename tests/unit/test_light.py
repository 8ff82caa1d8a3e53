"""Importing the plugin is cheap, and the parts import only what they may (S2, design rule 1)."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.job_words import OF_MODE
from snakemake_executor_gpupool.tool_api.mode import Mode
from tests.unit.package_source import PACKAGE, files, nodes

CHECKS = PACKAGE / "frontends" / "commandline" / "check"
#: What reads a run that is over: needed when it ends, or by other commands.
READERS = tuple(f"snakemake_executor_gpupool.records.{n}" for n in ("report", "runs.reader"))
HEAVY = {"torch", "pandas", "numpy", "pynvml", "pyarrow", "esm", "transformers", "asyncio.events"}
#: Modules that worker processes import before the tool's own code runs.
WORKER_SIDE = [
    "__init__.py",
    "errors.py",
    *(f"tool_api/{path.name}" for path in (PACKAGE / "tool_api").glob("*.py")),
    *(f"worker/{path.name}" for path in (PACKAGE / "worker").glob("*.py")),
    "wire/__init__.py",
    "wire/bounds.py",
    "wire/frames.py",
    "wire/kept.py",
    "wire/kept_files.py",
    "wire/payload.py",
    "wire/spool.py",
]
#: Whose process is a caller's own, not the coordinator: they read the results that they asked for.
CALLERS = [
    "frontends/python/pool.py",
    *(f"frontends/commandline/check/{path.name}" for path in CHECKS.glob("*.py")),
]
UNPICKLERS = {
    *("marshal", "shelve", "dill", "cloudpickle", "joblib", "multiprocessing.connection"),
    *("copyreg", "pandas", "numpy", "torch"),
    "snakemake_executor_gpupool.wire.payload",
}


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module))
    return names


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, snakemake_executor_plugin_gpupool; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & (HEAVY - {"asyncio.events"})
    assert not any(name.startswith("snakemake.") for name in loaded)
    assert not any(name.startswith((*READERS, "rich")) for name in loaded)


#: Each would be a tenth, or more, of what a client of a server takes.
TOO_MUCH_FOR_A_CLIENT = HEAVY | {
    *("pathlib", "dataclasses", "inspect", "shutil", "subprocess", "asyncio", "urllib.parse"),
    *("psutil", "ast", "logging", "tempfile", "snakemake"),
}


def test_a_client_of_a_server_imports_next_to_nothing(tmp_path: Path) -> None:  # G3
    (tmp_path / "in").touch()
    words = ["run", "tool.py", "-i", "in", "-o", "out", "--server", str(tmp_path / "none")]
    code = "import sys; sys.argv[1:] = WORDS\n"
    code += "from snakemake_executor_gpupool.frontends.commandline.main import main\n"
    code += "code = main(); print(code, *sys.modules)"
    command = [sys.executable, "-S", "-c", code.replace("WORDS", repr(words))]
    path = {"PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=path, cwd=tmp_path
    )
    assert "there is none" in done.stderr
    exit_code, *loaded = done.stdout.split()
    assert exit_code == "2" and not set(loaded) & TOO_MUCH_FOR_A_CLIENT


def test_what_says_how_to_compute_has_the_names_that_clients_look_for() -> None:
    assert set(Mode().variables()) == set(OF_MODE)


@pytest.mark.parametrize("name", WORKER_SIDE)
def test_the_worker_side_needs_only_the_standard_library(name: str) -> None:
    ours = {"snakemake_executor_gpupool", "__future__"}
    for module in imported(PACKAGE / name):
        top = module.partition(".")[0]
        assert top in ours or top in sys.stdlib_module_names, f"{name} imports {module}"


@pytest.mark.parametrize("name", WORKER_SIDE)
def test_the_worker_side_is_valid_python_39(name: str) -> None:
    ast.parse((PACKAGE / name).read_text(), feature_version=(3, 9))


def test_the_coordinator_cannot_unpickle() -> None:  # W1
    """What workers send stays bytes: pickle is there to write with, and nothing else reads it."""
    of_workers = {PACKAGE / name for name in WORKER_SIDE} | set((PACKAGE / "tools").rglob("*.py"))
    coordinator = set(files()) - of_workers - {PACKAGE / name for name in CALLERS}
    assert PACKAGE / "runtime/pool.py" in coordinator
    assert PACKAGE / "records/result_store.py" in coordinator
    for path in coordinator:
        assert not imported(path) & UNPICKLERS, path
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "pickle" or node.attr == "dumps", path
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in ("pickle", "_pickle"), path


def test_only_the_snakemake_frontend_imports_snakemake() -> None:
    for path in files():
        knows_snakemake = any(
            module.partition(".")[0].startswith("snakemake")
            and not module.startswith("snakemake_executor_gpupool")
            for module in imported(path)
        )
        if knows_snakemake:
            assert path.parent == PACKAGE / "frontends" / "snakemake", path


def test_the_public_names() -> None:
    import snakemake_executor_gpupool as package

    errors = {"GpupoolError", "InputError", "JobFailed", "PoolEnded"}
    classes = {"DeviceManager", "Job", "OffloadStrategy", "Tolerance", "Tool", "ToolPool"}
    assert package.__all__ == [*sorted(errors | classes), "tool_function"]
    for name in package.__all__:
        assert getattr(package, name).__name__ == name


def test_the_version_is_said_alike_in_both_places() -> None:
    import snakemake_executor_gpupool as package

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert package.__version__ == project["version"]
