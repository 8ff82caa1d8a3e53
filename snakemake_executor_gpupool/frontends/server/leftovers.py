"""What a writing process leaves beside a job's outputs when it is killed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable

from snakemake_executor_gpupool.worker.staging_folders import STAGING_PREFIX

_STAGING = re.compile(rf"{re.escape(STAGING_PREFIX)}(\d+)-\w+")


def remove_staged(outputs: Iterable[str]) -> None:
    """Remove hidden directories of processes that have ended, where outputs were to be."""
    for parent in {os.path.dirname(path) for path in outputs}:
        try:
            names = os.listdir(parent)
        except OSError:
            continue
        for name in names:
            match = _STAGING.fullmatch(name)
            if match and not os.path.exists(f"/proc/{match[1]}"):
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
