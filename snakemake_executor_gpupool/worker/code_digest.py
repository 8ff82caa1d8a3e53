"""A digest of the code that a tool's results depend on.

It covers, by content, the files of the tool's class and of its bases, and every local module
that these import, directly or not, at the top or inside functions; by name and version, the
installed distributions that they import, with what those require; and Python's own version.
It does not cover what the source does not import by name: data files, programs, and modules whose
names are computed while the tool runs.

Nothing is imported or run for this. Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from snakemake_executor_gpupool.tool_api.source import own_classes
from snakemake_executor_gpupool.worker.distributions import describe_distributions

#: gpupool's own package: only its built-in tools count as part of a tool's code.
OWN_PACKAGE = "snakemake_executor_gpupool"
_OWN_TOOLS = f"{OWN_PACKAGE}.tools"
#: Directories of installed packages.
_INSTALLED = ("site-packages", "dist-packages")
#: So many modules are read and followed; beyond them whole packages count, by size and time of
#: their files.
MAX_MODULES = 200
_DYNAMIC = ("import_module", "__import__")


class _Module(NamedTuple):
    """A module that was found: its full name, its file, and where its submodules are."""

    name: str
    path: str
    places: tuple[str, ...] = ()
    #: The package that its relative imports start from.
    package: str = ""


@functools.lru_cache(maxsize=256)
def code_digest(tool_class: type) -> str:
    """Return a digest of a tool's code as it is on the first call in this process."""
    contents, installed = _walk(tool_class)
    version = "{}.{}".format(*sys.version_info)
    lines = [version, *sorted(contents.values()), *describe_distributions(installed)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_files(tool_class: type) -> list[str]:
    """Return the files that a tool's code is made of, as they are now."""
    return list(_walk(tool_class)[0])


def _walk(tool_class: type) -> tuple[dict[str, str], set[str]]:
    """Return a line for each file of a tool's code, and the installed packages it imports."""
    modules = list(_modules_of(tool_class))
    # Its own package counts by content wherever it lies: a reinstall may keep the version.
    own = {module.name.partition(".")[0] for module in modules} - {OWN_PACKAGE}
    beside = tuple(dict.fromkeys(os.path.dirname(m.path) for m in modules if not m.package))
    contents: dict[str, str] = {}
    installed: set[str] = set()
    waiting = modules
    while waiting:
        module = waiting.pop()
        if module.path in contents:
            continue
        if len(contents) >= MAX_MODULES:
            contents[module.path] = _tree_of(module)
            installed.add("")  # its imports are not known: everything installed counts
            continue
        data = _read(module.path)
        contents[module.path] = f"{module.name}:{hashlib.sha256(data).hexdigest()}"
        for name in _imports(data, module) if module.path.endswith(".py") else ():
            imported, top = _found(name, beside, own)
            waiting += imported
            if top:
                installed.add(top)
    return contents, installed


def _modules_of(tool_class: type) -> Iterator[_Module]:
    """Yield the modules of a class and of its bases."""
    for klass in own_classes(tool_class):
        module = sys.modules.get(klass.__module__)
        path = getattr(module, "__file__", None)
        if module is not None and path and not is_of_python(path):
            places = tuple(getattr(module, "__path__", ()))
            package = getattr(module, "__package__", "") or ""
            yield _Module(klass.__module__, os.path.abspath(path), places, package)


# -- imports ----------------------------------------------------------------------
def _imports(data: bytes, module: _Module) -> list[str]:
    """Return the full names of what a file imports, at any depth."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a worker's log is no place for a linter
            tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, module)
            names.append(base)
            # The imported names may be modules too.
            names += [f"{base}.{alias.name}" for alias in node.names if base]
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if function in _DYNAMIC and isinstance(first, ast.Constant):
                names.append(_absolute(str(first.value), module))
    return [name for name in dict.fromkeys(names) if name]


def _base_of(node: ast.ImportFrom, module: _Module) -> str:
    return _absolute("." * node.level + (node.module or ""), module)


def _absolute(name: str, module: _Module) -> str:
    if not name.startswith("."):
        return name
    try:
        return importlib.util.resolve_name(name, module.package) if module.package else ""
    except (ImportError, ValueError):
        return ""


def _found(name: str, beside: tuple[str, ...], own: set[str]) -> tuple[list[_Module], str]:
    """Return the local modules that a name imports, and the installed package or empty."""
    top, *rest = name.split(".")
    is_own_tool = f"{name}.".startswith(f"{_OWN_TOOLS}.")
    if top == OWN_PACKAGE and not is_own_tool:
        return [], ""
    modules: list[_Module] = []
    installed = ""
    for first in _top_modules(top, beside):
        if is_of_python(first.path):
            continue
        if _is_installed(first) and top not in own and not is_own_tool:
            installed = top
            continue
        modules += _path_to(first, rest)
    return modules, installed


def _top_modules(top: str, beside: tuple[str, ...]) -> list[_Module]:
    """Return the modules that an import may find: beside the tool's file, and on the path."""
    candidates = [_module(top, importlib.machinery.PathFinder.find_spec(top, [p])) for p in beside]
    # It may not exist, or a module may have an odd ``__spec__``.
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        candidates.append(_module(top, importlib.util.find_spec(top)))
    modules = [module for module in candidates if module is not None]
    return list({(module.path, module.places): module for module in modules}.values())


def _path_to(module: _Module, rest: list[str]) -> list[_Module]:
    """Return a module and the submodules that a dotted import passes through."""
    modules = [module]
    for part in rest:
        name = f"{modules[-1].name}.{part}"
        places = list(modules[-1].places)
        spec = importlib.machinery.PathFinder.find_spec(name, places) if places else None
        inner = _module(name, spec)
        if inner is None:
            break  # a name in a module, not a module
        modules.append(inner)
    return [each for each in modules if each.path]


def _module(name: str, spec: importlib.machinery.ModuleSpec | None) -> _Module | None:
    if spec is None:
        return None
    locations = spec.submodule_search_locations
    try:
        places = tuple(locations or ())
    except KeyError:  # a namespace in a package that is not imported
        places = tuple(getattr(locations, "_path", ()))
    path = spec.origin if spec.has_location and spec.origin else ""
    if not path and not places:
        return None  # built into Python
    package = name if places else name.rpartition(".")[0]
    return _Module(name, os.path.abspath(path) if path else "", places, package)


def _is_installed(module: _Module) -> bool:
    return is_below_installed(module.path or next(iter(module.places), ""))


def is_below_installed(path: str) -> bool:
    """Return whether a file is below a directory of installed packages."""
    return any(f"{os.sep}{part}{os.sep}" in path for part in _INSTALLED)


@functools.lru_cache(maxsize=1)
def _own_places() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib")
    paths: Iterable[str] = [sysconfig.get_path(name) for name in names]
    return tuple({f"{p}{os.sep}" for path in paths for p in (path, os.path.realpath(path))})


def is_of_python(path: str) -> bool:
    """Return whether a file belongs to Python's own library."""
    return path.startswith(_own_places()) and not any(
        f"{os.sep}{p}{os.sep}" in path for p in _INSTALLED
    )


def _tree_of(module: _Module) -> str:
    """Return what stands for all files of the package that a module is in."""
    depth = module.name.count(".") + bool(module.places)
    root = module.path
    for _ in range(depth):
        root = os.path.dirname(root)
    return f"{module.name.partition('.')[0]}:{_stats_below(root) if depth else _stat_of(root)}"


@functools.lru_cache(maxsize=256)
def _stats_below(root: str) -> str:
    total = hashlib.sha256()
    for directory, inner, files in os.walk(root):
        inner.sort()
        for name in sorted(files):
            if name.endswith((".py", ".so", ".pyd")):
                path = os.path.join(directory, name)
                total.update(f"{os.path.relpath(path, root)}:{_stat_of(path)}\n".encode())
    return total.hexdigest()


def _stat_of(path: str) -> str:
    status = os.stat(path)
    return f"{status.st_size}:{status.st_mtime_ns}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
