"""What a forked child closes: descriptors of locks, channels and helpers of its parent.

A child that was forked and runs no other program (``os.fork``, ``multiprocessing``) has copies
of all of its parent's descriptors. A lock would stay held while the child lives, though its
parent has released it or died; a pipe would never reach its end.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that must not live on in a child."""

    def in_child(self) -> None:
        """Close what is open and send nothing; called in the child, on its only thread."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def let_go_in_children(each: Forked) -> None:
    """Have ``each.in_child()`` called in every child that this process is to fork."""
    _known.add(each)


def _after_fork() -> None:
    for each in list(_known):
        with contextlib.suppress(Exception):  # the child is a program of its own
            each.in_child()
    _known.clear()


os.register_at_fork(after_in_child=_after_fork)
