"""Device memory, for tools and workers; torch is looked at only if the tool imported it."""

from __future__ import annotations

import gc
import sys
from typing import Any


def torch_cuda() -> Any:
    """Return ``torch.cuda`` if the tool has imported torch and used a GPU, else None."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_available() and cuda.is_initialized() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, whichever library raised it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def release_memory() -> None:
    """Give unused device memory back to the driver."""
    gc.collect()
    cuda = torch_cuda()
    if cuda is not None:
        cuda.synchronize()
        cuda.empty_cache()
