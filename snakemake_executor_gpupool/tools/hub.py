"""Weights that a library finds by name in the Hugging Face cache, or downloads there."""

from __future__ import annotations

import importlib
import os
from typing import Any, Callable

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.offline import forbidden_by


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


def found(model: str, what: str, load: Callable[[bool], Any]) -> Any:
    """Load a model from its directory or the cache, and only if it is not there by a download.

    A library left to itself asks the hub first, also for what is in the cache: on a machine
    without a network it would try for a minute.

    Parameters
    ----------
    model
        A directory, or the name of a repository on the Hugging Face hub.
    what
        What is expected there, for example ``"an ESMFold model"``.
    load
        Loads it; is told whether it must do without the network.

    Raises
    ------
    InputError
        In place of what libraries raise for models that are not there, not whole or damaged.
    """
    from safetensors import SafetensorError

    not_there = (OSError, ValueError, KeyError, SafetensorError)
    try:
        try:
            return load(True)
        except InputError:
            raise
        except not_there:
            if os.path.isdir(model) or forbidden_by():  # noqa: PTH112 - as few imports as possible
                raise
        return load(False)
    except InputError:
        raise
    except not_there as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{_advice(model, what)} ({first})") from error


def _advice(model: str, what: str) -> str:
    if os.path.isdir(model):  # noqa: PTH112 - as few imports as possible
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
