"""Temporary directories of checks go with them; what a killed one left goes with the next."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.check.scratch import PREFIX, scratch_directory

HOLD = """
import sys, time
from snakemake_executor_gpupool.frontends.commandline.check.scratch import scratch_directory
with scratch_directory() as directory:
    (directory / "output").write_text("half")
    print(directory, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_removed_at_the_end(temporary: Path) -> None:
    with scratch_directory() as directory:
        assert directory.parent == temporary
        directory.joinpath("sub").mkdir()
    assert not list(temporary.iterdir())


def test_what_a_killed_check_left_goes_with_the_next(temporary: Path) -> None:
    other = temporary / f"{PREFIX}of-somebody-else"
    other.mkdir()  # without a lock of ours
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with scratch_directory():
            assert left.is_dir(), "its check still runs"
        process.send_signal(signal.SIGKILL)
    assert left.is_dir()
    with scratch_directory() as mine:
        assert set(temporary.iterdir()) == {mine, other}
