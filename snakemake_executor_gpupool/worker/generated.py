"""Files that libraries generate: compiled kernels, and code made from what counts anyway.

They lie where the library is told to put them, or where it does so by itself. A name alone says
nothing: a user's own directory or module may be called the same. Nothing here looks at a file: it
is asked while a tool's looks are noted.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools
import os
import pwd
import re

#: What decides where they lie, besides the user's home.
_VARIABLES = (
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "PYTORCH_KERNEL_CACHE_PATH"),
    *("CUDA_CACHE_PATH", "HF_MODULES_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"),
    *("TMPDIR", "TEMP", "TMP", "LOGNAME", "USER", "LNAME", "USERNAME"),
)


def is_kernel(path: str) -> bool:
    """Return whether a file is one of compiled kernels, or of what they are compiled from."""
    return path.startswith(_places(_settings())[0])


def is_generated(path: str) -> bool:
    """Return whether a file of code was put there by a library that has made or fetched it."""
    return path.startswith(_places(_settings())[1])


def _settings() -> tuple[str, ...]:
    return tuple([os.environ.get(name, "") for name in _VARIABLES])


@functools.lru_cache(maxsize=8)
def _places(settings: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what paths of kernels start with, and those of any generated code."""
    of = dict(zip(_VARIABLES, settings))
    home = os.path.expanduser("~")
    cache = of["XDG_CACHE_HOME"] or f"{home}/.cache"
    temporary = of["TMPDIR"] or of["TEMP"] or of["TMP"] or "/tmp"  # noqa: S108 - torch's place
    kernels = _below(
        of["TORCHINDUCTOR_CACHE_DIR"] or f"{temporary}/torchinductor_{_user(of)}",
        of["TRITON_CACHE_DIR"] or f"{of['TRITON_HOME'] or home}/.triton",
        of["PYTORCH_KERNEL_CACHE_PATH"] or f"{cache}/torch/kernels",
        of["CUDA_CACHE_PATH"] or f"{home}/.nv",
    )
    hub = of["HF_HOME"] or f"{cache}/huggingface"
    modules = of["HF_MODULES_CACHE"] or f"{hub}/modules"
    return kernels, (*kernels, *_below(f"{modules}/transformers_modules"))


def _below(*places: str) -> tuple[str, ...]:
    """Return what paths below some places start with; a place that this process works in is none.

    Who lets a library put its files beside their own has everything there counted.
    """
    here = f"{os.getcwd()}{os.sep}"
    full = (f"{os.path.abspath(place)}{os.sep}" for place in places)
    return tuple(place for place in full if not here.startswith(place))


def _user(of: dict[str, str]) -> str:
    """Return what torch calls this user in the name of a directory."""
    name = of["LOGNAME"] or of["USER"] or of["LNAME"] or of["USERNAME"]
    if not name:
        try:
            name = pwd.getpwuid(os.getuid())[0]
        except KeyError:
            return ""
    return re.sub(r'[\\/:*?"<>|]', "_", name)
