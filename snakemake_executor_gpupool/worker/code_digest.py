"""A digest of the code that a tool's results depend on.

It covers, by content, the files of the tool's class and of its bases, and every local module
that these import, directly or not, at the top or inside functions; by name and version, the
installed distributions that they import, with what those require; Python's own version, and
gpupool's. It does not cover what the source does not import by name: data files, programs, and
modules whose names are computed while the tool runs. These are :mod:`.dependencies`.

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
from typing import Any, NamedTuple

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
#: How many tools' digests are cached.
MAX_KNOWN = 256
_DYNAMIC = ("import_module", "__import__")


class _Module(NamedTuple):
    """A module that was found: its full name, its file, and where its submodules are."""

    name: str
    path: str
    places: tuple[str, ...] = ()
    #: The package that its relative imports start from.
    package: str = ""


class Code(NamedTuple):
    """A tool's code, and what else its source names.

    Attributes
    ----------
    digest
        Of all of it.
    files
        The local files that it covers, with their versions when they were read.
    distributions
        The installed distributions that it covers, as ``name==version``, some with a digest.
    trees
        Directories of local packages that it covers as a whole.
    variables
        Names of environment variables that the local code reads.
    """

    digest: str
    files: dict[str, Any]
    trees: tuple[str, ...]
    distributions: tuple[str, ...]
    variables: frozenset[str]


_KNOWN: dict[type, Code] = {}


def code_digest(tool_class: type) -> str:
    """Return a digest of a tool's code as it is on the first call in this process."""
    return code_of(tool_class).digest


def is_code_as_it_was(tool_class: type) -> bool:
    """Return whether a tool's code is as it was on the first call in this process, if any."""
    known = _KNOWN.get(tool_class)
    return known is None or known.digest == _code_of(tool_class).digest


def changed_file(tool_class: type) -> str:
    """Return a file of a tool's code that is another than on the first call; empty: none is."""
    files = code_of(tool_class).files
    changed = {path: now for path in files if (now := version_of(path)) != files[path]}
    if changed and is_code_as_it_was(tool_class):
        files.update(changed)  # the same content, written again
        return ""
    return next(iter(changed), "")


def code_of(tool_class: type) -> Code:
    """Return a tool's code as it is on the first call in this process."""
    if tool_class not in _KNOWN:
        if len(_KNOWN) >= MAX_KNOWN:
            _KNOWN.clear()
        _KNOWN[tool_class] = _code_of(tool_class)
    return _KNOWN[tool_class]


def code_files(tool_class: type) -> list[str]:
    """Return the files that a tool's code is made of, as they are now."""
    return list(_code_of(tool_class).files)


def forget_changed_code() -> None:
    """Forget the digests of code whose files have changed since; they are computed anew."""
    for tool_class, code in list(_KNOWN.items()):
        if any(version_of(path) != version for path, version in code.files.items()):
            del _KNOWN[tool_class]


def _code_of(tool_class: type) -> Code:
    modules = [*_modules_of(tool_class), *_packages_of(tool_class)]
    # Its own package counts by content wherever it lies: a reinstall may keep the version.
    own = {module.name.partition(".")[0] for module in modules} - {OWN_PACKAGE}
    beside = tuple(dict.fromkeys(os.path.dirname(m.path) for m in modules if not m.package))
    contents: dict[str, str] = {}
    files: dict[str, Any] = {}
    trees: set[str] = set()
    installed: set[str] = set()
    variables: set[str] = set()
    waiting = modules
    while waiting:
        module = waiting.pop()
        if module.path in contents:
            continue
        if len(contents) >= MAX_MODULES:
            root = _root_of(module)
            files[module.path] = version_of(module.path)
            trees.add(root)
            stands = _stats_below(root) if os.path.isdir(root) else _stat_of(root)
            contents[module.path] = f"{module.name.partition('.')[0]}:{stands}"
            installed.add("")  # its imports are not known: everything installed counts
            continue
        files[module.path] = version_of(module.path)  # before it is read
        data = _read(module.path)
        contents[module.path] = f"{module.name}:{hashlib.sha256(data).hexdigest()}"
        tree = _parsed(data) if module.path.endswith(".py") else None
        if tree is not None:
            variables.update(_variables(tree))
        for name in _imports(tree, module) if tree is not None else ():
            imported, top = _found(name, beside, own)
            waiting += imported
            if top:
                installed.add(top)
    versions = "{}.{}.{}".format(*sys.version_info), f"gpupool {_version()}"
    distributions = describe_distributions(installed)
    lines = [*versions, *sorted(contents.values()), *distributions]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Code(digest, files, tuple(trees), tuple(distributions), frozenset(variables))


def _modules_of(tool_class: type) -> Iterator[_Module]:
    """Yield the modules of a class and of its bases."""
    for klass in own_classes(tool_class):
        module = sys.modules.get(klass.__module__)
        path = getattr(module, "__file__", None)
        if module is not None and path and not is_of_python(path):
            places = tuple(getattr(module, "__path__", ()))
            package = getattr(module, "__package__", "") or ""
            yield _Module(klass.__module__, os.path.abspath(path), places, package)


def _version() -> str:
    return str(getattr(sys.modules.get(OWN_PACKAGE), "__version__", ""))


def _packages_of(tool_class: type) -> Iterator[_Module]:
    """Yield the packages that the modules of a class and of its bases are in."""
    for klass in own_classes(tool_class):
        name = klass.__module__.rpartition(".")[0]
        while name:
            package: Any = sys.modules.get(name)
            path = getattr(package, "__file__", None)
            if path and name != OWN_PACKAGE and not is_of_python(path):
                yield _Module(name, os.path.abspath(path), tuple(package.__path__), name)
            name = name.rpartition(".")[0]


# -- what a file names --------------------------------------------------------------
def _parsed(data: bytes) -> ast.AST | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a worker's log is no place for a linter
            return ast.parse(data)
    except (SyntaxError, ValueError):
        return None


def _variables(tree: ast.AST) -> Iterator[str]:
    """Yield the names of environment variables that a file reads by a fixed name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _last_name(node.value) == "environ":
            key: Any = node.slice
        elif isinstance(node, ast.Call) and node.args and _reads_variable(node.func):
            key = node.args[0]
        elif isinstance(node, ast.Compare) and _last_name(node.comparators[0]) == "environ":
            key = node.left
        else:
            continue
        key = getattr(key, "value", None)  # of a constant
        if isinstance(key, str):
            yield key


def _reads_variable(function: ast.AST) -> bool:
    if isinstance(function, ast.Attribute) and function.attr in ("get", "pop", "setdefault"):
        return _last_name(function.value) == "environ"
    return _last_name(function) == "getenv"


def _last_name(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _imports(tree: ast.AST, module: _Module) -> list[str]:
    """Return the full names of what a file imports, at any depth."""
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
    """Return the local modules that a name imports, and the installed package or empty.

    A package in several distributions (``google.protobuf``) has its full name.
    """
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
            inside = _path_to(first, rest)
            installed = inside[0].name if inside else installed
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
        inner = _module_in(name, places)
        if inner is None:
            break  # a name in a module, not a module
        modules.append(inner)
    return [each for each in modules if each.path]


def _module_in(name: str, places: list[str]) -> _Module | None:
    """Return a submodule of a package that lies in those directories."""
    if not places:
        return None
    try:
        return _module(name, importlib.machinery.PathFinder.find_spec(name, places))
    except KeyError:  # a directory without __init__.py in a package that is not imported
        part = name.rpartition(".")[2]
        inner = [os.path.join(place, part) for place in places]
        return _Module(name, "", tuple(path for path in inner if os.path.isdir(path)), name)


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


def _root_of(module: _Module) -> str:
    """Return the directory of the package that a module is in; else its file."""
    root = module.path
    for _ in range(module.name.count(".") + bool(module.places)):
        root = os.path.dirname(root)
    return root


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
    return repr((version_of(path) or ())[2:])  # a device and an inode differ between machines


def version_of(path: str) -> Any:
    """Return what changes whenever a file does; None: it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
