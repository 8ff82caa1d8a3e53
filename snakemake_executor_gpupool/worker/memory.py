"""Device memory as a worker sees it; torch is looked at only if the tool imported it."""

from __future__ import annotations

import gc
import sys
from typing import Any

#: A CUDA context with its libraries' kernels takes 300 to 600 MiB that torch does not count.
CONTEXT_MIB = 600


def _torch_cuda() -> Any:
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_available() and cuda.is_initialized() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, whichever library raised it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def settle_memory() -> None:
    """Keep the collector off what a loaded model and its libraries are made of.

    It is hundreds of thousands of objects that stay: looking through them took most of the
    time of a move to host memory and back.
    """
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Give unused device memory back to the driver."""
    gc.collect()
    cuda = _torch_cuda()
    if cuda is not None:
        cuda.synchronize()
        cuda.empty_cache()


def peak_memory_mib(device: str) -> int | None:
    """Return the most device memory that the process has held, in MiB, if that is known."""
    cuda = _torch_cuda()
    if cuda is None or not device.startswith("cuda"):
        return None
    reserved = max(cuda.max_memory_reserved(i) for i in range(cuda.device_count()))
    return int(reserved >> 20) + CONTEXT_MIB
