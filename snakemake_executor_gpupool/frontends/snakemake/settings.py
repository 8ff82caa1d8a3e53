"""The options of ``snakemake --executor gpupool``; Snakemake adds the prefix ``--gpupool-``.

No postponed evaluation of annotations here: Snakemake reads the real types.
"""

from dataclasses import dataclass, field
from typing import Optional

from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from snakemake_executor_gpupool.frontends.snakemake.collector import COLLECTOR


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
    merge: Optional[str] = field(
        default="auto",
        metadata={
            "help": "What happens to short jobs (at most 128 tokens, or what the tool says) whose "
            "outputs the next served rule reads: 'auto' (the default) runs them through the whole "
            "chain of models in one dispatch where these fit side by side on a device; 'off' runs "
            "every rule by itself. Results are the same.",
            "choices": ["auto", "off"],
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
    reproducible: bool = field(
        default=False,
        metadata={
            "help": "Make an item's result depend on the item, the model, the params, the kind of "
            "device and the versions alone, to the bit: not on what shares its batch, on the "
            "order or number of workers. Tools that cannot do so are refused. GPUs must be of one "
            "model.",
        },
    )
    seed: Optional[int] = field(
        default=None,
        metadata={
            "help": "What the seeds of items are made from, for tools that draw random numbers "
            "with seed_of(): a whole number from 0 on. Without it 0.",
            "type": int,
        },
    )
    report: Optional[str] = field(
        default=None,
        metadata={
            "help": "File for the run's report, one HTML page that needs nothing else, beside the "
            "report.html that each run leaves in its directory.",
        },
    )
    keep_runs: int = field(
        default=20,
        metadata={
            "help": "How many runs' files are kept in .snakemake/gpupool, this one's among them; "
            "older ones are removed when a run ends. 0: all. The newest run that failed stays, and "
            "any that goes on.",
            "type": int,
        },
    )
    keep_runs_mib: int = field(
        default=2048,
        metadata={
            "help": "How many MiB they may take together, this one's included; 0: any.",
            "type": int,
        },
    )
    server: Optional[str] = field(
        default="off",
        metadata={
            "help": "Whether served rules are done by a server (gpupool serve), which keeps models "
            "loaded from one run to the next: 'off' (the default), 'auto' (start one if there is "
            "none), 'on' (use the one that there is, or fail), or the path of its socket.",
        },
    )
    cluster: Optional[str] = field(
        default=None,
        metadata={
            "help": "Run the pool on several nodes. 'allocation': those of the Slurm allocation "
            "that Snakemake was started in. 'slurm', 'pbs', 'lsf', 'sge' or 'htcondor': submit "
            "pilot jobs as they are needed, see nodes. 'tls://host:port': the workers of a Dask "
            "scheduler that runs already, see tls_ca.",
        },
    )
    nodes: Optional[str] = field(
        default=None,
        metadata={"help": "MIN:MAX, how many pilot jobs there may be at a time."},
    )
    partition: Optional[str] = field(
        default=None, metadata={"help": "Partition or queue of pilot jobs."}
    )
    account: Optional[str] = field(
        default=None, metadata={"help": "Account or project of pilot jobs."}
    )
    walltime: Optional[str] = field(
        default=None,
        metadata={"help": "How long a pilot job may run, hours:minutes:seconds."},
    )
    gpus_per_node: int = field(default=1, metadata={"help": "GPUs of a pilot job."})
    cores_per_node: int = field(default=4, metadata={"help": "Processor cores of a pilot job."})
    memory_per_node: str = field(default="16GiB", metadata={"help": "Memory of a pilot job."})
    pilot_options: Optional[str] = field(
        default=None,
        metadata={
            "help": "Further options for the batch system, separated by semicolons, as in "
            "'--constraint=a100; --exclusive'. For systems other than Slurm they have to say "
            "how GPUs are asked for.",
        },
    )
    interface: Optional[str] = field(
        default=None,
        metadata={
            "help": "Network interface to listen on for the nodes, such as ib0. By default the "
            "one that leads out of this machine.",
        },
    )
    tls_ca: Optional[str] = field(
        default=None,
        metadata={"help": "Certificate authority of a Dask scheduler that runs already (file)."},
    )
    tls_cert: Optional[str] = field(
        default=None, metadata={"help": "Certificate to show to it (file)."}
    )
    tls_key: Optional[str] = field(
        default=None, metadata={"help": "Key of that certificate (file)."}
    )
    link_timeout: float = field(
        default=60.0,
        metadata={
            "help": "Seconds without word after which a node counts as lost, and its work goes "
            "to others.",
            "type": float,
        },
    )
    cpu_rules: str = field(
        default="local",
        metadata={
            "help": "Where rules without a device run when there is a cluster: 'local' (the "
            "default), on the machine that Snakemake runs on, or 'cluster', on the nodes.",
            "choices": ["local", "cluster"],
        },
    )
    runtime_limits: str = field(
        default="gpu",
        metadata={
            "help": "Which plain rules' runtime is a limit: 'gpu' (the default), that of jobs that "
            "hold a device, whose processes get SIGTERM, and SIGKILL 10 seconds "
            "later; 'off': none.",
            "choices": ["gpu", "off"],
        },
    )
    memory: Optional[str] = field(
        default=None,
        metadata={
            "help": "How much memory jobs that are not served may ask for together by their "
            "mem_mb, on the machine that Snakemake runs on: a size such as 64GB, or 'off' for no "
            "limit. By default what the machine has.",
        },
    )
    without_gpu: str = field(
        default="refuse",
        metadata={
            "help": "What happens to rules that ask for GPUs where there is none: 'refuse' (the "
            "default), the run does not start, but a served rule that asks for one GPU runs on the "
            "CPU if its tool does; 'run', all of them run without, as under the local executor.",
            "choices": ["refuse", "run"],
        },
    )
    early_start: str = field(
        default="auto",
        metadata={
            "help": "Whether processes of the tools that the workflow's last run used are started "
            "at once, to import the packages that these need while Snakemake reads the workflow: "
            "'auto' (the default) or 'off'. Nothing else depends on it.",
            "choices": ["auto", "off"],
        },
    )

    def __post_init__(self) -> None:
        """Snakemake makes them for a run under this executor, before it reads the workflow."""
        from snakemake_executor_gpupool.frontends.snakemake.early import begin

        COLLECTOR.relax()
        begin(self)
