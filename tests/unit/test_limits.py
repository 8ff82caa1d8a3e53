"""The limit of open files: raised where it may be, said where it may not (S9)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import resource, sys
from snakemake_executor_gpupool.runtime.limits import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], end=" ")
warning = allow_open_files(int(sys.argv[3]))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], warning)
"""


@pytest.mark.parametrize(
    ("limits", "devices", "told"),
    [
        ((40, 40), 16, "40 40 this process may have 40 files open at once, and 16 devices may"),
        ((40, 1000), 16, "40 192 \n"),
        ((40, 100), 16, "40 100 this process may have 100"),
        ((500, 1000), 16, "500 500 \n"),
    ],
)
def test_the_limit_of_open_files(limits: tuple[int, int], devices: int, told: str) -> None:
    command = [sys.executable, "-c", CODE, *map(str, (*limits, devices))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith(told)
