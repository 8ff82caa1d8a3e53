"""Signals that end a worker, or do not.

It outlasts those by which a batch system ends all processes of a machine's job: the agent gets
them, too, and says what becomes of the work. It ends with the process that started it.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType

_PR_SET_PDEATHSIG = 1
#: Linux says by this that the other end of a socket has closed its side.
_HANG_UP = getattr(select, "POLLRDHUP", 0x2000) | select.POLLHUP


def outlast(descriptor: int) -> None:
    """Ignore such signals until the coordinator has closed the channel.

    A child that the tool forks is ended by them as ever; one that it starts afresh has never
    had this handler.
    """
    own_pid = os.getpid()

    def react(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own_pid and not is_closed(descriptor):
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, react)


def is_closed(descriptor: int) -> bool:
    """Whether nothing more will come over a socket, whatever lies in it unread."""
    poll = select.poll()
    poll.register(descriptor, _HANG_UP)
    return bool(poll.poll(0))


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends.

    The end of the channel and the reaper do the same; but a stopped process does not notice the
    end of a channel, and the reaper may be killed together with our parent.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        pass  # this Python was built without ctypes
