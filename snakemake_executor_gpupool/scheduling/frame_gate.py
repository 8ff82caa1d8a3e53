"""What workers answer: checked against what they were asked, then believed. Pure.

A worker runs other people's code, which can write anything into its channel. So a frame
is looked at twice before it may change anything: whether it has the shape of its kind, and
whether it answers what its sender has in hands just now. What fails either way is one
:class:`ProtocolError`, and nothing has changed by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorker
from snakemake_executor_gpupool.scheduling.jobs import Phase
from snakemake_executor_gpupool.scheduling.merging.run import chains_of
from snakemake_executor_gpupool.scheduling.merging.stage import ChainUnit
from snakemake_executor_gpupool.scheduling.models.model import Batch, ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.bounds import (
    MAX_BYTES,
    MAX_COST,
    MAX_COUNT,
    MAX_GPUS,
    MAX_MIB,
    MAX_SECONDS,
    MAX_TOKENS,
    MIN_COST,
    shown,
)
from snakemake_executor_gpupool.wire.frames import Frame, SpoolFile
from snakemake_executor_gpupool.wire.kept import TROUBLES

Check = Callable[[Any], bool]
#: How many versions of libraries a worker may tell, and of how many characters each is.
MAX_VERSIONS, MAX_NAME = 20, 100


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _whole_up_to(most: int, least: int = 0) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _up_to(most: float) -> Check:
    """Seconds, MiB: finite, not negative, and not so large that sums of them might overflow."""
    return lambda value: type(value) in (int, float) and 0 <= value <= most


def _is_cost(value: Any) -> bool:
    """What is added, multiplied and divided by: neither too large nor too close to zero."""
    return type(value) in (int, float) and (value == 0 or MIN_COST <= value <= MAX_COST)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_trouble(value: Any) -> bool:
    return value in TROUBLES


def _is_inner(value: Any) -> bool:
    """A path below a directory."""
    return isinstance(value, str) and "\0" not in value and not {"", ".."} & {*value.split("/")}


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _object(**fields: Check) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(
            name in value and test(value[name]) for name, test in fields.items()
        )

    return check


def _is_versions(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_VERSIONS
        and all(_is_text(text) and len(text) <= MAX_NAME for text in (*value, *value.values()))
    )


_is_seconds = _up_to(MAX_SECONDS)
_is_tokens = _whole_up_to(MAX_TOKENS)
_is_count = _whole_up_to(MAX_COUNT)
_ERROR = _object(kind=_is_text, type=_is_text, message=_is_text, traceback=_is_text)
_TOOL = _object(
    deterministic=_is_flag,
    persistent=_is_flag,
    devices=_list_of(_is_text),
    gpus_per_instance=_whole_up_to(MAX_GPUS, least=1),
    pads=_is_flag,
    vram_mb=_or_none(_up_to(MAX_MIB)),
    batch_limit_s=lambda value: _is_seconds(value) and value > 0,
    can_move=_is_flag,
)
_MODEL = {
    "model": _is_text,
    "model_label": _is_text,
    "group": _is_text,
    "short_tokens": _is_tokens,
}
_ITEM = _object(
    key=_is_text,
    cost=_is_cost,
    tokens=_is_tokens,
    name=_is_text,
)


def _is_item(value: Any) -> bool:
    return _ITEM(value) and _is_flag(value.get("kept", False))


_OUTCOME = _object(error=_or_none(_ERROR), oom=_is_flag)
_PEAK = _or_none(_up_to(MAX_MIB))
_CHAIN = _object(
    chain=_is_whole,
    keys=_list_of(_is_text),
    items=_is_count,
    digests=_list_of(_is_text),
    outputs=_list_of(_is_inner),
    logs=_list_of(_is_inner),
    bytes=_whole_up_to(MAX_BYTES),
)

#: The fields of each kind of frame.
_FIELDS: dict[str, dict[str, Check]] = {
    "tool": {"info": _TOOL},
    "tool_failed": {"error": _ERROR},
    "items": {
        "job": _is_whole,
        "items": _list_of(_is_item),
        "last": _is_flag,
        "follow": _list_of(_object(**_MODEL, info=_TOOL)),
        **_MODEL,
    },
    "remark": {"job": _is_whole, "text": _is_text},
    "read_failed": {"job": _is_whole, "error": _ERROR},
    "written": {"job": _is_whole, "seconds": _is_seconds},
    "write_failed": {"job": _is_whole, "error": _ERROR},
    "published": {"job": _is_whole, "seconds": _is_seconds},
    "unpublished": {"job": _is_whole, "seconds": _is_seconds},
    "loaded": {
        "batch_tokens": _whole_up_to(MAX_TOKENS, least=1),
        "seconds": _is_seconds,
        "peak_mib": _PEAK,
    },
    "load_failed": {"error": _ERROR},
    "done": {
        "batch": _is_whole,
        "outcomes": _list_of(_OUTCOME),
        "seconds": _is_seconds,
        "peak_mib": _PEAK,
    },
    "stage": {
        "batch": _is_whole,
        "stage": _is_whole,
        "last": _is_flag,
        "chains": _list_of(_CHAIN),
        "seconds": _is_seconds,
        "peak_mib": _PEAK,
    },
    "moved": {"away": _is_flag},
    "move_failed": {"error": _ERROR},
    "store_trouble": {"kind": _is_trouble, "why": _is_text},
}
#: Fields that a kind of frame may have or not: what nothing is decided by.
_OPTIONAL: dict[str, dict[str, Check]] = {
    "tool": {"seconds": _is_seconds, "versions": _is_versions},
    "loaded": {"versions": _is_versions},
}
#: What a model's worker may say in each stage; one that is being stopped may still be at it.
_TOLD_IN = {
    "tool": {Stage.STARTING},
    "tool_failed": {Stage.STARTING},
    "loaded": {Stage.LOADING},
    "load_failed": {Stage.LOADING},
    "done": {Stage.READY},
    "stage": {Stage.READY},
    "moved": {Stage.MOVING},
    "move_failed": {Stage.MOVING},
}
#: What a file process may say of the job in its hands, by what it was asked to do with it.
_TOLD_OF = {
    Phase.READING: {"remark", "items", "read_failed"},
    Phase.WRITING: {"written", "write_failed"},
    Phase.PUBLISHING: {"published", "unpublished"},
}
_OF_FILES = set().union(*_TOLD_OF.values())
#: What a file of the spool may be called.
_FILE_NAME = re.compile(r"\w[\w.-]{0,200}", re.ASCII)


class FrameGate:
    """Takes the frames of all workers for the scheduler.

    Parameters
    ----------
    scheduler
        Hears of every frame that makes sense.
    spools
        The only directories whose files a blob may name: what is in them is removed after use.
    """

    def __init__(self, scheduler: Scheduler, spools: Sequence[str]) -> None:
        self._scheduler = scheduler
        self._spools = frozenset(spools)

    def take(
        self, worker_id: str, frame: Frame, now_s: float, energy_j: float | None = None
    ) -> None:
        """Believe a frame.

        Parameters
        ----------
        energy_j
            What the driver counted for what it answers, if it is a micro-batch; None: unknown.

        Raises
        ------
        ProtocolError
            It makes no sense, or answers nothing that its sender was asked. Nothing has changed.
        """
        self._check_shape(frame)
        filing, dispatch = self._scheduler.filing, self._scheduler.dispatch
        if frame.type == "store_trouble":
            _require(filing.owns(worker_id) or dispatch.owns(worker_id), frame)
        elif filing.owns(worker_id):
            self._check_file_worker(filing.worker(worker_id), frame)
        elif dispatch.owns(worker_id):
            _check_model_worker(dispatch.worker(worker_id), frame)
        else:
            raise ProtocolError("it has ended")
        self._deliver(worker_id, frame, now_s, energy_j)

    # -- shape -------------------------------------------------------------------
    def _check_shape(self, frame: Frame) -> None:
        fields = _FIELDS.get(frame.type)
        if fields is None:
            raise ProtocolError(f"there is no {frame.type[:40]!r} frame")
        for name, check in fields.items():
            if name not in frame.meta or not check(frame.meta[name]):
                told = shown(frame.meta.get(name, "missing"), 200)
                raise ProtocolError(f"{name!r} of a {frame.type!r} frame is {told}")
        for name, check in _OPTIONAL.get(frame.type, {}).items():
            if name in frame.meta and not check(frame.meta[name]):
                told = shown(frame.meta[name], 200)
                raise ProtocolError(f"{name!r} of a {frame.type!r} frame is {told}")
        expected = _count_blobs(frame.type, frame.meta)
        if len(frame.blobs) != expected:
            raise ProtocolError(
                f"a {frame.type!r} frame has {len(frame.blobs)} blobs instead of {expected}"
            )
        files = [blob for blob in frame.blobs if isinstance(blob, SpoolFile)]
        if files:
            self._check_files(files)

    def _check_files(self, files: list[SpoolFile]) -> None:
        """See that blobs lie in files of the spool, and none in a file that others lie in, too.

        A file is removed with the last of its blobs: neither too early then, nor never.
        """
        counts = Counter(blob.path for blob in files)
        for blob in files:
            directory, _, name = blob.path.rpartition("/")
            if directory not in self._spools or not _FILE_NAME.fullmatch(name):
                raise ProtocolError(f"a blob lies at {blob.path[:200]!r}, outside the spool")
            if blob.sharers != counts[blob.path]:
                told = f"{counts[blob.path]} blobs lie in {blob.path}, said to be {blob.sharers}"
                raise ProtocolError(told[:400])

    # -- sense -------------------------------------------------------------------
    def _check_file_worker(self, worker: FileWorker, frame: Frame) -> None:
        if frame.type not in _OF_FILES:
            _require(frame.type in {"tool", "tool_failed"} and not worker.ready, frame)
            return
        job_id = frame.meta["job"]
        _require(bool(worker.in_flight) and worker.in_flight[0] == job_id, frame)
        job = self._scheduler.jobs.get(job_id)
        # A job that has failed meanwhile is no longer known: its answer changes nothing.
        _require(job is None or frame.type in _TOLD_OF.get(job.phase, ()), frame)

    # -- delivery ----------------------------------------------------------------
    def _deliver(  # noqa: C901, PLR0912 - one case a kind
        self, worker_id: str, frame: Frame, now_s: float, energy_j: float | None
    ) -> None:
        scheduler, meta = self._scheduler, frame.meta
        match frame.type:
            case "done":
                figures = meta["seconds"], now_s, meta["peak_mib"], energy_j
                scheduler.batch_done(worker_id, meta["outcomes"], frame.blobs, *figures)
            case "stage":
                scheduler.stage_done(worker_id, meta, frame.blobs, now_s, energy_j)
            case "items":
                scheduler.items(worker_id, meta["job"], meta, frame.blobs, now_s)
            case "remark":
                scheduler.remark(worker_id, meta["text"], now_s)
            case "written":
                scheduler.written(worker_id, meta["job"], meta["seconds"], now_s)
            case "published":
                scheduler.published(worker_id, meta["job"], meta["seconds"], now_s)
            case "unpublished":
                scheduler.unpublished(worker_id, meta["job"], now_s)
            case "read_failed":
                scheduler.read_failed(worker_id, meta["job"], meta["error"], now_s)
            case "write_failed":
                scheduler.write_failed(worker_id, meta["job"], meta["error"], now_s)
            case "tool":
                about = meta.get("seconds"), meta.get("versions")
                scheduler.process_ready(worker_id, meta["info"], now_s, *about)
            case "tool_failed":
                scheduler.process_failed(worker_id, meta["error"], now_s)
            case "loaded":
                loaded = meta["batch_tokens"], meta["seconds"], now_s, meta["peak_mib"]
                scheduler.loaded(worker_id, *loaded, meta.get("versions"))
            case "load_failed":
                scheduler.load_failed(worker_id, meta["error"], now_s)
            case "store_trouble":
                scheduler.store_trouble(worker_id, meta["kind"], meta["why"])
            case "moved":
                scheduler.moved(worker_id, meta["away"], now_s)
            case "move_failed":
                scheduler.move_failed(worker_id, meta["error"], now_s)


def _count_blobs(kind: str, meta: Mapping[str, Any]) -> int:
    if kind == "items":
        return len(meta["items"])
    if kind == "stage":
        return sum(len(each["keys"]) for each in meta["chains"])
    if kind == "done":
        return sum(outcome["error"] is None for outcome in meta["outcomes"])
    return 0


def is_next_stage(batch: Batch, meta: Mapping[str, Any]) -> bool:
    """Tell whether an answer is about the stage that a dispatch of chains is at."""
    chains = list(chains_of(batch))
    numbers = [each["chain"] for each in meta["chains"]]
    open_ones = [number for number, chain in enumerate(chains) if not chain.is_over]
    if meta["stage"] != batch.stages_done or not set(numbers) <= set(open_ones):
        return False
    is_last = not numbers or batch.stages_done + 1 == len(chains[0].links)
    return (
        meta["last"] == is_last
        and numbers == sorted(set(numbers))
        and all(_has_sound_keys(chains[each["chain"]], each["keys"]) for each in meta["chains"])
    )


def _has_sound_keys(chain: ChainUnit, keys: list[str]) -> bool:
    if chain.stages_done == 0:
        return keys == chain.part_keys
    return len(set(keys)) == len(keys)


def _check_model_worker(worker: ModelWorker, frame: Frame) -> None:
    stages = _TOLD_IN.get(frame.type)
    _require(stages is not None and worker.stage in {*stages, Stage.STOPPING}, frame)
    if frame.type in ("done", "stage"):
        batch = worker.in_flight[0] if worker.in_flight else None
        _require(batch is not None and batch.batch_id == frame.meta["batch"], frame)
        assert batch is not None
        _require(worker.model.is_chain == (frame.type == "stage"), frame)
        if frame.type == "done":
            _require(len(batch.units) == len(frame.meta["outcomes"]), frame)
        else:
            _require(is_next_stage(batch, frame.meta), frame)
    elif frame.type == "moved" and worker.stage is Stage.MOVING:
        _require(worker.is_leaving == frame.meta["away"], frame)


def _require(sense: bool, frame: Frame) -> None:
    if not sense:
        told = {name: value for name, value in frame.meta.items() if name in ("job", "batch")}
        raise ProtocolError(f"nothing asked for a {frame.type!r} frame {told or ''}".rstrip())
