"""Settings and fixtures of all tests."""

import os
import subprocess

import hypothesis
import pytest

# What one test measured must not change what another one plans.
os.environ["GPUPOOL_PROFILE"] = "off"

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "gpupool", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("gpupool")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB and 24 inodes; tests without the right to mount are skipped."""
    place = tmp_path / "small"
    place.mkdir()
    options = "size=128k,nr_inodes=24,mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"there is no mount command: {error}")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
