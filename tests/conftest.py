"""Settings of all tests."""

import os

# What one test measured must not change what another one plans.
os.environ["GPUPOOL_PROFILE"] = "off"
