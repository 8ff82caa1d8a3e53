"""The reference tables name what the code has, all of it and nothing else (W10)."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from snakemake_executor_gpupool.records import reference
from tests.unit.package_source import PACKAGE, files, nodes

#: Events whose names are chosen before the call that writes them.
NAMED_ELSEWHERE = {"job_done", "job_failed", "read_sent", "write_sent"} | {
    *("server_attached", "server_lost", "worker_attached")
}


def sources() -> Iterator[Path]:
    return (path for path in files() if path.name != "reference.py")


def noted_events() -> set[str]:
    """The first argument of every call that writes an event."""
    events = set()
    for path in sources():
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            writes = called == "Note" or called.endswith(".note") or "events." in called
            if writes and node.args and isinstance(node.args[0], ast.Constant):
                events.add(node.args[0].value)
    return events


def test_every_event_is_described() -> None:
    assert set(reference.EVENTS) == noted_events() | NAMED_ELSEWHERE


def test_every_variable_is_described() -> None:
    found = {
        name for path in sources() for name in re.findall(r"GPUPOOL_[A-Z_]+[A-Z]", path.read_text())
    }
    assert set(reference.VARIABLES) == found


def test_every_resource_is_described() -> None:
    text = "".join(path.read_text() for path in (PACKAGE / "frontends/snakemake").glob("*.py"))
    read = set(re.findall(r"resources\.get\(\"(\w+)\"\)", text))
    assert set(reference.RESOURCES) == read | {"gpupool_tool"}


def test_every_figure_of_the_summary_is_described() -> None:
    text = (PACKAGE / "runtime/summary.py").read_text()
    assert set(reference.SUMMARY) == set(re.findall(r"^ {8}\"(\w+)\":", text, re.MULTILINE))


def test_the_pages_hold_the_tables_as_the_code_has_them() -> None:
    place = Path(__file__).resolve().parents[2] / "docs" / "tables.py"
    spec = importlib.util.spec_from_file_location("reference_tables", place)
    assert spec and spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    shown = set()
    for path in tables.PAGES.glob("*.md"):
        page = path.read_text()
        shown |= set(tables.TABLE.findall(page))
        assert page == tables.with_tables(page), "run `make reference`"
    assert shown == set(tables.TABLES)
