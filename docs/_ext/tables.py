"""Tables of the reference, from the code's own descriptions: a directive ``gpupool-table``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from snakemake_executor_gpupool.records import reference


def options() -> dict[str, str]:
    """Return the executor's options with their help."""
    from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings

    rows = {}
    for field in dataclasses.fields(ExecutorSettings):
        name = f"--gpupool-{field.name.replace('_', '-')}"
        text = str(field.metadata["help"])
        if field.default not in (None, False):
            text += f" Default: {field.default}."
        rows[name] = text
    return rows


TABLES = {
    "options": options,
    "resources": lambda: reference.RESOURCES,
    "events": lambda: reference.EVENTS,
    "summary": lambda: reference.SUMMARY,
    "files": lambda: reference.FILES,
    "variables": lambda: reference.VARIABLES,
}


def markdown(rows: Mapping[str, str]) -> list[str]:
    """Return a table as Markdown lines."""
    body = [f"| `{name}` | {text.replace('|', '&#124;')} |" for name, text in rows.items()]
    return ["| | |", "|---|---|", *body]


class Table(SphinxDirective):
    """One of the tables, by name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the table in place."""
        lines = markdown(TABLES[self.arguments[0]]())
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source="gpupool-table"), 0, container)
        return list(container.children)


def setup(app: object) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("gpupool-table", Table)  # type: ignore[attr-defined]
    return {"parallel_read_safe": True}
