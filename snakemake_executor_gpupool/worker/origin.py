"""What a model was made of: its tool's version and code, its weights, its software environment.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import printable, shortened
from snakemake_executor_gpupool.worker.code_digest import code_digest
from snakemake_executor_gpupool.worker.distributions import describe_distributions
from snakemake_executor_gpupool.worker.file_hashes import hash_of
from snakemake_executor_gpupool.worker.named_files import MODEL, contents_of

#: So many files of a model are named, each with a path of so many characters.
MAX_WEIGHTS, MAX_PATH = 20, 500
#: The param by which tools choose their precision.
PRECISION = "precision"
MAX_VALUE = 200


def origin_of(tool: Tool, outputs: Sequence[str] = ()) -> dict[str, str | list[str]]:
    """Return what is known of the model that a tool's params choose; what is unknown is left out.

    ``weights`` are texts ``hash path``, the hash as :mod:`~.file_hashes` has it, else empty.
    """
    kind: Any = type(tool)
    origin: dict[str, str | list[str]] = {
        "tool": f"{kind.__module__}:{kind.__qualname__}",
        "code": code_digest(kind),
        "environment": environment_digest(),
        "python": platform.python_version(),
    }
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if path:
        origin["file"] = _text(os.path.abspath(path))
    if tool.version not in (None, ""):
        origin["version"] = _text(tool.version)
    precision = dict(tool.params).get(PRECISION)
    if isinstance(precision, str):
        origin["precision"] = _text(precision)
    weights = weights_of(tool, outputs)
    if weights:
        origin["weights"] = weights
    return origin


def _text(value: Any) -> str:
    return printable(shortened(str(value), MAX_VALUE))


def weights_of(tool: Tool, outputs: Sequence[str] = ()) -> list[str]:
    """Return hash and path of each file, or directory of files, that a model is loaded from."""
    files = [tool.model_params(), list(tool.extra_model_files())]
    named = dict(contents_of(files, MODEL, outputs))
    texts = [f"{hash_of(path)} {printable(path)}" for path in list(named)[:MAX_WEIGHTS]]
    return [text for text in texts if len(text) <= MAX_PATH]


def environment_digest() -> str:
    """Return a digest of names and versions of all that is installed where the tool runs."""
    # No package has the empty name: then everything that is installed counts.
    return hashlib.sha256("\n".join(describe_distributions([""])).encode()).hexdigest()
