"""The package's own files, each read and parsed once for all tests that look into them."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import snakemake_executor_gpupool

PACKAGE = Path(snakemake_executor_gpupool.__file__).resolve().parent


@functools.cache
def files() -> tuple[Path, ...]:
    """Return every Python file below the package."""
    return tuple(PACKAGE.rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return what a file is parsed into; whoever gets it leaves it as it is."""
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file, in the order of ``ast.walk``."""
    return tuple(ast.walk(tree(path)))
