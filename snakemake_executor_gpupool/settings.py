"""The options of ``snakemake --executor gpupool``; Snakemake adds the prefix ``--gpupool-``.

No postponed evaluation of annotations here: Snakemake reads the real types.
"""

from dataclasses import dataclass, field
from typing import Optional

from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """What a user may set on the command line or in a profile."""

    devices: Optional[str] = field(
        default=None,
        metadata={
            "help": "Which devices the pool may use. 'auto' (the default): all visible GPUs, or "
            "CPU workers if there is none. 'cuda:0,cuda:1': these GPUs. A number: so many GPUs. "
            "'cpu:2': two CPU workers that share the cores. Indices count within "
            "CUDA_VISIBLE_DEVICES if that is set.",
        },
    )
    offload_strategy: Optional[str] = field(
        default=None,
        metadata={
            "help": "What happens to an idle model whose device is needed by another: 'restart' "
            "(the default) ends its worker, which loads again when needed; 'cpu' moves its weights "
            "to host memory, from where they return by a copy.",
            "choices": ["restart", "cpu"],
        },
    )
    allow_multiple_per_device: bool = field(
        default=False,
        metadata={
            "help": "Put several models on one GPU instead of evicting. Give vram_mb as a resource "
            "of the rules, so that the pool can tell what fits; without it, that they fit is the "
            "user's to know.",
        },
    )
    batch_window: Optional[float] = field(
        default=0.2,
        metadata={
            "help": "Seconds that a model without work waits for more inputs to be read before its "
            "first batch is cut. While it works, arrivals gather by themselves.",
            "type": float,
        },
    )
    idle_timeout: Optional[float] = field(
        default=None,
        metadata={
            "help": "Seconds without work after which a model's worker is ended and its device "
            "freed. By default workers stay until the run ends or another model needs the device.",
            "type": float,
        },
    )
    cache: Optional[str] = field(
        default=None,
        metadata={
            "help": "Directory that keeps results across runs, by content: an item that any "
            "earlier run computed with the same tool, model and params is not computed again. "
            "Safe for runs at the same time; bounded in size (GPUPOOL_CACHE_GIB, default 20).",
        },
    )
