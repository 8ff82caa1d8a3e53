"""What kept results depend on beyond their key: found while they are computed, checked before use.

A key is made before anything is computed, so it holds what is named then: code that the source
imports, files that params and items name. What a tool turns out to read meanwhile is kept with its
results, as a list of

    [kind, name, ident]

``file``: a digest of its content; ``list``: of the names in a directory; ``variable``: of its
value; ``package``: a version. A result counts only where all of these are as they were.

A file has several names, all of which have to lead to the same content: the absolute one, and
those from the tool's directory and from the working directory. So a copy of a workflow that was
changed finds no results of the original. A process that a server has started in no job's directory,
as nothing there is of interest to its tool, has no name from there.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.code_digest import (
    OWN_PACKAGE,
    Code,
    code_of,
    is_below_installed,
)
from snakemake_executor_gpupool.worker.distributions import distribution_of
from snakemake_executor_gpupool.worker.named_files import (
    ITEM,
    MODEL,
    PASSED_OVER,
    RUN_PARAM,
    content_of,
    is_settled,
    roots_of,
)
from snakemake_executor_gpupool.worker.observed import FILE, Observer, Read, names_in, state_of

VARIABLE, PACKAGE = "variable", "package"
#: Tools that read more files than so many keep no results.
MAX_READS = 200
#: Which device and how many threads a job has says the coordinator, for each process anew.
_OF_PROCESS = ("CUDA_", "GPUPOOL_", "NVIDIA_", "SLURM_", "OMP_", "MKL_", "OPENBLAS_", "TMP", "TEMP")
_FROM_TOOL, _FROM_HERE = "tool:", "here:"


class Depends(NamedTuple):
    """What results depend on.

    Attributes
    ----------
    lines
        Each ``[kind, name, ident]``.
    why_not
        Why such results cannot be kept; empty: they can.
    has_read_items
        Whether files were read that items name.
    """

    lines: list[list[str]]
    why_not: str = ""
    has_read_items: bool = False

    def packed(self) -> bytes:
        """Return the lines as bytes; none if there are none."""
        return json.dumps(self.lines).encode() if self.lines else b""


def found(observer: Observer, reader: Tool, items: Callable[[], Sequence[Any]]) -> Depends:
    """Return what results of a batch depend on, as far as this process has read it.

    Parameters
    ----------
    observer
        Of this process. Reads that the key covers are forgotten.
    reader
        An object of the tool with the params of the batch, whose files the key covers.
    items
        Returns the items of the batch; their keys cover the files that they name.
    """
    kind: Any = type(reader)
    code = code_of(kind)
    observer.look_around()
    lines = [*_variables(code), *_packages(observer, code.distributions, len(sys.modules))]
    has_read_items = False
    reads = list(observer.reads)
    for read, is_of_item in covered(reads, observer, reader, code, items) if reads else ():
        del observer.reads[read]
        has_read_items |= is_of_item
    if len(observer.reads) > MAX_READS:
        many = f"{len(observer.reads)} files that neither params nor items name"
        return Depends([], f"it reads {many}, such as {next(iter(observer.reads)).path}")
    for read in observer.reads:
        if state_of(read) != observer.reads[read] or _is_unsettled(read):
            return Depends([], f"{read.path} has changed while it was in use, or just before")
        ident = ident_of(read.kind, read.path)
        names = names_of(read, _directory_of(kind), is_anywhere=observer.is_anywhere)
        lines += [[read.kind, name, ident] for name in names]
    return Depends(sorted(lines), "", has_read_items)


def holds(packed: bytes, tool_class: type) -> bool:
    """Return whether everything that results depend on is as it was."""
    directory = _directory_of(tool_class)
    return all(
        ident_of(kind, _resolved(name, directory)) == ident
        for kind, name, ident in json.loads(packed)
    )


def ident_of(kind: str, name: str) -> str:
    """Return what something is now; it differs if that has changed."""
    if kind == FILE:
        return content_of(name)
    if kind == VARIABLE:
        return _digest(repr(os.environ.get(name)))
    if kind == PACKAGE:
        return distribution_of(name)
    return names_in(name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


# -- what the key covers -----------------------------------------------------------
def covered(
    reads: Sequence[Read],
    observer: Observer,
    reader: Tool,
    code: Code,
    items: Callable[[], Sequence[Any]],
) -> list[tuple[Read, bool]]:
    """Return those reads whose content the key covers, and whether items name it."""
    named = roots_of([reader.model_params(), list(reader.extra_model_files())], MODEL)
    named += roots_of(reader.run_params(), RUN_PARAM)
    roots = {place for root in [*named, *code.trees] for place in _places(root)}
    files = {place: version for path, version in code.files.items() for place in _places(path)}
    left = []
    named_reads = []
    for read in reads:
        places = _places(read.path)
        is_named = any(_is_within(place, root) for place in places for root in roots)
        # Code that was changed between its import and the digest is not what the digest covers.
        if is_named or observer.reads[read] in [files.get(place, "") for place in places]:
            named_reads.append((read, False))
        else:
            left.append((read, places))
    if left and type(reader).key is Tool.key:
        of_items = {root for item in items() for root in roots_of(item, ITEM)}
        roots = {place for root in of_items for place in _places(root)}
        for read, places in left:
            if any(_is_within(place, root) for place in places for root in roots):
                named_reads.append((read, True))
    return named_reads


def _places(path: str) -> set[str]:
    return {os.path.abspath(path), os.path.realpath(path)}


def _is_within(path: str, root: str) -> bool:
    inner = path[len(root) :].split(os.sep)
    return path.startswith(root) and not inner[0] and not set(inner) & set(PASSED_OVER)


# -- names -------------------------------------------------------------------------
def _directory_of(tool_class: Any) -> str:
    path = getattr(sys.modules.get(tool_class.__module__), "__file__", None) or ""
    return os.path.dirname(os.path.abspath(path))


def names_of(read: Read, directory: str, *, is_anywhere: bool) -> Iterator[str]:
    """Yield all names of something that was read, by which it must lead to the same content.

    ``is_anywhere``: this process was started in a directory that is no job's.
    """
    if read.is_absolute:
        yield read.path
    yield _FROM_TOOL + os.path.relpath(read.path, directory)
    if not is_anywhere:
        yield _FROM_HERE + os.path.relpath(read.path)


def _resolved(name: str, directory: str) -> str:
    if name.startswith(_FROM_TOOL):
        return os.path.normpath(os.path.join(directory, name[len(_FROM_TOOL) :]))
    return name[len(_FROM_HERE) :] if name.startswith(_FROM_HERE) else name


def _is_unsettled(read: Read) -> bool:
    """Tell whether a file may have changed again since without a difference in its times."""
    try:
        status = os.stat(read.path)
    except OSError:
        return False
    return status.st_ctime_ns % 10**9 == 0 and not is_settled(status)  # times in whole seconds


# -- what the source names -----------------------------------------------------------
def _variables(code: Code) -> Iterator[list[str]]:
    for name in sorted(code.variables):
        if not name.startswith(_OF_PROCESS):
            yield [VARIABLE, name, ident_of(VARIABLE, name)]


@functools.lru_cache(maxsize=8)
def _packages(
    observer: Observer, distributions: tuple[str, ...], _count_of_modules: int
) -> list[list[str]]:
    """Return installed packages that are loaded, though no source names them."""
    named = {line.partition("==")[0] for line in distributions}
    lines = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__dict__", {}).get("__file__")
        is_older = name in observer.modules_before or name == OWN_PACKAGE
        if "." in name or is_older or not isinstance(path, str):
            continue
        ident = distribution_of(name) if is_below_installed(path) else ""
        if ident and ident.partition("==")[0] not in named:
            lines.append([PACKAGE, name, ident])
    return lines
