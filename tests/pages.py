"""The code that the documentation shows, as it is printed there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code_blocks(page: str) -> list[str]:
    """Every block of code on a page of ``docs/``."""
    return BLOCK.findall((DOCS / page).read_text())


def printed_files(page: str) -> dict[str, str]:
    """The blocks whose first line is a comment with a file's name, by that name."""
    files = {}
    for block in code_blocks(page):
        title = re.match(r"# ([\w./-]+)\n", block)
        if title:
            files[title[1]] = block
    return files


def printed_members(page: str) -> str:
    """The blocks that go into a class, in one piece."""
    blocks = [block for block in code_blocks(page) if block.startswith("    ")]
    return "\n".join(textwrap.indent(textwrap.dedent(block), "    ") for block in blocks)
