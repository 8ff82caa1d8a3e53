"""What a client says of itself, and what a server that it starts gets from it. Light."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from snakemake_executor_gpupool.frontends.server.address import INSIDE, namespace, root_directory


def inside_of(env: Mapping[str, str]) -> str:
    """Return the variable that says that gpupool works for somebody already; empty: none does."""
    return next((name for name in INSIDE if env.get(name)), "")


def environment_of_server(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what is for one task alone."""
    env = dict(variables)
    if env.get("HOME") == os.getcwd():
        del env["HOME"]  # Python asks the system, then
    for name in ("TMPDIR", "TMP", "TEMP", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        env.pop(name, None)
    if "PYTHONPATH" in env:
        places = env["PYTHONPATH"].split(os.pathsep)
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, places))
    return env


def surroundings(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what a server must know of this process to work for it.

    Raises
    ------
    FileNotFoundError
        The working directory was removed.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "cwd": os.getcwd(),
        "umask": umask,
        "variables": dict(variables),
        "namespace": namespace(),
        "root": list(root_directory()),
        "groups": [os.getegid(), *sorted(os.getgroups())],
    }
