"""How a command ends: its exit code, and the one line on standard error."""

from __future__ import annotations

import os
import sys
from typing import TextIO

#: Done; the work failed; misuse; Ctrl-C.
EXIT_DONE, EXIT_FAILED, EXIT_MISUSE, EXIT_INTERRUPTED = 0, 1, 2, 130


def complain(message: str) -> None:
    """Print one line on standard error; where nobody reads that, the exit code has to do."""
    _write(f"gpupool: {' '.join(message.split())}\n", sys.stderr, 2)


def explain(text: str) -> None:
    """Print what is more than a line on standard error, if anybody reads it."""
    _write(text, sys.stderr, 2)


def put(text: str) -> None:
    """Print a line on standard output; where nobody reads that, the exit code has to do."""
    _write(f"{text}\n", sys.stdout, 1)


def _write(text: str, stream: TextIO, number: int) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        # Python would try again at its end, and end with another code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def open_standard_streams() -> None:
    """Have what this process was started without go nowhere: ``command >&-``, or some engines.

    Else the next file that it opens would take the number of standard error, and with that all
    that is printed there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
