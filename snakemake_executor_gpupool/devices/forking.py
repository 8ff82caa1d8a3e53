"""What a forked child lets go of: descriptors of locks, channels and helpers of its parent.

A child that was forked and runs no other program (``os.fork``, ``multiprocessing``) has copies
of all of its parent's descriptors. A lock would stay held while the child lives, though its
parent has let go of it or died; the end of a pipe would never come.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that must not live on in a child."""

    def in_child(self) -> None:
        """Close what is open, without a word to anybody; called in the child, after the fork."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def let_go_in_children(each: Forked) -> None:
    """Have ``each.in_child()`` called in every child that this process is to fork."""
    _known.add(each)


def _after_fork() -> None:
    for each in list(_known):
        with contextlib.suppress(Exception):  # the child is somebody else's program
            each.in_child()
    _known.clear()


os.register_at_fork(after_in_child=_after_fork)
