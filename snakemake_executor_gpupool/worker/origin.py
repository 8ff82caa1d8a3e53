"""What a model was made of: its tool's version and code, its weights, its software environment.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import printable, shortened
from snakemake_executor_gpupool.worker.code_digest import code_of
from snakemake_executor_gpupool.worker.distributions import describe_distributions
from snakemake_executor_gpupool.worker.file_digests import sha256_of_large
from snakemake_executor_gpupool.worker.file_hashes import hash_of
from snakemake_executor_gpupool.worker.named_files import (
    MODEL,
    NOTED_BYTES,
    PASSED_OVER,
    WHOLE_BYTES,
    is_settled,
    roots_of,
)

#: So many files of a model and of a tool's code are named, each in so many characters.
MAX_FILES, MAX_PATH = 20, 400
#: The param by which tools choose their precision.
PRECISION = "precision"
MAX_VALUE = 200


def origin_of(tool: Tool, outputs: Sequence[str] = ()) -> dict[str, str | list[str]]:
    """Return what is known of the model that a tool's params choose; what is unknown is left out.

    ``weights`` and ``code_files`` are texts ``hash path``, the hash as :mod:`~.file_hashes` has
    it, or empty.
    """
    kind: Any = type(tool)
    origin: dict[str, str | list[str]] = {
        "tool": f"{kind.__module__}:{kind.__qualname__}",
        "code": code_of(kind).digest,
        "environment": environment_digest(),
        "python": platform.python_version(),
    }
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if path:
        origin["file"] = _text(os.path.abspath(path))
    files = _hashed(itertools.islice(code_of(kind).files, MAX_FILES))
    if files:
        origin["code_files"] = files
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
    """Return hash and path of each file that a model is loaded from, as far as they are named."""
    named = roots_of([tool.model_params(), list(tool.extra_model_files())], MODEL, outputs)
    files = itertools.chain.from_iterable(_files_of(path) for path in dict.fromkeys(named))
    return _hashed(itertools.islice(files, MAX_FILES))


def _files_of(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for directory, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if name not in PASSED_OVER)
        yield from (os.path.join(directory, name) for name in sorted(names))


def _hashed(paths: Iterable[str]) -> list[str]:
    texts = [f"{_hash_of(path)} {printable(path)}" for path in paths]
    return [text for text in texts if len(text) <= MAX_PATH]


def _hash_of(path: str) -> str:
    """Return a file's hash; that of a large one is read from where it was noted, if it was."""
    try:
        status = os.stat(path)
        is_large = status.st_size > NOTED_BYTES and stat.S_ISREG(status.st_mode)
        if is_large and is_settled(status):
            if status.st_size > WHOLE_BYTES:
                return ""
            return f"{status.st_size}:{sha256_of_large(path, status)}"
    except OSError:
        return ""
    return hash_of(path)


def environment_digest() -> str:
    """Return a digest of names and versions of all that is installed where the tool runs."""
    # No package has the empty name: then everything that is installed counts.
    return hashlib.sha256("\n".join(describe_distributions([""])).encode()).hexdigest()
