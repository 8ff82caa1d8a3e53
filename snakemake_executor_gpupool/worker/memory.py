"""Device memory as a worker sees it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from snakemake_executor_gpupool.tool_api.memory import torch_cuda

#: A CUDA context with its libraries' kernels takes 300 to 600 MiB that torch does not count.
UNCOUNTED_CONTEXT_MIB = 600


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while libraries are imported, which make next to none.

    It took a tenth of the import of torch.
    """
    is_usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_usual:
            gc.enable()


def settle_memory() -> None:
    """Exclude a loaded model and its libraries from garbage collection.

    They are hundreds of thousands of permanent objects: scanning them took most of the time of a
    move to host memory and back.
    """
    gc.collect()
    gc.freeze()


def peak_memory_mib(device: str) -> int | None:
    """Return the peak of the process's device memory in MiB; None: it is not known."""
    cuda = torch_cuda()
    if cuda is None or not device.startswith("cuda"):
        return None
    reserved = max(cuda.max_memory_reserved(i) for i in range(cuda.device_count()))
    return int(reserved >> 20) + UNCOUNTED_CONTEXT_MIB
