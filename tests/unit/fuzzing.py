"""How many cases a fuzz test tries: few by default, many under ``make fuzz``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def cases(by_default: int) -> settings:
    """Return settings for a test that a long run gives ``GPUPOOL_FUZZ_CASES`` cases."""
    asked = os.environ.get("GPUPOOL_FUZZ_CASES", "")
    return settings(
        max_examples=int(asked or by_default),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
