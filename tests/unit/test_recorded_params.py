"""What is recorded of params is what Snakemake records, which is the oracle here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.common.tbdstring import TBDString
from snakemake.persistence.file import FilePersistence

from snakemake_executor_gpupool.frontends.snakemake.recorded_params import (
    RecordedParams,
    import_no_pandas,
)

VALUES: list[Any] = [
    *(None, True, 3, 2.5, float("nan"), "a b", b"x", 1j, range(3)),
    *([1, "a"], (2,), {"b": {3}}, frozenset({4}), bytearray(b"y"), Path("c"), object, TBDString),
]


def persistence(*, saves: bool) -> Any:
    made: Any = object.__new__(FilePersistence)
    if saves:
        import_no_pandas(made)
        assert isinstance(made._params, RecordedParams)
    return made


def test_plain_params_are_recorded_as_snakemake_does_and_import_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, name)
    found = persistence(saves=True)._params(Job(VALUES))
    assert "pandas" not in sys.modules
    assert found == persistence(saves=False)._params(Job(VALUES)) != []
    assert "pandas" in sys.modules, "so that the test above can fail"


def test_tables_are_recorded_by_their_content() -> None:
    import pandas as pd

    table = pd.DataFrame({"a": [1, 2]})
    values = [table, pd.Series([1.5]), "x"]
    found = persistence(saves=True)._params(Job(values))
    assert found == persistence(saves=False)._params(Job(values)) and len(found) == 3


def test_what_records_in_another_way_is_left_alone() -> None:
    other = SimpleNamespace(_params=lambda job: [])
    import_no_pandas(other)
    assert not isinstance(other._params, RecordedParams)
    import_no_pandas(object())
    once = persistence(saves=True)
    first = once._params
    import_no_pandas(once)
    assert once._params is first


class Job:
    """A job that can be hashed, as Snakemake caches by it."""

    def __init__(self, values: list[Any]) -> None:
        self.non_derived_params = values
