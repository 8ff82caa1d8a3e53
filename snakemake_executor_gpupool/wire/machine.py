"""What this machine computes with, as far as it decides the bits of a result; and which it is.

Standard library only, Python >= 3.9: both sides import this module.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: What libraries choose their code by, most of all.
_FEATURES = ("avx", "avx2", "fma", "f16c", "asimd", "sve", "sve2", "bf16", "i8mm", "vsx")
_FAMILIES = ("avx512", "avx_", "amx_", "avx10")


@functools.lru_cache(maxsize=1)
def processor() -> str:
    """Return the kind of this machine's processor: its model and what it can compute with."""
    facts = _cpu_facts()
    names = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    shown = sorted(f for f in flags if f in _FEATURES or f.startswith(_FAMILIES))
    model = [facts[name] for name in names if facts.get(name)] or [platform.processor()]
    return " ".join([platform.machine(), *model, *shown])


def _cpu_facts() -> dict[str, str]:
    """Return what the kernel says of the first core."""
    facts: dict[str, str] = {}
    try:
        with open(os.path.join(os.sep, "proc", "cpuinfo"), encoding="utf-8", errors="replace") as f:
            for line in f:
                if not line.strip():
                    break
                name, _, value = line.partition(":")
                facts[name.strip()] = value.strip()
    except OSError:
        pass  # of another system
    return facts


def this_boot() -> bytes:
    """Return the id of this boot of this machine; empty if the system does not say."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""
