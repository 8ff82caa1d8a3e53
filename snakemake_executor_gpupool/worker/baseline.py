"""The state that a tool's code keeps outside its objects, restored between jobs.

A process serves many jobs, each as if it were the first. What one job leaves in a global, a class
attribute, a default value or a cache would affect the next one: items that count as seen, results
of other params. A cold job never sees such state, so a served job must not see it either.

Covered is the tool's own code: the modules of its class and bases, and the local modules beside
them. Changes inside objects of other libraries are not undone.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import enum
import functools
import operator
import os
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.source import own_classes
from snakemake_executor_gpupool.worker.code_digest import (
    OWN_PACKAGE,
    is_below_installed,
    is_of_python,
)

_DICTS = (dict, OrderedDict, defaultdict, Counter)
_CACHE: Any = type(functools.lru_cache(maxsize=1)(lambda: None))
_WITH_FUNCTION = (functools.partial, functools.partialmethod, functools.cached_property)
#: Attributes of a class that Python itself creates.
_OF_PYTHON = {"__dict__", "__weakref__", "__doc__", "__module__", "__abstractmethods__"}
#: The entries of a larger container are not examined.
MAX_ENTERED = 1000
#: A larger one counts as unchanged if its length is unchanged.
MAX_COMPARED = 100_000
_ABSENT: Any = object()

#: Whose state the modules of this process currently hold.
_current: list[Any] = [None]


class Baseline:
    """A snapshot of the state of a tool's code.

    Parameters
    ----------
    tool_class
        The tool.
    roots
        Objects whose attributes are the tool's own, too.
    """

    def __init__(self, tool_class: type, roots: Iterable[Any] = ()) -> None:
        self._class = tool_class
        modules = own_modules(tool_class)
        self._names = {module.__name__ for module in modules}
        self._loaded = _mark_of_modules()
        self._restores: list[Callable[[], None]] = []
        self._seen: dict[int, Any] = {}  # keeps the objects alive, so that their ids stay unique
        self._waiting: list[Any] = [*modules]
        for root in roots:
            attributes = getattr(root, "__dict__", {})
            self._keep_container(attributes, attributes)
        while self._waiting:
            value = self._waiting.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                self._keep(value)

    def restore(self) -> None:
        """Restore the snapshot; local modules imported since then are imported anew on demand."""
        if self._names and _mark_of_modules() != self._loaded:
            for module in own_modules(self._class):
                if module.__name__ not in self._names:
                    sys.modules.pop(module.__name__, None)
            self._loaded = _mark_of_modules()
        for restore in self._restores:
            restore()

    # -- what it looks at ----------------------------------------------------------
    def _keep(self, value: Any) -> None:
        """Record a value's content, and that of its parts."""
        if isinstance(value, types.ModuleType):
            if value.__name__ in self._names:
                self._keep_container(vars(value), vars(value))
        elif isinstance(value, (type, types.FunctionType)):
            if value.__module__ in self._names:
                self._keep_code(value)
        elif type(value) is _CACHE:
            self._restores.append(value.cache_clear)
            self._waiting.append(value.__wrapped__)
        else:
            self._keep_data(value)

    def _keep_code(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._keep_function(value)
        elif not issubclass(value, enum.Enum):
            self._keep_class(value)

    def _keep_data(self, value: Any) -> None:
        kind = type(value)
        is_own = kind.__module__ in self._names
        if kind in (*_DICTS, list, set, deque, bytearray, tuple) or (
            is_own and isinstance(value, (dict, list, set, deque))
        ):
            self._keep_container(value, value)
        if is_own and isinstance(getattr(value, "__dict__", None), dict):
            self._keep_container(value.__dict__, value.__dict__)
        self._waiting += _wrapped(value)

    def _keep_container(self, value: Any, entries: Any) -> None:
        if type(value) is not tuple:
            self._restores.append(_restoring(value))
        if len(entries) <= MAX_ENTERED and type(value) is not bytearray:
            self._waiting += entries.values() if isinstance(entries, dict) else entries

    def _keep_class(self, value: type) -> None:
        kept = {name: each for name, each in vars(value).items() if name not in _OF_PYTHON}
        self._restores.append(functools.partial(_restore_class, value, kept))
        self._waiting += kept.values()

    def _keep_function(self, value: types.FunctionType) -> None:
        self._waiting += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for cell in value.__closure__ or ():
            content = _content_of(cell)
            if content is not _ABSENT:
                self._restores.append(functools.partial(_restore_cell, cell, content))
                self._waiting.append(content)
        self._waiting.append(value.__dict__)


def work_for(owner: Any, baseline: Baseline | None) -> None:
    """Restore a tool's code, unless the same owner worked in this process last.

    Parameters
    ----------
    owner
        Who is about to work; jobs that may see each other's state share an owner.
    baseline
        None: there is nothing to restore.
    """
    if _current[0] != owner:
        _current[0] = owner
        if baseline is not None:
            baseline.restore()


def _mark_of_modules() -> tuple[int, str]:
    """Return a mark that changes when a module is imported."""
    return len(sys.modules), next(reversed(sys.modules), "")


def own_modules(tool_class: type) -> list[types.ModuleType]:
    """Return the modules of a tool's class and bases that are loaded, and those beside them."""
    names, directories = set(), set()
    for klass in own_classes(tool_class):
        package = klass.__module__.partition(".")[0]
        # The program itself is running.
        if package in (OWN_PACKAGE, "__main__") or klass.__module__ not in sys.modules:
            continue
        path = _file_of(sys.modules[klass.__module__])
        if not path or is_of_python(path):
            continue
        names.add(klass.__module__)
        if not is_below_installed(path):
            directories.add(os.path.dirname(path) + os.sep)
    if not names:
        return []
    near = tuple(directories)
    return [m for name, m in list(sys.modules.items()) if name in names or _is_in(m, near)]


def _is_in(module: Any, directories: tuple[str, ...]) -> bool:
    if not isinstance(module, types.ModuleType):
        return False
    # Not by getattr: some libraries' modules invent attributes on demand.
    name = vars(module).get("__name__")
    if not isinstance(name, str) or name.partition(".")[0] in (OWN_PACKAGE, "__main__"):
        return False
    path = _file_of(module)
    is_near = path.startswith(directories) and path.endswith(".py")
    return is_near and not is_below_installed(path) and not is_of_python(path)


def _file_of(module: Any) -> str:
    path = getattr(module, "__dict__", {}).get("__file__")
    if not isinstance(path, str):
        return ""
    return path if path.startswith(os.sep) else os.path.abspath(path)


def _wrapped(value: Any) -> Iterator[Any]:
    """Yield the functions that a descriptor or a decorated function stands for."""
    if isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset, value.fdel)
    elif isinstance(value, _WITH_FUNCTION):
        yield value.func


# -- bringing back ----------------------------------------------------------------
def _restoring(value: Any) -> Callable[[], None]:
    kinds: tuple[Any, ...] = (dict, set, bytearray)
    kept = next((kind(value) for kind in kinds if isinstance(value, kind)), None)
    kept = list(value) if kept is None else kept
    return functools.partial(_restore, value, kept)


def _restore(value: Any, kept: Any) -> None:
    if _is_unchanged(value, kept):
        return
    if isinstance(value, dict):
        _restore_dict(value, kept)
    elif isinstance(value, (list, bytearray)):
        value[:] = kept
    elif isinstance(value, set):
        value.clear()
        value.update(kept)
    else:
        value.clear()
        value.extend(kept)


def _is_unchanged(value: Any, kept: Any) -> bool:
    if len(value) != len(kept):
        return False
    if len(kept) > MAX_COMPARED:
        return True
    if isinstance(value, set):
        # Equal entries may differ otherwise; such a set is filled anew.
        return {id(each) for each in value} == {id(each) for each in kept}
    if isinstance(value, dict):
        return _all_same(value, kept) and _all_same(value.values(), kept.values())
    if isinstance(value, bytearray):
        return bool(value == kept)
    return _all_same(value, kept)


def _all_same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(map(operator.is_, some, others))


def _restore_dict(value: dict[Any, Any], kept: dict[Any, Any]) -> None:
    for key in [key for key in value if key not in kept]:
        del value[key]
    if "__builtins__" not in kept and list(value) != list(kept):  # a module is never emptied
        value.clear()
    for key, each in kept.items():
        if value.get(key, _ABSENT) is not each:
            value[key] = each


def _restore_class(value: type, kept: dict[str, Any]) -> None:
    now = dict(vars(value))
    for name in now:
        if name not in kept and name not in _OF_PYTHON:
            type.__delattr__(value, name)
    for name, each in kept.items():
        if now.get(name, _ABSENT) is not each:
            type.__setattr__(value, name, each)


def _content_of(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _ABSENT


def _restore_cell(cell: Any, kept: Any) -> None:
    if _content_of(cell) is not kept:
        cell.cell_contents = kept
