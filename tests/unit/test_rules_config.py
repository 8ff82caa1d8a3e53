"""The configuration of the shipped rules: a key that means nothing is refused, not passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RULES = Path(__file__).resolve().parents[2] / "rules"
FILES = sorted(path.stem for path in RULES.glob("*.smk"))


def settings(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a file of rules makes of a configuration."""
    before_rules = (RULES / f"{name}.smk").read_text().partition("\n\n\nrule ")[0]
    names: dict[str, Any] = {"config": config}
    exec(before_rules, names)
    found: dict[str, Any] = names[name.upper()]
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_misspelt_key_is_refused_with_the_keys_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has thread, which means.*threads.*runtime"):
        settings(name, {name: {"thread": 2}})


@pytest.mark.parametrize("name", FILES)
def test_a_key_changes_its_own_setting(name: str) -> None:
    default = settings(name, {})
    assert settings(name, {name: None}) == default, "an empty section of a YAML file"
    assert settings(name, {name: {"threads": 7}, "others": {"thread": 1}}) == {
        **default,
        "threads": 7,
    }
