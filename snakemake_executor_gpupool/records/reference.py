"""Every name that a user meets in a Snakefile, a shell or a run's files, described once.

The reference pages of the documentation are generated from these tables and from the options in
:mod:`~snakemake_executor_gpupool.frontends.snakemake.settings`. Tests compare the tables with
the code.
"""

from __future__ import annotations

from snakemake_executor_gpupool.records import jobs_table

#: Resources of a rule that mean something to gpupool.
RESOURCES = {
    "gpupool_tool": "The tool that serves the rule: an installed tool's name, "
    "`package.module:Class`, `path/to/file.py:Class` relative to the Snakefile, or `script` for "
    "the rule's own script. Without it the rule runs as a plain one. It may be a param instead.",
    "gpu": "How many GPUs a job needs, as a whole number. For a plain rule they are its own while "
    "it runs; for a served rule, how many each copy of the model takes.",
    "device": "Which devices, as a device string (`cuda`, `cudax2`, `cuda:0`, `cpu`); takes "
    "precedence over `gpu`.",
    "gpu_model": "Which model of card, as in `a100`, or several, as in `a100,h100`; case and "
    "punctuation do not count, and `any` is any (after `--set-resources` `ANY`: Snakemake takes "
    "`any` for a function of Python's). Without `gpu` or `device` it asks for one GPU, as "
    "under the Slurm plugin; for a served rule, for as many as its tool takes.",
    "gpu_manufacturer": "Whose cards: `nvidia`, `amd`. Alone it asks for no GPU.",
    "gpupool_instance": "A name. Rules that give different ones have models and workers of their "
    "own, even for the same tool and params.",
    "vram_mb": "Device memory that a job or a copy of the model needs on each device: in MiB as a "
    'number, or with its unit (`"8GB"`, `"8GiB"`). '
    "Used to choose cards that are large enough, and to pack several on one.",
    "runtime": "Minutes that a job may take. For a served rule: the most that one of its "
    "micro-batches may take before its worker counts as hung. For a plain rule that holds a "
    "device: its processes are ended then.",
    "mem_mb": "Memory of a job that is not served, in MB. Jobs start when what they ask for fits "
    "into this machine's memory together (`--gpupool-memory`).",
}

#: The events in ``events.jsonl``, with their fields beside ``time_s`` and ``event``.
EVENTS = {
    "run_started": "The pool is open: `format` of these lines, `devices` and `device_info` (model, "
    "memory, ... of each), `simulated`, `driver` (NVIDIA's), `frontend` (`snakemake` or `python`), "
    "`options` that were given, `snakefile` and its `snakefile_sha256`, `mode` (`default` or "
    "`reproducible`), `seed`, `versions`, `host`, `pid`, `cwd`.",
    "run_ended": "The pool is closed: `wall_s`, `energy_j` (what each device has used, idle "
    "time included, where its driver counts it).",
    "pool_failed": "The pool itself failed, which is a bug: `error`, `traceback`.",
    "job_submitted": "A served job is ready: `job` (rule and wildcards), `job_id`, `tool`, `rule`, "
    "`wildcards`, `threads`, `attempt` (from the second on), `limit_s` (its rule's `runtime`, in "
    "seconds), `inputs`, `outputs` and `logs` (the first 20 of each), `n_inputs`, `n_outputs`.",
    "job_read": "All items of a job are known: `job_id`, `items`, `missing` (how many have no "
    "result yet), `duplicates` and `reused` as `job_done`, `model`.",
    "remark": "A warning that a user saw: `worker`, `text`.",
    "job_done": "Its outputs are in place: `job`, `job_id`; `items`, `duplicates` (items that "
    "another place had asked for before), `reused` (distinct ones whose results an earlier run had "
    "left), `worked_s` (its share of the time of its batches, reading and writing); its [cost]"
    "(../costs.md): `device_s`, `device_kind`, `peak_mib`, `energy_j`, `saved_s`.",
    "job_failed": "It has failed: as `job_done`, and `error`.",
    "job_withdrawn": "It was not started, since another job had failed: `job`, `job_id`; as "
    "`job_done`, if items of it were computed for others.",
    "lease_requested": "A plain job waits for devices: `job`, `job_id`, `wants` (a device string), "
    "and its rule and files as `job_submitted`.",
    "lease_granted": "It has them and runs: `job`, `job_id`, `devices`.",
    "lease_released": "It has ended: `job`, `job_id`; `error` if it has failed.",
    "lease_failed": "It will not have them, or the run was ended: `job`, `job_id`, `error`.",
    "device_granted": "A worker may use `devices`: `worker`, `model` (that it is for).",
    "device_refused": "Another process holds a device: `device`, `why`.",
    "device_given_back": "It no longer does: `device`.",
    "devices_joined": "A node of the cluster brought `devices`.",
    "devices_left": "A node of the cluster went: `devices`, `why`.",
    "evicted": "A worker must leave its devices: `worker`, `devices`, `how` (`restart` or `cpu`).",
    "worker_started": "A process was started: `worker`, `tool`, `pid`, `devices` (empty: it reads "
    "and writes files), `node` (empty: where Snakemake is), `stamp` (in a server: of its code and "
    "surroundings).",
    "worker_forked": "A process is there that another one, which has imported its packages, has "
    "forked, or started if they cannot be shared: `worker`, `pid` (which its `worker_started` does "
    "not know).",
    "worker_attached": "A process of a [server](../engines.md#snakemake), which had it already, "
    "works for this run: `worker`, `tool`, `pid`, `devices`, `node`; of a model's worker also "
    "`model`, `seconds` (that its load had taken) and `versions`.",
    "server_attached": "A server does this run's served jobs: `directory`, `pid`, `devices`.",
    "server_lost": "It no longer does: `why`, `jobs` (how many it had).",
    "tool_imported": "It has imported its tool: `worker`, `seconds`, `versions` (of its Python, "
    "and of libraries that are loaded).",
    "worker_stopping": "It was asked to end: `worker`, `why`.",
    "printed": "In a server: a tool has printed something, which stands in the log of its process "
    "(`workers/WORKER.log`) from byte `start` to `end`: `worker`, `doing` (`import`, `read`, "
    "`load`, `run`, `write`), `job_id` or `batch`.",
    "worker_ended": "It has ended: `worker`, `reason`, `expected`, `exit` (its exit code, or the "
    "negative number of the signal that ended it; not of one that gpupool has killed).",
    "worker_died": "A model's worker ended by itself: `worker`, `reason`.",
    "read_sent": "A process is to read a job's input: `worker`, `job_id`.",
    "write_sent": "It is to write a job's output: `worker`, `job_id`.",
    "publish_sent": "It is to move staged outputs of a chain into place: `worker`, `job_id`.",
    "file_done": "It has done so, or reported why not: `worker`, `job_id`.",
    "load_sent": "A worker is to load its model: `worker`.",
    "model_loaded": "A worker has its model: `worker`, `model`, `seconds`, `peak_mib` (device "
    "memory that it has held), `versions`.",
    "move_sent": "It is to move its weights: `worker`, `to`.",
    "model_moved": "Its weights were moved: `worker`, `to`.",
    "move_failed": "They could not be moved, and the worker is ended: `worker`, `error`.",
    "model_failed": "A model was given up: `model`, `error`.",
    "ahead_failed": "A model could not be loaded before it had a job; that counts for nothing: "
    "`model`, `error`.",
    "batch_sent": "A micro-batch went to a worker: `batch`, `worker`, `items`, `jobs` that wait "
    "for them, `tokens`, `padded_tokens` (what the device computes), `longest_tokens`.",
    "batch_done": "Its results are back: `batch`, `worker`, `seconds`, `items`, `failed` (items), "
    "`jobs` and `device_s` (what each of them is charged for it, in the same order), `own_items` "
    "(about how many are this run's, if a server computed it for others, too), `overhead_s` "
    "(device seconds that no job is charged for, by cause), `peak_mib`, `energy_j`.",
    "batch_lost": "Its worker ended before it was done: `batch`, `worker`, `lost_s` (device "
    "seconds that came to nothing); of a merged dispatch whose first stages were done, also as "
    "`batch_done`.",
    "stage_done": "A dispatch through a chain has finished one of its models: `job` (whose "
    "items these were), `job_id` (of the chain's first job), `batch`, `stage` (from 0), `worker`.",
    "stage_loaded": "A worker of merged dispatches has loaded a later stage's model, which is said "
    "when it is needed first: `worker`, `stage` (from 0), `seconds`, `versions`.",
    "merge_decided": "From now on short requests through a row of models are merged (`merged`), or "
    "are not: `model` (the row), `requests` that go the same way, what they take merged and "
    "job by job (`merged_s`, `apart_s`), as estimated, `why`.",
    "dispatch_saved": "All results of a job existed already, computed with those of the job before "
    "it: `job`, `job_id`, `batch` (which wrote its outputs).",
    "store_trouble": "Something is wrong with results kept across runs: `worker`, `kind` "
    "(`damaged`: removed and computed again; `unsafe`: others could have written it; `unreadable`; "
    "`unwritten`: a result could not be kept; `uncovered`: a tool does what kept results "
    "cannot cover; `refused`: its results are not kept), `why`.",
    "out_of_memory": "A micro-batch did not fit and was halved: `worker`, `budget` (tokens, from "
    "now on).",
}

#: What ``summary.json`` holds.
SUMMARY = {
    "jobs_served": "served jobs that succeeded",
    "jobs_failed": "served jobs that failed",
    "jobs_withdrawn": "served jobs that were not started, since another job had failed",
    "items": "items of all jobs",
    "items_unique": "distinct items that were to be computed, each once",
    "items_computed": "those that were computed and did not fail",
    "items_reused": "distinct items whose results an earlier run had left in the cache",
    "chains_merged": "short jobs that took the jobs after them along in one dispatch",
    "dispatches_saved": "jobs that needed no dispatch, as a merged one had computed their items",
    "guesses_unclaimed": "results of merged dispatches that no job asked for",
    "model_loads": "how often a model was loaded",
    "evictions": "how often a worker had to leave its devices",
    "offloads": "how many of these moved its weights to host memory",
    "worker_crashes": "workers that ended by themselves",
    "bytes_in_messages": "bytes of items and results that came from a cluster's nodes through the "
    "coordinator; 0 on one machine",
    "bytes_in_files": "bytes that stayed on the file system that the nodes share",
    "costs": "[device seconds](../costs.md) of jobs (`jobs_s`) and of nobody (`out_of_memory_s`, "
    "`unclaimed_s`, `lost_s`); together they are the `busy_s` of all devices",
    "wall_s": "seconds from the pool's opening to its end",
    "simulated": "whether the GPUs were simulated",
    "devices": "for each device `busy_s`, the seconds that it computed",
}

#: The columns of ``jobs.tsv``: Nextflow's, then our own.
JOBS_COLUMNS = {**jobs_table.NEXTFLOWS, **jobs_table.OWN}

#: The files of a run, below ``.snakemake/gpupool/latest/``.
FILES = {
    "events.jsonl": "what happened, one JSON object a line",
    "jobs.tsv": "one line for each job that has ended: when, how, and what it took",
    "summary.json": "the figures of the run",
    "report.html": "the run as a page, see [the report](../report.md); opens in any browser",
    "recording.jsonl": "with `GPUPOOL_RECORD=1`: all that was decided on and what was decided, for "
    "`gpupool replay`",
    "workers/*.log": "what each worker process printed",
    "spool/": "large results in transit, if the memory file system is too small or several "
    "machines take part; empty afterwards",
}

#: Environment variables that gpupool reads, and those that it sets for jobs and workers.
VARIABLES = {
    "GPUPOOL_MANAGED_DEVICES": "As `--gpupool-devices`.",
    "GPUPOOL_OFFLOAD_STRATEGY": "As `--gpupool-offload-strategy`.",
    "GPUPOOL_ALLOW_MULTI_DEVICE": "As `--gpupool-allow-multiple-per-device`: `1` or `0`.",
    "GPUPOOL_SIMULATE": "Simulated GPUs, on a machine without: `4`, `4x80GiB`, or with "
    "models `2x80GiB:A100,1x24GiB:RTX 4090`.",
    "GPUPOOL_LOCK_DIR": "Directory of the locks between runs on one machine; a site sets it for "
    "all users.",
    "GPUPOOL_PROFILE": "File of measured speeds and memory needs; `off`: none. Default: "
    "`gpupool/profile.json` in the user's cache directory.",
    "GPUPOOL_CACHE_GIB": "Bound of the result cache, in GiB. Default: 20.",
    "GPUPOOL_CACHE_SHARED": "`group`: the result cache is shared by the members of its directory's "
    "group, each of whom can then run code as the others. Default: it is yours alone.",
    "GPUPOOL_RECORD": "`1`: a run records what its decisions depend on, and what they are, in "
    "`recording.jsonl` of its directory. It names files, rules and items, and has no contents.",
    "GPUPOOL_NODE_SNAKEMAKE": "`always`: also a `shell:` job on a node has a Snakemake of its own "
    "there. Default: only jobs that need it ([which](../clusters.md#many-short-jobs)).",
    "GPUPOOL_LOOKAHEAD": "`0`: what is loaded and evicted follows from the jobs that are ready, "
    "and not from those that Snakemake's graph says will come. Default: 1.",
    "GPUPOOL_REPRODUCIBLE": "As `--gpupool-reproducible`: `1` or `0`. A run sets it for all its "
    "processes, and a rule's own body, run cold, follows it, too.",
    "GPUPOOL_SEED": "As `--gpupool-seed`, likewise. Default: 0.",
    "GPUPOOL_DEVICE_KIND": "Set for jobs and workers of a reproducible run: its GPUs' model and "
    "driver, and the processor, under which results are kept.",
    "GPUPOOL_SERVER": "Whether `gpupool run` has its job done by a server: as its `--server`. "
    "Default: `off`.",
    "GPUPOOL_SERVER_IGNORE": "Names of variables, separated by commas, that differ from task to "
    "task and that workers of a server are not shown; `NAME*` for all that start like that.",
    "GPUPOOL_SERVER_RENEWED": "Set by a client of a server that has begun anew, since gpupool was "
    "installed anew meanwhile.",
    "GPUPOOL_ASKED": "Set by a server in a process in a container: what it is asked for.",
    "GPUPOOL_EXPECTED": "Set in worker processes of a server: what their tool's code must be.",
    "GPUPOOL_PROVENANCE": "`off`: [where outputs came from](../provenance.md) is not recorded, and "
    "files are not read for it. Default: `on`.",
    "GPUPOOL_OFFLINE": "`1`: tools download nothing.",
    "GPUPOOL_DEVICE": "The device of a rule's own body, run cold: `cpu`, `cuda:0`. Default: a "
    "GPU where there is one.",
    "GPUPOOL_SIMULATED": "Set for jobs: `1` if their devices are simulated.",
    "GPUPOOL_LEASE": "Set for jobs: the lease, for gpupool inside the job to use its devices; "
    "empty: it has no device.",
    "GPUPOOL_MEMBERS": "Set for the process that runs jobs joined by a pipe or a service: what "
    "each of them sees.",
    "GPUPOOL_WORKER": "Set in worker processes: the worker's name.",
    "GPUPOOL_PROCESS": "Set in worker processes, and so in all that they start: the worker they "
    "belong to. Processes that a worker leaves behind are found by it, and killed.",
    "GPUPOOL_TOOL_FILES": "Set in worker processes: the files of their tools, for the processes "
    "that a tool starts itself.",
    "GPUPOOL_EARLY": "Set in worker processes that are started before the workflow is read: what "
    "they import ahead.",
    "GPUPOOL_ENVIRONMENT": "Set in worker processes: the directory of the rule's own environment.",
    "GPUPOOL_CONTAINER": "Set in worker processes: the image of the rule's container.",
    "GPUPOOL_QUESTION": "Set by `gpupool verify` in containers: the file that says which job "
    "is done again.",
    "GPUPOOL_FILE_DIGESTS": "Set in worker processes in containers: the directory where digests of "
    "large files are noted.",
}
