"""What the pages quote of messages is what the code says.

A table whose first column is headed "The message says" quotes messages in backticks there: ``...``
and numbers stand for what differs. What another program says stands in italics instead.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from tests.unit.package_source import PACKAGE, files, nodes

DOCS = PACKAGE.parent / "docs"
HEAD = "The message says"
#: Stands in a template for what is filled in, and in a quotation for what is left out.
GAP = "\0"
#: So much of a quotation must be the code's own words: the rest may be filled in.
SHARE = 0.8


def template(node: ast.AST) -> str:
    """Return a string of the code, with a gap where something is filled in; empty: it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) or GAP for value in node.values)
    return ""


@functools.cache
def templates() -> tuple[str, ...]:
    """Return every string of the package but docstrings."""
    found = set()
    for path in files():
        docstrings = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
        found |= {template(node) for node in nodes(path) if id(node) not in docstrings}
    return tuple(found)


def own_words(quoted: str, text: str) -> int:
    """Return how many letters of a quotation a template has itself, at best; -1: it does not fit.

    The quotation may start and end anywhere in the message.
    """

    end = len(text)
    after = [0] * (end + 1)
    for letter in reversed(quoted):
        here = [-1] * (end + 2)
        for j in range(end, -1, -1):
            if letter == GAP or (j < end and text[j] == GAP):
                here[j] = max(after[j], here[j + 1])
            elif j < end and text[j] == letter and after[j + 1] >= 0:
                here[j] = after[j + 1] + 1
        after = here[: end + 1]
    return max(after)


def is_said(quotation: str) -> bool:
    """Tell whether a message of the code can have these words."""
    quoted = re.sub(r"\.\.\.|\b\d+\b|\bN\b", GAP, quotation)
    words = sorted(re.findall(r"[^\W\d_]{3,}", quoted), key=len)
    letters = len(quoted.replace(GAP, ""))
    likely = (text for text in templates() if words and words[-1][:-1] in text)
    return any(own_words(quoted, text) >= SHARE * letters for text in likely)


def quoted_cells() -> Iterator[tuple[str, str]]:
    """Yield the first cells of tables of messages, each with its page."""
    for page in sorted(DOCS.rglob("*.md")):
        is_inside = False
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if not line.startswith("|"):
                is_inside = False
            elif cells[1] == HEAD:
                is_inside = True
            elif is_inside and not set(cells[1]) <= set("-: "):
                yield page.name, cells[1]


CELLS = list(quoted_cells())


def test_there_are_such_tables() -> None:
    assert {page for page, _ in CELLS} >= {"troubleshooting.md", "devices.md"}


@pytest.mark.parametrize(("page", "cell"), CELLS)
def test_a_quoted_message_is_what_the_code_says(page: str, cell: str) -> None:
    quotations = re.findall(r"`([^`]+)`", cell)
    assert quotations or re.match(r"\*[^*]+\*", cell), "nothing is quoted"
    for quotation in quotations:
        assert is_said(quotation), f"no message of the code says {quotation!r}"


@pytest.mark.parametrize(
    "quotation",
    [
        "unknown tool",
        "asks for 5 GPUs, but the pool manages ...",
        "died twice",
        "item ... has gone",
    ],
)
def test_words_that_no_message_has_are_found_out(quotation: str) -> None:
    assert not is_said(quotation)
