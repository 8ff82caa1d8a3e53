"""Decisions do not hang on hashes or addresses: not on the order in which a set is walked."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

import snakemake_executor_gpupool
from snakemake_executor_gpupool.devices.device import Device, device_key
from snakemake_executor_gpupool.scheduling.domain_events import DomainEvents
from snakemake_executor_gpupool.scheduling.effects import Outbox
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

PACKAGE = Path(snakemake_executor_gpupool.__file__).parent
PURE = [*(PACKAGE / "scheduling").rglob("*.py"), *(PACKAGE / "devices/allocation").rglob("*.py")]


class HashedUnit(WorkItem):
    """A unit whose place in a set is known."""

    hashed = 0

    def __hash__(self) -> int:
        return self.hashed


@pytest.mark.parametrize("hashes", list(itertools.permutations(range(3))))
def test_which_job_is_done_soonest_does_not_hang_on_hashes(hashes: tuple[int, ...]) -> None:
    jobs = JobTable(ResultLedger(), Outbox(), DomainEvents())
    units: list[WorkItem] = []
    # Summed from the left the second one's are less, by the last bit.
    for job_id, costs in ((1, (0.1, 0.2, 0.3)), (2, (0.3, 0.2, 0.1))):
        job = jobs.add(Request(job_id, "r", ToolRef("t", "", "p"), b"", b"", "/"))
        for number, cost in enumerate(costs):
            unit = HashedUnit((job_id, number), "g", cost, 1, b"", "x", (0, 1), len(units))
            unit.hashed = hashes[number]
            jobs.place(job, [unit])
            units.append(unit)
        job.all_read = True
    assert jobs.soonest_done(set(units)) == units[3:]


def walked(tree: ast.AST) -> list[ast.expr]:
    """All that is walked in a module, by loops, comprehensions and what makes sequences."""
    into_sets = {id(c) for n in ast.walk(tree) if isinstance(n, ast.SetComp) for c in n.generators}
    loops = (n for n in ast.walk(tree) if isinstance(n, (ast.For, ast.comprehension)))
    found = [loop.iter for loop in loops if id(loop) not in into_sets]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            if node.func.id in ("list", "tuple", "iter", "enumerate", "sum", "map", "filter"):
                found.append(node.args[-1])
        elif isinstance(node, ast.Starred):
            found.append(node.value)
    return found


def is_set(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is a set as far as one can see: made here, or named in ``names``."""
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.BinOp):
        return is_set(node.left, names) or is_set(node.right, names)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    if isinstance(node, ast.Attribute):
        return f".{node.attr}" in names
    return isinstance(node, ast.Name) and node.id in names


def named_sets(tree: ast.AST) -> set[str]:
    """Names that are bound to sets, or said to be sets; with a dot before those of attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and is_set_type(node.annotation):
            names.add(named(node.target))
        elif isinstance(node, ast.Assign) and is_set(node.value, set()):
            names |= {named(target) for target in node.targets}
        elif isinstance(node, ast.FunctionDef) and node.returns and is_set_type(node.returns):
            names.add(f".{node.name}")
    return names


def is_set_type(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).startswith(("set[", "frozenset[", "Set[", "Collection[set"))


def named(target: ast.expr) -> str:
    return f".{target.attr}" if isinstance(target, ast.Attribute) else ast.unparse(target)


#: Attributes that are sets, in any of the modules: other modules see them, too.
ATTRIBUTES = {
    f".{name}" if not name.startswith(".") else name
    for path in PURE
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef)
    for name in named_sets(ast.Module([s for s in node.body if isinstance(s, ast.AnnAssign)], []))
    | {name for name in named_sets(node) if name.startswith(".")}
}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_no_set_is_walked(path: Path) -> None:
    """Sets are asked what is in them, sorted, or counted; whatever is walked has an order."""
    sets = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            names = ATTRIBUTES | named_sets(function)
            sets |= {ast.unparse(node) for node in walked(function) if is_set(node, names)}
    assert not sets, f"{path.name} walks {sorted(sets)}"


def test_no_two_devices_have_the_same_place_in_order() -> None:
    """Names that differ by zeros alone have the same numbers, and are two."""
    card = Device("cuda:1", "cuda", 1)
    assert device_key(card.on("n1")) != device_key(card.on("n01"))
