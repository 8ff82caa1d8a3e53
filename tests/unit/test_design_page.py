"""The page of the design names modules and files that exist; the glossary is in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import snakemake_executor_gpupool

PACKAGE = Path(snakemake_executor_gpupool.__file__).parent
ROOT = PACKAGE.parent
DESIGN = (ROOT / "docs" / "design.md").read_text()
#: In the table of rooms, words in backticks that are no modules.
OTHER = {"ToolPool", "Request", "PoolConfig", "DeviceManager", "gpupool", "gpupool check"}


def rooms() -> dict[str, str]:
    """Return each room of the table with the text beside it."""
    table = DESIGN.partition("| Room | Modules |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w/]+)` \| (.*) \|$", table, re.MULTILINE)
    return dict(rows)


def exists(place: Path, name: str) -> bool:
    return place.joinpath(f"{name}.py").is_file() or place.joinpath(name).is_dir()


def test_the_table_has_every_room() -> None:
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert {room.partition("/")[0] for room in rooms()} == there


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_has_the_modules_that_the_table_names(room: str) -> None:
    names = {name.strip("/") for name in re.findall(r"`([^`]+)`", rooms()[room])}
    for name in names - OTHER:
        if re.fullmatch(r"[a-z_/]+", name):
            assert exists(PACKAGE / room, name), f"{room} has no {name}"


@pytest.mark.parametrize("room", sorted(set(rooms()) - {"tools"}))
def test_the_table_names_every_module_of_a_room(room: str) -> None:
    named = {name.strip("/").split("/")[-1] for name in re.findall(r"`([^`]+)`", rooms()[room])}
    modules = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    assert modules <= named, f"{room}: the table lacks {sorted(modules - named)}"


def test_files_that_the_page_names_exist() -> None:
    for path in re.findall(r"`((?:tests|bench|snakemake_executor_gpupool)/[\w/]+\.py)`", DESIGN):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:scheduling|worker|hosts|runtime)/[\w/]+)`", DESIGN):
        assert exists((PACKAGE / path).parent, Path(path).name), path


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| ([\w(), -]+?) \|", (ROOT / "docs/glossary.md").read_text(), re.M)[1:]
    assert len(words) > 35
    assert words == sorted(words, key=str.lower)


def test_the_examples_of_contributing_select_tests() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    examples = re.findall(r"pytest (tests/[\w/.]+)(?: -k (\w+))?", text)
    assert len(examples) >= 3
    for path, word in examples:
        assert (ROOT / path).exists(), path
        if word:
            assert re.search(rf"^def test_\w*{word}", (ROOT / path).read_text(), re.MULTILINE)
