"""Results kept across runs, as coordinator and workers exchange them: the store, and keys.

Standard library only, Python >= 3.9: both sides import this module.
"""

from __future__ import annotations

from typing import NamedTuple

#: Kinds of problems with kept results; a run reports the first of each.
DAMAGED, UNSAFE = "damaged", "unsafe"
UNREADABLE, UNWRITTEN = "unreadable", "unwritten"
#: Results depend on what cannot be covered; or so much so that they are not kept.
UNCOVERED, REFUSED = "uncovered", "refused"
TROUBLES = (DAMAGED, UNSAFE, UNREADABLE, UNWRITTEN, UNCOVERED, REFUSED)


class StoreAddress(NamedTuple):
    """Where results are kept, and who may put them there.

    Attributes
    ----------
    directory
        The store's own directory.
    group
        Id of the group whose members are trusted; None: this user and root alone.
    """

    directory: str
    group: int | None = None


def result_key(space: str, model: str, group: str, item: str) -> tuple[str, ...]:
    """Return the key of an item's result, different from all others.

    Parameters
    ----------
    space
        As a :class:`~snakemake_executor_gpupool.wire.requests.Request` has it: the software
        environment, and the mode if that makes a difference.
    model, group
        As :func:`~snakemake_executor_gpupool.worker.describe.describe_model` has them.
    item
        The item's own key.
    """
    return space, model, group, item
