"""Which of its parent's locks are lent to a job, as its environment says it. Pure.

``GPUPOOL_LEASE`` is a token and the lock files that lend, as in ``4f1c...:GPU-5a.lock``. By itself
it permits nothing: it counts only while the parent holds that file, and the token stands in it. A
lease that has ended, or whose parent is gone, permits nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device import Device

_HEX = "[0-9a-f]{16}"
_NAME = r"[A-Za-z0-9._-]+"


@dataclass(frozen=True)
class LentLocks:
    """The locks that a parent lends.

    Attributes
    ----------
    token
        Names the lease.
    files
        The lock files that the parent holds, by the name of their card.
    """

    token: str
    files: dict[str, str]

    def __str__(self) -> str:
        return f"{self.token}:{','.join(self.files.values())}" if self.files else ""

    @classmethod
    def parse(cls, text: str) -> LentLocks:
        """Read ``GPUPOOL_LEASE``; what is not understood lends nothing."""
        token, _, files = text.partition(":")
        names = files.split(",")
        if not re.fullmatch(_HEX, token) or not all(map(card_of, names)):
            return cls("", {})
        return cls(token, {card_of(name): name for name in names})

    def part(self, devices: Collection[Device]) -> LentLocks:
        """Return the part that some of the devices are."""
        names = {lock_name(device) for device in devices}
        return LentLocks(
            self.token, {name: self.files[name] for name in self.files if name in names}
        )


def new_token() -> str:
    """Return a new token."""
    return secrets.token_hex(8)


def lock_name(device: Device) -> str | None:
    """Return the stem of the names of a device's files; None: it has no lock."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", device.uuid) if device.uuid else None


def lent_by(token: str, devices: Sequence[Device]) -> LentLocks:
    """Return a lease of devices whose locks another process holds, on their own machine."""
    names = [name for name in map(lock_name, devices) if name is not None]
    return LentLocks(token, {name: f"{name}.lock" for name in names})


def borrowed_file(name: str, token: str) -> str:
    """Return the file that a borrower locks, for a card and a lease."""
    return f"{name}.lent-{token}"


def is_borrowed_file(name: str, file_name: str) -> bool:
    """Tell whether a file is one that a borrower of a card locks."""
    return re.fullmatch(re.escape(name) + rf"\.lent-{_HEX}", file_name) is not None


def card_of(file_name: str) -> str:
    """Return the card that a lock file is of; empty: it is none."""
    match = re.fullmatch(rf"({_NAME}?)\.(?:lock|lent-{_HEX})", file_name)
    return match[1] if match else ""
