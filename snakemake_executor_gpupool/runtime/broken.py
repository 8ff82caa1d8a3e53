"""What is said of an error that ends a run before its time."""

from __future__ import annotations

import errno
import traceback

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.wire.bounds import printable

#: Errors that say nothing of gpupool: no room, no more files or processes, no memory.
OUT_OF = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.ENOMEM,
)


def what_broke(error: BaseException) -> str:
    """Say what ends a run before its time: a mistake in the set-up plainly, else a bug."""
    if isinstance(error, ConfigError):
        return printable(error)
    if isinstance(error, OSError) and error.errno in OUT_OF:
        return printable(f"the machine has run out of something that every run needs: {error}")
    return printable(f"gpupool itself failed, which is a bug: {error!r}")


def story_of(error: BaseException) -> str:
    """Return an error's traceback."""
    return "".join(traceback.format_exception(error))[-8000:]
