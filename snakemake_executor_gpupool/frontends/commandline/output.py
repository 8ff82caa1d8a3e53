"""How a command ends: its exit code, and the one line on standard error."""

from __future__ import annotations

import sys

#: Done; the work failed; misuse; Ctrl-C.
EXIT_DONE, EXIT_FAILED, EXIT_MISUSE, EXIT_INTERRUPTED = 0, 1, 2, 130


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"gpupool: {' '.join(message.split())}", file=sys.stderr)
