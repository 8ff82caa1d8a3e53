"""Ends what a killed coordinator leaves behind.

A tiny process of its own session that reads ``+PID`` and ``-PID`` lines from the
coordinator. When that pipe ends without a farewell, the coordinator is dead: every
process group still on the list is killed, stopped or blocked ones included. The idea
is that of multiprocessing's resource tracker. Started as
``python -S -E reaper.py`` with the pipe as standard input.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Follow the list until the pipe ends, then kill what is left on it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
