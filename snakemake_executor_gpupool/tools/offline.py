"""Whether downloads are forbidden."""

from __future__ import annotations

import os

#: Any of these set to something true forbids downloads.
OFFLINE = ("GPUPOOL_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def forbidden_by() -> str:
    """Return the environment variable that forbids downloads; empty if none does."""
    for name in OFFLINE:
        if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            return name
    return ""
