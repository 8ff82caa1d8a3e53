"""Turns a Snakemake job into a plain request for the pool."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.frontends.snakemake.containers import image_key
from snakemake_executor_gpupool.frontends.snakemake.deployment import environment_key
from snakemake_executor_gpupool.frontends.snakemake.needs import needs_of
from snakemake_executor_gpupool.frontends.snakemake.plain_values import plain
from snakemake_executor_gpupool.frontends.snakemake.recipe import recipe_of
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable, software_of
from snakemake_executor_gpupool.tool_api.mode import DEFAULT_MODE, Mode
from snakemake_executor_gpupool.tool_api.tool_spec import resolve_spec, split_spec
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.requests import (
    PICKLE_PROTOCOL,
    JobFacts,
    Request,
    ToolRef,
    texts_of,
)
from snakemake_executor_gpupool.worker.cold import named_from_namedlist

#: ``runtime`` is in minutes.
MINUTE_S = 60.0
#: The resource, or param, that makes a rule a served one.
TOOL = "gpupool_tool"
#: The resource that Snakemake evaluates only where a job runs.
EVALUATED_WHERE_IT_RUNS = "tmpdir"
#: Snakemake's default for it: an expression.
DEFAULT_TMPDIR = "system_tmpdir"
#: Of how many inputs the size is looked up; Snakemake waits meanwhile.
MAX_LOOKS = 16
#: What more inputs, or a directory, count as.
MANY_BYTES = 1024**3


def title(job: Any) -> str:
    """Return a job's name for messages: rule and wildcards."""
    if job.is_group():
        return f"group {job.groupid} ({', '.join(sorted(job.rules))})"
    wildcards = ", ".join(f"{name}={value}" for name, value in job.wildcards_dict.items())
    return f"rule {job.rule.name}" + (f" ({wildcards})" if wildcards else "")


def identity(job: Any) -> tuple[str, ...]:
    """Return what identifies a job within its workflow; a guess of the job has the same."""
    wildcards = sorted(job.wildcards_dict.items())
    return (job.rule.name, *(str(part) for pair in wildcards for part in pair))


def tool_spec(job: Any) -> str | None:
    """Return what a job's rule gave as ``gpupool_tool``, as a resource or a param."""
    spec = job.resources.get(TOOL) or job.params.get(TOOL)
    return str(spec) if spec else None


def tool_name(job: Any) -> str:
    """Return a served job's tool as messages name it."""
    spec = tool_spec(job) or ""
    return script_of(job.rule) if spec == "script" else spec


def may_be_served(rule: Any) -> bool:
    """Return whether a rule names a tool, whatever comes of it; no job is looked at."""
    return TOOL in rule.resources or rule.params.get(TOOL) is not None


def is_served(job: Any) -> bool:
    """Return whether a job goes to the pool: it names a tool, and no pipe or service joins it."""
    return tool_spec(job) is not None and stands_alone(job)


def stands_alone(job: Any) -> bool:
    """Return whether no pipe or service joins a job to others."""
    return not (has_flags(job) and (job.is_pipe or job.is_service))


def has_flags(job: Any) -> bool:
    """Return whether an output of a job may be flagged; to ask for each flag takes far longer."""
    return any(getattr(path, "flags", True) for path in job.output)


def is_prepared_here(job: Any) -> bool:
    """Return whether a job is prepared when it is submitted, and not only when it starts."""
    try:
        return any(is_served(member) for member in (job.jobs if job.is_group() else (job,)))
    except Exception:  # its resources are malformed: it is refused elsewhere
        return False


def evaluate_here(job: Any) -> None:
    """Evaluate what Snakemake leaves open for jobs that run on another machine: ``tmpdir``.

    A served job runs on this machine, so it gets what it would get under the local executor.
    Params may be functions of resources.
    """
    for member in job.jobs if job.is_group() else (job,):
        if isinstance(member.resources.get(EVALUATED_WHERE_IT_RUNS), open_value()):
            rule = member.rule
            if rule.resources[EVALUATED_WHERE_IT_RUNS].raw == DEFAULT_TMPDIR:
                # Evaluating all resources again would add a tenth to Snakemake's cost of a job.
                here = {EVALUATED_WHERE_IT_RUNS: tempfile.gettempdir()}
                member._resources = _with(member.resources, here)
            else:
                member._resources = rule.expand_resources(
                    member.wildcards_dict, member.input, member.attempt
                )
            if any(callable(param) for param in rule.params):
                member._params = None


def _with(resources: Any, values: dict[str, str]) -> Any:
    """Return a copy of a job's resources where some that it has have other values."""
    # Its constructor takes four times as long: it looks at each name anew.
    copied = copy.copy(resources)
    for name, value in values.items():
        copied[copied._names[name][0]] = value
        setattr(copied, name, value)
    return copied


@functools.cache
def open_value() -> type[object]:
    """Return the type of resources that Snakemake leaves open."""
    from snakemake.common.tbdstring import TBDString

    found: type[object] = TBDString
    return found


def build_request(
    workflow: Any,
    job: Any,
    job_id: int,
    tool: ToolRef,
    *,
    here: str = "",
    guessed: Job | None = None,
    **more: Any,
) -> Request:
    """Return the request of a served job. Call it after the job was prepared, or guess.

    Parameters
    ----------
    here
        The working directory, if that is known: to ask for it takes as long as all else.
    guessed
        The job is not ready, and this is what its tool may see of it: its resources are not known,
        its inputs may not be there, and nothing is recorded of it.
    more
        Further fields of the request.

    Raises
    ------
    Unservable
        The rule asks for something that a warm worker cannot provide; the message says what to do.
    """
    needs = needs_of(job)
    is_guess = guessed is not None
    plain = guessed or plain_job(job)
    bare = pickle.dumps(guessed or plain.replace(resources={}), PICKLE_PROTOCOL)
    touched: tuple[int, ...] = ()
    updates: tuple[tuple[int, str], ...] = ()
    directories: tuple[int, ...] = ()
    if has_flags(job):
        touched, directories = flagged(job, "touch"), flagged(job, "directory")
        updates = updated_outputs(workflow, job)
    recipe = "" if is_guess else recipe_of(plain, tool, job, touched=touched, updates=updates)
    here = here or str(Path.cwd())
    return Request(
        job_id=job_id,
        title=title(job),
        tool=tool,
        job=bare if is_guess else pickle.dumps(plain, PICKLE_PROTOCOL),
        bare=bare,
        params=pickle.dumps(dict(plain.params), PICKLE_PROTOCOL),
        cwd=str(Path(here, job.shadow_dir)) if job.shadow_dir else here,
        devices=needs.spec if needs.is_counted else None,
        card=needs.card,
        instance=str(job.resources.get("gpupool_instance") or ""),
        vram_mib=needs.vram_mib,
        priority=job.priority,
        timeout_s=limit_s_of(job),
        attempt=job.attempt,
        input_bytes=0 if is_guess else input_bytes(plain.input),
        updates=updates,
        touched=touched,
        directories=directories,
        identity=identity(job),
        facts=JobFacts() if is_guess else facts_of(job, plain.params, recipe),
        texts=tuple(sorted(set(texts_of(plain.params)))),
        **more,
    )


def facts_of(job: Any, params: Mapping[str, Any] | None = None, recipe: str = "") -> JobFacts:
    """Return what the run's files say of a job; of a group, what its members have together."""
    if job.is_group():
        members = list(job.jobs)
        files = {
            name: [path for member in members for path in getattr(member, name)]
            for name in ("input", "output", "log")
        }
        title_of_group = f"group {job.groupid}"
        return JobFacts.of(title_of_group, {}, files["input"], files["output"], files["log"])
    named = job.rule.name, job.wildcards_dict, job.input, job.output, job.log
    return JobFacts.of(*named, int(job.threads), params, recipe)


def flagged(job: Any, flag: str) -> tuple[int, ...]:
    """Return the indices of a job's outputs that have a flag, such as ``touch``."""
    from snakemake.io import is_flagged

    if not has_flags(job):
        return ()
    return tuple(number for number, path in enumerate(job.output) if is_flagged(path, flag))


def updated_outputs(workflow: Any, job: Any) -> tuple[tuple[int, str], ...]:
    """Return the indices of outputs that a job updates, each with Snakemake's copy of it.

    The copy stays unchanged, so that the job can be written a second time. In a shadow directory
    there are none, as for a rule's own body.
    """
    if job.shadow_dir:
        return ()
    copies = [
        (number, workflow.persistence._get_backup_path(Path(job.output[number])))
        for number in flagged(job, "update")
    ]
    return tuple((number, str(copy.absolute())) for number, copy in copies if copy.exists())


def input_bytes(paths: Sequence[str]) -> int:
    """Return the total size of a job's inputs in bytes.

    Many inputs, or a directory, count as :data:`MANY_BYTES`; a missing file counts as 0.
    """
    return MANY_BYTES if len(paths) > MAX_LOOKS else sum(map(_size_bytes, paths))


def _size_bytes(path: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - the quicker way, for each input of each job
    except OSError:
        return 0
    return MANY_BYTES if stat.S_ISDIR(status.st_mode) else status.st_size


def limit_s_of(job: Any) -> float | None:
    """Return a job's ``runtime`` in seconds; None: it does not say."""
    value = job.resources.get("runtime")
    return MINUTE_S * value if isinstance(value, (int, float)) and value > 0 else None


def source_of_tool(workflow: Any, job: Any) -> str:
    """Return how a job's tool is named, with the place of its file on this machine.

    Raises
    ------
    Unservable
        The file does not exist, or the rule has no script that could be the tool.
    """
    spec = tool_spec(job) or ""
    if spec == "script":
        spec = script_of(job.rule)
    place, class_name = split_spec(spec)
    if place.endswith(".py"):
        local = source_path(workflow, job, place)
        return f"{local}:{class_name}" if class_name else local
    return spec


def script_of(rule: Any) -> str:
    """Return the path of a rule's own Python script.

    Raises
    ------
    Unservable
        The rule has none.
    """
    if rule.script and split_spec(str(rule.script))[0].endswith(".py"):
        return str(rule.script)
    bodies = {"shell": rule.shellcmd, "notebook": rule.notebook, "wrapper": rule.wrapper}
    body = next((f"is a {name}:" for name, value in bodies.items() if value), "is none")
    if rule.script:
        body = f"is {rule.script}, which is not a Python file"
    raise Unservable(
        f"{TOOL} is 'script', which means the rule's own Python script:, but its body {body}. Name "
        f"the tool: an installed one (gpupool tools lists them), path/to/file.py:Class, or "
        "package.module:Class"
    )


def tool_ref(
    workflow: Any,
    job: Any,
    python: str,
    mode: Mode = DEFAULT_MODE,
    shown: Iterable[str] = (),
) -> ToolRef:
    """Return the tool that a rule names; a file's path is relative to its Snakefile.

    Parameters
    ----------
    python
        The interpreter of workers whose rules have no software of their own.
    shown
        Directories of gpupool's own that workers in a container must see.
    """
    spec, name = source_of_tool(workflow, job), tool_name(job)
    try:
        spec = resolved(spec)
    except UnknownTool as error:
        raise Unservable(str(error)) from error
    place, _ = split_spec(spec)
    places = [f"{Path(place).absolute().parent}:ro"] if place.endswith(".py") else []
    places += [str(Path(place).absolute()) for place in shown]
    software = software_of(workflow, job, python, places)
    return ToolRef(
        spec=spec,
        base_dir=str(Path.cwd()),
        python=software.python,
        environment=software.environment,
        activation=software.activation,
        mode=mode,
        name=name,
        container=software.container,
    )


def tool_key(workflow: Any, job: Any) -> tuple[object, ...]:
    """Return what jobs have in common that have the same tool; looking at it takes no time."""
    return job.rule.name, tool_spec(job), environment_key(job), image_key(workflow, job)


@functools.lru_cache(maxsize=1024)
def resolved(spec: str) -> str:
    """Return a tool's resolved name; cached, as searching the packages takes milliseconds."""
    return resolve_spec(spec)


def source_path(workflow: Any, job: Any, path: str) -> str:
    """Return where a source file of the workflow lies on this machine, fetched if need be."""
    from snakemake.sourcecache import infer_source_file

    if Path(path).is_absolute():
        return path
    source = job.rule.basedir.join(path)
    if source.is_local and Path(source.get_path_or_uri(secret_free=True)).exists():
        return str(Path(source.get_path_or_uri(secret_free=True)).absolute())
    try:
        return str(workflow.sourcecache.get_path(infer_source_file(source)))
    except (WorkflowError, OSError) as error:
        here = Path(path).absolute()
        meant = (
            f"; there is {here}, but paths are relative to the Snakefile" if here.is_file() else ""
        )
        raise Unservable(
            f"there is no tool file {source.get_path_or_uri(secret_free=True)}{meant}"
        ) from error


def plain_job(job: Any, *, has_resources: bool = True) -> Job:
    """Return what a tool may see of a job, as plain values."""
    resources = job.resources if has_resources else {}
    return Job(
        rule=job.rule.name,
        wildcards={name: str(value) for name, value in job.wildcards_dict.items()},
        input=named_from_namedlist(job.input),
        output=named_from_namedlist(job.output),
        params={k: plain(v) for k, v in job.params.items() if k != TOOL},
        log=named_from_namedlist(job.log),
        threads=job.threads,
        resources={k: plain(v) for k, v in resources.items() if not k.startswith("_")},
    )
