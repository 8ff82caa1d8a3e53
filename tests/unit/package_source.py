"""The package's own files, read and parsed once for all tests that look into them."""

from __future__ import annotations

import ast
import functools
import gc
from collections.abc import Mapping
from pathlib import Path

import snakemake_executor_gpupool

PACKAGE = Path(snakemake_executor_gpupool.__file__).resolve().parent


def files() -> tuple[Path, ...]:
    """Return every Python file below the package."""
    return tuple(_parsed())


def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file, in the order of ``ast.walk``; they are others' as well."""
    return _parsed()[path]


@functools.cache
def _parsed() -> Mapping[Path, tuple[ast.AST, ...]]:
    """Half a million objects that stay: later collections of garbage pass over them."""
    gc.collect()
    gc.disable()
    try:
        return {
            path: tuple(ast.walk(ast.parse(path.read_text()))) for path in PACKAGE.rglob("*.py")
        }
    finally:
        gc.freeze()
        gc.enable()
