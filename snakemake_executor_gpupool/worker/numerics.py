"""What a reproducible run fixes in the libraries that compute.

Variables are read when a library is loaded, or when it first uses a GPU, so a process gets them
from the one that starts it. What torch can be told later is told once the tool has imported it;
this module imports nothing itself. Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.memory import torch_cuda
from snakemake_executor_gpupool.tool_api.reproducible import NUMERIC_VARIABLES, THREADS, mode_here
from snakemake_executor_gpupool.wire.machine import processor

#: Libraries that read the variables while they are loaded.
_READERS = ("numpy", "torch", "scipy", "tensorflow", "jax", "sklearn", "numba")


def prepare() -> str:
    """Set the variables in this process; return which library has been loaded too early for them.

    Empty: none has been. Called before a cold job's tool is used; workers are started with them.
    """
    missing = {n: v for n, v in NUMERIC_VARIABLES.items() if os.environ.get(n) != v}
    os.environ.update(missing)
    return next((name for name in _READERS if missing and name in sys.modules), "")


def start_again() -> None:
    """Run this process's program again from its start: it has loaded a library too early."""
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = getattr(sys, "orig_argv", ["", *sys.argv])[1:]
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - there is no shell


def is_of_kind() -> bool:
    """Tell whether this machine's processor is the one that the run's results are kept under."""
    mode = mode_here()
    return not mode.is_reproducible or mode.kind.endswith(processor())


def claim_kind(directories: Sequence[str], device: str) -> None:
    """Make sure that all workers of a reproducible run compute on one kind of device.

    The first worker that has loaded a model says on which, in the run's directory for all
    machines; for the others it has to be the same.

    Parameters
    ----------
    directories
        Those that the run's machines share, the last for all of them; none: there is one machine.
    device
        What the model was loaded on.

    Raises
    ------
    ContractError
        It is another one.
    """
    if not directories or not mode_here().is_reproducible:
        return
    word = device.partition(":")[0]
    cuda = torch_cuda()
    card = cuda.get_device_name(0) if cuda is not None and word == "cuda" else ""
    own = "; ".join(filter(None, [card, processor()]))
    path = os.path.join(directories[-1], f"kind-{word}")
    # No process id: two containers of one machine may give the same one.
    mine = f"{path}-{os.urandom(8).hex()}"
    with open(mine, "w", encoding="utf-8") as file:
        file.write(own)
    try:
        os.link(mine, path)  # with its content, or not at all
    except FileExistsError:
        with open(path, encoding="utf-8") as file:
            first = file.read()
        if first != own:
            raise ContractError(
                "the machines of a reproducible run have to be alike, for results depend on them: "
                f"a worker computes on {first}, this one on {own}. Choose nodes of one kind, or "
                "run without --gpupool-reproducible"
            ) from None
    finally:
        os.unlink(mine)


def settle(device: str) -> None:
    """Tell torch, if the tool has imported it, to compute in one way only.

    Called before and after a model is loaded, and before each batch: a tool may change it.
    """
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "use_deterministic_algorithms"):
        return  # not imported, or not yet as a whole
    for setting in _settings(torch, device):
        with contextlib.suppress(AttributeError, RuntimeError):  # of another version of torch
            setting()


def _settings(torch: Any, device: str) -> list[Callable[[], object]]:
    settings: list[Callable[[], object]] = [
        lambda: _set_threads(torch),
        lambda: torch.use_deterministic_algorithms(True),
        # Costs a pass over each new array, and says nothing of results.
        lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
        lambda: torch.set_float32_matmul_precision("highest"),
    ]
    if device.startswith("cuda"):
        settings += _of_cuda(torch.backends)
    return settings


def _set_threads(torch: Any) -> None:
    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


def _of_cuda(backends: Any) -> list[Callable[[], object]]:
    cuda, cudnn = backends.cuda, backends.cudnn
    no = {
        cuda.matmul: ("allow_fp16_reduced_precision_reduction",),
        cudnn: ("benchmark", "allow_tf32"),
    }
    settings = [
        lambda owner=owner, name=name: setattr(owner, name, False)
        for owner, names in no.items()
        for name in names
    ]
    bf16 = "allow_bf16_reduced_precision_reduction"
    return [
        *settings,
        lambda: setattr(cuda.matmul, bf16, False),
        lambda: setattr(cudnn, "deterministic", True),
        # One attention kernel: which of several is chosen depends on masks and alignment.
        lambda: cuda.enable_flash_sdp(False),
        lambda: cuda.enable_mem_efficient_sdp(False),
        lambda: cuda.enable_cudnn_sdp(False),
        lambda: cuda.enable_math_sdp(True),
    ]
