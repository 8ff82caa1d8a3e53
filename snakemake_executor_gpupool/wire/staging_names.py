"""What the hidden directories are called that outputs are written in.

Who makes them says so in the name, so that what a killed process has left can be told from what is
being written. Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re

from snakemake_executor_gpupool.wire.machine import this_boot

STAGING_PREFIX = ".gpupool-"
_NAME = re.compile(rf"{re.escape(STAGING_PREFIX)}([0-9a-f]{{8}})-(\d+)-\w+")


@functools.lru_cache(maxsize=1)
def where_pids_count() -> str:
    """Return a name of what numbers of processes belong to: this boot, and this namespace.

    Another machine that shares a file system, or a container, has other processes by these numbers.
    """
    boot = this_boot() or platform.node().encode()
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return hashlib.sha256(b"%b|%d" % (boot, namespace)).hexdigest()[:8]


def staging_prefix() -> str:
    """Return how the names begin of those that this process makes."""
    return f"{STAGING_PREFIX}{where_pids_count()}-{os.getpid()}-"


def maker_of(name: str) -> int | None:
    """Return the process that made a hidden directory; None: one elsewhere, or it is none."""
    match = _NAME.fullmatch(name)
    return int(match[2]) if match and match[1] == where_pids_count() else None
