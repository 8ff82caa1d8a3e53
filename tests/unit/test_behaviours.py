"""The page of behaviours and the tests that name them are in step."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "behaviours.md"
#: A comment that holds numbers of behaviours and nothing else: ``# D7 W4``.
CITATION = re.compile(r"#\s+((?:[A-Z]\d{1,2}[ ,]*)+)$", re.MULTILINE)
ROW = re.compile(r"^\| ([A-Z]\d{1,2}) \| .+ \| (tested|in part|planned) \|$", re.MULTILINE)


def cited() -> set[str]:
    """The numbers that tests name."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for match in CITATION.finditer(path.read_text()):
            found |= set(re.findall(r"[A-Z]\d{1,2}", match.group(1)))
    return found


def states() -> dict[str, str]:
    """The behaviours of the page, and what it says of each."""
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) == len(dict(rows)), "a number stands twice"
    return dict(rows)


def test_every_line_of_the_tables_is_a_behaviour() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [A-Z]\d", line)]
    assert len(lines) == len(states()) > 60


def test_every_number_that_a_test_names_is_on_the_page() -> None:
    assert not cited() - set(states())


def test_what_is_called_tested_has_a_test() -> None:
    claimed = {number for number, state in states().items() if state != "planned"}
    assert not claimed - cited()


def test_what_a_test_names_is_not_called_planned() -> None:
    assert not [number for number in cited() if states()[number] == "planned"]
