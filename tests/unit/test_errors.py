"""The tree of errors is drawn as it is, and each error is defined where it is seen."""

from __future__ import annotations

import ast
import functools
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import snakemake_executor_gpupool
from snakemake_executor_gpupool import errors
from snakemake_executor_gpupool.errors import JobFailed

PACKAGE = Path(snakemake_executor_gpupool.__file__).parent
#: A branch of the drawing: how far it is indented, the class, other bases of Python's own.
BRANCH = re.compile(r"^ {4}(?P<indent>[ │├└─]*)(?P<name>\w+) +\S.*?(; also an? (?P<also>\w+))?$")


def drawn() -> dict[str, tuple[str, ...]]:
    """Return each class of the drawing with the names of its bases."""
    block = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    bases: dict[str, tuple[str, ...]] = {}
    above: list[str] = []
    for line in block.splitlines():
        match = BRANCH.match(line)
        assert match is not None, f"not understood: {line!r}"
        depth = len(match["indent"]) // 4
        name, also = match["name"], match["also"]
        parent = above[depth - 1 : depth] if depth else [] if also else ["Exception"]
        bases[name] = (*parent, *([also] if also else []))
        above[depth:] = [name]
    return bases


def defined() -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(base.__name__ for base in value.__bases__)
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def test_the_tree_is_drawn_as_it_is() -> None:
    assert drawn() == defined()
    assert len(drawn()) >= 16


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def error_classes() -> Iterator[tuple[str, Path]]:
    """Yield every class of an exception below the package, with the file that defines it."""
    found: dict[str, Path] = {}
    known = {*defined(), "Exception", "ValueError", "TypeError", "SpawnedJobError"}
    while True:
        fresh = {
            node.name: path
            for path, tree in trees().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name not in found
            if any(ast.unparse(base).rpartition(".")[2] in known for base in node.bases)
            or any(ast.unparse(base).endswith("Error") for base in node.bases)
        }
        if not fresh:
            return iter(found.items())  # type: ignore[return-value]
        found |= fresh
        known |= set(fresh)


def room_of(path: Path) -> str:
    """Return the room of a file; each frontend is one of its own."""
    parts = path.relative_to(PACKAGE).parts[:-1]
    return "/".join(parts[:2] if parts[:1] == ("frontends",) else parts[:1])


def names_imported_by(path: Path) -> set[str]:
    nodes = ast.walk(trees()[path])
    return {
        alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_an_error_that_another_room_sees_stands_in_the_tree() -> None:
    elsewhere = [(name, path) for name, path in error_classes() if path.name != "errors.py"]
    imported = {path: names_imported_by(path) for path in trees()}
    assert ("LinkBroken", PACKAGE / "hosts/cluster/link.py") in elsewhere
    imported = {
        path: {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for path, tree in trees().items()
    }
    for name, home in elsewhere:
        for path, names in imported.items():
            if room_of(path) != room_of(home):
                assert name not in names, f"{path} imports {name} of {home}"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_failed_job_stays_what_it_is_in_another_process(protocol: int) -> None:
    error = pickle.loads(pickle.dumps(JobFailed("item p1: too long", "esm2-embed"), protocol))
    assert (error.message, error.tool, str(error)) == (
        "item p1: too long",
        "esm2-embed",
        "item p1: too long",
    )
