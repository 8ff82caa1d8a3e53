"""Weights that a library finds by name in the Hugging Face cache, or downloads there."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from snakemake_executor_gpupool.tool import InputError

#: Any of these set to something true forbids downloads.
OFFLINE = ("GPUPOOL_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def forbidden_by() -> str:
    """Return the environment variable that forbids downloads; empty if none does."""
    for name in OFFLINE:
        if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            return name
    return ""


def library(module: str, tool: str, package: str) -> Any:
    """Import a library that a tool needs, and return it.

    Raises
    ------
    InputError
        It cannot be imported; the message names the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{tool} needs the Python package {package} ({error})") from error


@contextlib.contextmanager
def explained(model: str, what: str) -> Iterator[None]:
    """Turn a library's failure to find or read ``model`` into an error that says what to do.

    Parameters
    ----------
    model
        A directory, or the name of a repository on the Hugging Face hub.
    what
        What is expected there, for example ``"an ESMFold model"``.

    Raises
    ------
    InputError
        In place of :class:`OSError` and :class:`ValueError`, which transformers and
        sentence-transformers raise for models that are not there or are not whole.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{_advice(model, what)} ({first})") from error


def _advice(model: str, what: str) -> str:
    if os.path.isdir(model):  # noqa: PTH112 - a worker imports as little as possible
        return f"{model} holds no usable weights: expected {what} in the Hugging Face format"
    from huggingface_hub.constants import HF_HUB_CACHE

    variable = forbidden_by()
    reason = f"{variable} is set" if variable else "no download from here"
    return (
        f"the weights of {model} are neither a directory nor in the cache {HF_HUB_CACHE}, and "
        f"could not be downloaded: {reason}. Run 'hf download {model}' where there is a "
        "network, with HF_HOME on a file system that this machine sees too, or give the path of "
        f"a directory as param model; expected {what}"
    )
