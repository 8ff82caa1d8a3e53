"""What the package imports is what it declares, and in the extra of the part that imports it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.package_source import PACKAGE, files, nodes

ROOT = Path(__file__).resolve().parents[2]
OWN = PACKAGE.name
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Distributions whose module has another name.
DISTRIBUTIONS = {"esm": "fair-esm", "pynvml": "nvidia-ml-py"}
#: A plugin is installed beside Snakemake and must not choose its version.
HOST_PROGRAM = "snakemake"
#: Imported only where a job's own results are of these kinds, so that they are there.
WHERE_USED = {
    "frontends/commandline/check/compare.py": {"numpy"},
    "worker/cold.py": {"torch"},
    "worker/differences.py": {"numpy", "pyarrow"},
}
#: Functions whose first argument is the name of a module to import.
IMPORTER = re.compile(r"\b(import_module|library)$")
#: Extras that add something to any tool.
ADD_ONS = ("parquet", "nf4", "head-formats")


def normalized(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return name[0].lower().replace("_", "-")


def declared(*extras: str) -> set[str]:
    wanted = list(PROJECT["dependencies"])
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    return {normalized(requirement) for requirement in wanted}


def imported_names(path: Path) -> Iterator[str]:
    """Yield each module that a file imports, by a statement or by a constant name."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and IMPORTER.search(ast.unparse(node.func)):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def third_party(path: Path) -> set[str]:
    """Return the distributions that a file needs."""
    modules = {name.partition(".")[0] for name in imported_names(path)}
    modules -= {*sys.stdlib_module_names, OWN, HOST_PROGRAM}
    modules -= WHERE_USED.get(path.relative_to(PACKAGE).as_posix(), set())
    return {normalized(DISTRIBUTIONS.get(module, module)) for module in modules}


def in_tools(path: Path) -> set[Path]:
    """Return a tool's module and all modules of ``tools`` that it reaches."""
    reached, waiting = {path}, [path]
    while waiting:
        for name in imported_names(waiting.pop()):
            place = (ROOT / name.replace(".", "/")).with_suffix(".py")
            if place.parent == PACKAGE / "tools" and place.exists() and place not in reached:
                reached.add(place)
                waiting.append(place)
    return reached


def test_what_the_package_imports_is_declared() -> None:
    cluster = PACKAGE / "hosts/cluster"
    for path in files():
        if path.parent == PACKAGE / "tools":
            continue
        needs_dask = cluster in path.parents or path.name == "cluster.py"
        extras = ["cluster"] if needs_dask else []
        extras += ["crate"] if path.name == "crate_entities.py" else []
        have = declared(*extras)
        assert third_party(path) <= have, f"{path}: {third_party(path) - have} is not declared"
    assert "psutil" in third_party(PACKAGE / "frontends/snakemake/local_jobs.py")
    assert "nvidia-ml-py" in third_party(PACKAGE / "devices/kinds/cuda.py")


TOOLS = PROJECT["entry-points"]["snakemake_executor_gpupool.tools"]
EXTRAS = {
    "esm2-embed": "esm",
    "esmfold": "esmfold",
    "linear-head": "head",
    "sentence-embed": "sentence",
}


def module_of(tool: str) -> Path:
    name = TOOLS[tool].partition(":")[0]
    return (ROOT / name.replace(".", "/")).with_suffix(".py")


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_what_a_tool_imports_is_in_its_extra(name: str) -> None:
    have = declared(EXTRAS[name], *ADD_ONS)
    for path in in_tools(module_of(name)):
        assert third_party(path) <= have, f"{path}: {third_party(path) - have} is not declared"


def test_every_file_of_the_tools_belongs_to_one() -> None:
    modules = [
        (ROOT / t.partition(":")[0].replace(".", "/")).with_suffix(".py") for t in TOOLS.values()
    ]
    reached = set().union(*map(in_tools, modules))
    left = {path.name for path in (PACKAGE / "tools").glob("*.py")} - {p.name for p in reached}
    assert left <= {"__init__.py", "functions.py"}
