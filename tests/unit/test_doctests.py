"""Examples in docstrings say what the code does."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "snakemake_executor_gpupool"
#: What only the extra of a room has.
OPTIONAL = ("distributed", "dask", "dask_jobqueue", "cryptography")


def modules_with_examples() -> list[str]:
    """The dotted names of the modules some of whose examples are run."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = re.findall(r"^ *>>> .*", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if any("+SKIP" not in line for line in lines):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_there_are_some() -> None:
    assert len(modules_with_examples()) >= 8
