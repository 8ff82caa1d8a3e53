"""The tree of errors is drawn as it is, and each error is defined where it is seen."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

from snakemake_executor_gpupool import errors
from snakemake_executor_gpupool.errors import JobFailed
from tests.unit.package_source import PACKAGE, files, nodes

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


def error_classes() -> dict[str, Path]:
    """Return every class of an exception below the package, with the file that defines it."""
    classes = [
        (node.name, path, [ast.unparse(base).rpartition(".")[2] for base in node.bases])
        for path in files()
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
    ]
    found: dict[str, Path] = {}
    known = {*defined(), "Exception"}
    while True:
        fresh = {
            name: path
            for name, path, bases in classes
            if name not in found and any(base in known or base.endswith("Error") for base in bases)
        }
        if not fresh:
            return found
        found |= fresh
        known |= set(fresh)


def room_of(path: Path) -> str:
    """Return the room of a file; each frontend is one of its own."""
    parts = path.relative_to(PACKAGE).parts[:-1]
    return "/".join(parts[:2] if parts[:1] == ("frontends",) else parts[:1])


def names_imported_by(path: Path) -> set[str]:
    imports = (node for node in nodes(path) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imports for alias in node.names}


def test_an_error_that_another_room_sees_stands_in_the_tree() -> None:
    classes = error_classes()
    elsewhere = {name: path for name, path in classes.items() if path.name != "errors.py"}
    assert elsewhere["LinkBroken"] == PACKAGE / "hosts/cluster/link.py"
    imported = {path: names_imported_by(path) for path in files()}
    for name, home in elsewhere.items():
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
