"""Write the tables of the reference pages, from the code's own descriptions.

``python docs/tables.py`` rewrites what stands between ``<!-- table: NAME -->`` and
``<!-- end of table -->`` in ``docs/reference/*.md``, so that the pages can be read where the code
is. A test fails while they are out of date.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from snakemake_executor_gpupool.records import reference

PAGES = Path(__file__).resolve().parent / "reference"
TABLE = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end of table -->", re.DOTALL)


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


TABLES: dict[str, Callable[[], Mapping[str, str]]] = {
    "options": options,
    "resources": lambda: reference.RESOURCES,
    "events": lambda: reference.EVENTS,
    "summary": lambda: reference.SUMMARY,
    "jobs": lambda: reference.JOBS_COLUMNS,
    "files": lambda: reference.FILES,
    "variables": lambda: reference.VARIABLES,
}


def markdown(rows: Mapping[str, str]) -> str:
    """Return a table in Markdown."""
    body = [f"| `{name}` | {text.replace('|', '&#124;')} |" for name, text in rows.items()]
    return "\n".join(["| | |", "|---|---|", *body])


def with_tables(page: str) -> str:
    """Return a page's text with its tables as the code has them."""
    return TABLE.sub(
        lambda found: (
            f"<!-- table: {found[1]} -->\n\n{markdown(TABLES[found[1]]())}\n\n<!-- end of table -->"
        ),
        page,
    )


if __name__ == "__main__":
    for path in PAGES.glob("*.md"):
        path.write_text(with_tables(path.read_text()))
