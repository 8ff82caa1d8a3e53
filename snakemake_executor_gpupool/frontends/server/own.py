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


def why_not_served(
    message: Mapping[str, Any], key: str, here: tuple[int, list[int]], groups: list[int]
) -> str:
    """Return why a server does not serve a client, by its surroundings; empty: it does.

    Parameters
    ----------
    here
        The server's view of the file system, and its root.
    groups
        Which groups the server belongs to.
    """
    if message.get("key") != key:
        return "the server is for another version of gpupool, or other devices"
    if [message.get("namespace"), message.get("root")] != list(here):
        return "the server sees other files, as where one of both is in a container"
    if message.get("groups") != groups:
        return "the server belongs to other groups, and so its files would"
    return ""
