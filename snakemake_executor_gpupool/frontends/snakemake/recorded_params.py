"""Snakemake's record of a job's params, without importing pandas to find that none is a table.

Where pandas is installed Snakemake imports it to look at the first param of a run: nearly half a
second, in which it does nothing else. A table can be among the params only if pandas was imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def import_no_pandas(persistence: Any) -> None:
    """Have params recorded this way from now on."""
    from snakemake import persistence as of_snakemake

    usual: Any = getattr(persistence, "_params", None)
    plain: Any = getattr(persistence, "_serialize_param_builtin", None)
    nothing = getattr(of_snakemake, "UNREPRESENTABLE", None)
    is_known = callable(usual) and callable(plain) and nothing is not None
    if is_known and not isinstance(usual, RecordedParams):
        persistence._params = RecordedParams(usual, plain, nothing)


class RecordedParams:
    """Stands in for a persistence's ``_params``.

    Parameters
    ----------
    usual
        Snakemake's own.
    plain
        Returns the text of a value that is no table, or ``nothing``.
    """

    def __init__(
        self,
        usual: Callable[[Any], list[Any]],
        plain: Callable[[Any], Any],
        nothing: object,
    ) -> None:
        self._usual, self._plain, self._nothing = usual, plain, nothing

    def __call__(self, job: Any) -> list[Any]:
        """Return what is recorded of a job's params."""
        if "pandas" in sys.modules:
            return self._usual(job)
        texts = map(self._plain, job.non_derived_params)
        return sorted(text for text in texts if text is not self._nothing)
