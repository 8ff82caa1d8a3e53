"""The published checkpoints, in the cache that ``torch.hub`` and fair-esm use.

Standard library only, except that torch says where its cache is; what only a download
needs is imported there, for every reader of a FASTA file imports this module.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.offline import forbidden_by

#: Where fair-esm publishes its files (``esm/pretrained.py``).
BASE_URL = "https://dl.fbaipublicfiles.com/fair-esm"
WEIGHTS = "models/{}.pt"
CONTACTS = "regression/{}-contact-regression.pt"
#: A connection that is silent for so long is given up.
SILENCE_S = 20.0
#: A download that takes longer is given up: the 2.6 GB of the 650M model at 1 MB/s take 2,600 s.
LIMIT_S = 3600.0
CHUNK_BYTES = 1 << 20


def cached(model: str, kind: str) -> str:
    """Return the path of one published file, downloading it if it is not there.

    Parameters
    ----------
    model
        A fair-esm name.
    kind
        :data:`WEIGHTS` or :data:`CONTACTS`.

    Raises
    ------
    InputError
        The file is not in the cache and could not, or must not, be downloaded.
    """
    url = f"{BASE_URL}/{kind.format(model)}"
    path = _cache_directory() / url.rpartition("/")[2]
    if path.is_file():
        return str(path)
    try:
        _refuse_offline()
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, path)
    except (OSError, ValueError) as error:
        raise InputError(_how_to_get(model, url, path, error)) from error
    return str(path)


def _cache_directory() -> Path:
    import torch

    return Path(torch.hub.get_dir(), "checkpoints")


def _how_to_get(model: str, url: str, path: Path, error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return (
        f"the weights of {model} are not in torch's cache, and downloading them failed ({reason}). "
        f"Get {url} and put it at {path}, or give the path of a checkpoint as param model"
    )


def _refuse_offline() -> None:
    variable = forbidden_by()
    if variable:
        raise ConnectionError(f"{variable} is set")


def _download(url: str, path: Path) -> None:
    """Download under a temporary name, so that no other process ever meets half a file."""
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=SILENCE_S) as response:  # noqa: S310 - BASE_URL's
            _check_room(path, response)
            _store(response, path)
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _store(response: Any, path: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _copy(response, file)
        part.chmod(0o644)  # as torch's own downloads are; a temporary file is private
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _copy(response: Any, part: IO[bytes]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    expected, copied = _length(response), 0
    while chunk := response.read(CHUNK_BYTES):
        part.write(chunk)
        copied += len(chunk)
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not done after {LIMIT_S:.0f} s")
    if expected is not None and copied != expected:
        raise ConnectionError(f"it ended after {copied} of {expected} bytes")


def _check_room(path: Path, response: Any) -> None:
    wanted = _length(response) or 0
    free = shutil.disk_usage(path.parent).free
    if wanted > free:
        raise OSError(f"it takes {wanted >> 20} MiB, and {free >> 20} MiB are free")


def _length(response: Any) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length else None
