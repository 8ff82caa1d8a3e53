"""Which room of the package may import which, and what pure code may reach (design: the rooms).

The tables read like the page of the design: a room may import the rooms named beside it, and what
stands on its own floor only where an exception says so.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.package_source import PACKAGE, files, nodes

NAME = PACKAGE.name

LOWEST = {"wire", "devices", "tool_api", "errors"}
MIDDLE = {"scheduling", "hosts", "records"}
ALLOWED = {
    "frontends": {"runtime", *MIDDLE, "worker", "tools", *LOWEST, "package"},
    "runtime": MIDDLE | LOWEST,
    "scheduling": LOWEST,
    "hosts": LOWEST,
    "records": LOWEST,
    "worker": {"wire", "tool_api", "errors"},
    "wire": {"tool_api", "errors"},
    "devices": {"errors"},
    "tool_api": {"errors"},
    "errors": set(),
    "tools": {"tool_api", "errors", "frontends"},
    "testing": {"runtime", *MIDDLE, *LOWEST},
    "package": set(),
}
#: What may be imported beyond that, each with the reason.
EXCEPTIONS = {
    # A recording says which version made it.
    ("runtime.*", "package"),
    # A script that holds a tool does its job cold; the one lazy arrow upwards.
    ("tool_api.tool", "worker.cold"),
    # One class knows the names of a run's files, on whichever machine.
    ("hosts.*", "records.paths"),
    # A request says which devices it wants, as a plain value.
    ("wire.requests", "devices.device_spec"),
    ("wire.requests", "devices.card_wish"),
    # The file of measured figures holds them as they are.
    ("records.profile", "scheduling.models.figures"),
}
#: What decides, and whatever it imports, may import beside modules of the package.
PURE = {
    *("__future__", "array", "bisect", "collections", "dataclasses", "enum", "functools", "heapq"),
    *("itertools", "json", "math", "re", "statistics", "struct", "typing", "zlib"),
}
#: What needs no import and still reaches files, terminals, or any module.
IMPURE_CALLS = {"open", "input", "print", "breakpoint", "exec", "eval", "compile", "__import__"}
#: The one arrow, of those above, that closes a circle: cold jobs need all of a worker's side.
CLOSING = ("tool_api.tool", "worker.cold")


def modules() -> dict[str, Path]:
    """Every module below the package by its dotted name, the package itself left out."""
    found = {}
    for path in files():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "package"] = path
    return found


MODULES = modules()


@functools.cache
def imports(module: str) -> tuple[str, ...]:
    """What a module imports; each file is read once."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    """What a module imports when it runs: names below the package without it, others in full."""
    everything = nodes(MODULES[module])
    typing_only = {
        id(inner)
        for node in everything
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in everything:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (_ours(alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0, f"{module} imports by a relative name"
            for alias in node.names:
                yield _ours(node.module, alias.name)


def _ours(module: str, name: str) -> str:
    if module != NAME and not module.startswith(f"{NAME}."):
        return module
    inner = module[len(NAME) + 1 :]
    full = f"{inner}.{name}".strip(".")
    return full if full in MODULES else inner or "package"


def room(module: str) -> str:
    return module.partition(".")[0]


def is_excepted(source: str, target: str) -> bool:
    return (source, target) in EXCEPTIONS or (f"{room(source)}.*", target) in EXCEPTIONS


def test_every_room_has_a_line() -> None:
    assert {room(module) for module in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_room_imports_what_it_may(name: str) -> None:
    for module in MODULES:
        if room(module) != name:
            continue
        for target in imports(module):
            if target in MODULES and room(target) != name and not is_excepted(module, target):
                assert room(target) in ALLOWED[name], f"{module} imports {target}"


def test_no_exception_is_left_over() -> None:
    used = {(s, t) for s in MODULES for t in imports(s) if is_excepted(s, t)}
    rooms = {(f"{room(source)}.*", target) for source, target in used}
    assert used | rooms >= EXCEPTIONS


def test_there_is_no_circle() -> None:
    """Not between modules of one room either, nor by an import inside a function."""
    arrows = {
        source: {target for target in imports(source) if target in MODULES} for source in MODULES
    }
    source, target = CLOSING
    arrows[source].remove(target)
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def reached_by_decisions() -> set[str]:
    pure = [m for m in MODULES if room(m) == "scheduling" or m.startswith("devices.allocation")]
    reached, waiting = set(pure), list(pure)
    while waiting:
        new = {target for target in imports(waiting.pop()) if target in MODULES} - reached
        reached |= new
        waiting += new
    return reached


def test_decisions_reach_nothing_impure() -> None:
    """No clock, file, lock, process or socket, through whatever they import."""
    for module in reached_by_decisions():
        for target in imports(module):
            is_pure = target in MODULES or target.partition(".")[0] in PURE
            assert is_pure, f"{module} imports {target}"
        for node in nodes(MODULES[module]):
            name = node.id if isinstance(node, ast.Name) else ""
            assert name not in IMPURE_CALLS, f"{module} uses {name}, in line {node.lineno}"


def test_nobody_keeps_the_time() -> None:
    """``now_s`` comes with each call: a time that is kept is another call's, sooner or later."""
    for module in (m for m in MODULES if room(m) == "scheduling"):
        for node in nodes(MODULES[module]):
            kept = isinstance(node, ast.Attribute) and node.attr in ("now_s", "_now_s")
            assert not kept, f"{module} keeps the time, in line {getattr(node, 'lineno', 0)}"


#: What is before the door of ``wire/messages``, or beside it, each with the reason.
BEFORE_THE_DOOR = {
    # A frame as it arrived: what is recorded, and goes through the door when it is decided on.
    *("scheduling.events", "scheduling.core", "runtime.loop"),
    # Any value as JSON, and read again.
    *("runtime.plain", "runtime.recording", "runtime.replay"),
    # Events of a server, on their way into a run's files as they are.
    *("runtime.elsewhere", "runtime.models_elsewhere"),
}


@pytest.mark.parametrize("name", ["runtime", "scheduling"])
def test_no_json_object_is_handed_on(name: str) -> None:  # W1
    """Frames are values from the door of ``wire/messages`` on; nobody says ``Any`` after it."""
    for module in MODULES:
        if room(module) == name and module not in BEFORE_THE_DOOR:
            named = {getattr(n, "id", getattr(n, "attr", "")) for n in nodes(MODULES[module])}
            assert not named & {"Any", "meta"}, f"{module} hands on what has no type"
