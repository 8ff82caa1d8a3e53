"""Which short requests are merged, and on which worker their models stand side by side. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.errors import ImpossibleRequest
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.merging.choice import MergeChoice
from snakemake_executor_gpupool.scheduling.merging.stage import MergedStage, Place
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.scaling import WorkerScaling
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.messages import FollowingModel, ItemsRead
from snakemake_executor_gpupool.wire.requests import Request, ToolRef, joined_stamp, start_of


class MergeSelection:
    """Finds the longest row of stages that one process can hold, and asks whether it pays."""

    def __init__(
        self,
        allocator: Allocator,
        devices: DeviceRequests,
        models: ModelTable,
        scaling: WorkerScaling,
        choice: MergeChoice,
    ) -> None:
        self._allocator = allocator
        self._devices = devices
        self._models = models
        self._scaling = scaling
        self._choice = choice

    def select(
        self, request: Request, home: Model, tool: FileWorkerPool, message: ItemsRead
    ) -> tuple[tuple[MergedStage, ...], Model, int] | None:
        """Return as many stages of a job's row as fit, and their common model; None: too few.

        The last of what is returned is which of the row's stages is the first.

        Parameters
        ----------
        home
            The model of the first stage alone.
        """
        stages = self._stages(request, tool, message)
        while len(stages) > 1:
            model = self._model(stages, home, tool)
            if model is not None:
                is_merged = self._choice.pays(model, stages, request, tool)
                return (stages, model, 0) if is_merged else None
            stages = stages[:-1]
        return None

    def in_row(
        self,
        place: Place,
        request: Request,
        tool: FileWorkerPool,
        message: ItemsRead,
    ) -> tuple[tuple[MergedStage, ...], Model, int] | None:
        """Return a job's stages in the row that it has a place in; None: it cannot go there.

        Returns
        -------
        tuple
            The stages, the row's model, and which of its stages is the first.
        """
        row, offset = self._models.get(place.row), place.offset
        if row is None or row.error is not None or not row.alive:
            return None
        stages = self._stages(request, tool, message)
        if not stages or offset in row.merged.lost_stages or request.instance != row.instance:
            return None
        models = tuple((stage.model, stage.request.tool) for stage in stages)
        parts = row.parts[offset:]
        # It goes to the row's end, or through its own stage alone.
        number = len(parts) if models[: len(parts)] == parts else 1
        if models[:number] == parts[:number] and stages[0].spec == row.spec:
            return stages[:number], row, offset
        return None

    def _stages(
        self, request: Request, tool: FileWorkerPool, message: ItemsRead
    ) -> tuple[MergedStage, ...]:
        """Return the stages that one process can hold, as far as they go in one row."""
        assert tool.info is not None
        described = [FollowingModel(message.model, tool.info), *message.following]
        stages: list[MergedStage] = []
        for each, its in zip((request, *request.follow), described, strict=False):
            try:
                spec = self._devices.spec_for(each, its.info)
            except ImpossibleRequest:
                break
            model = its.model
            if any(own.error for own in self._models.of_ident(model.model)):
                break  # it cannot be loaded
            names = model.model, model.label, model.group, model.short_tokens
            stage = MergedStage(each, *names, its.info, spec)
            if not _joins(stage, stages):
                break
            stages.append(stage)
        return tuple(stages)

    def _model(
        self, stages: tuple[MergedStage, ...], home: Model, tool: FileWorkerPool
    ) -> Model | None:
        """Return the common model if its models may be side by side now; None: they may not."""
        models = tuple((stage.model, stage.request.tool) for stage in stages)
        key = ("chain", models, home.spec, home.instance)
        known = self._models.get(key)
        if known is None:
            known = self._new_model(key, stages, home, tool)
            if known is None or not self._has_room(known):
                return None
            self._models.add(known, home)
        return known if known.error is None and self._has_room(known) else None

    def _new_model(
        self, key: Hashable, stages: tuple[MergedStage, ...], home: Model, tool: FileWorkerPool
    ) -> Model | None:
        needs = [self._need_mib(stage) for stage in stages]
        need_mib = sum(need or 0 for need in needs) if None not in needs else None
        if not is_gpu(home.spec):
            need_mib = None
        elif need_mib is not None and need_mib > self._largest_mib(home.spec):
            return None
        name = " + ".join(stage.label or str(stage.request.tool) for stage in stages)
        state = FileWorkerPool(merged_ref(stages), f"{tool.name}.chain", info=merged_info(stages))
        # It gathers while inputs of its first stage are being read.
        state.reads, state.reading = tool.reads, tool.reading
        state.workers, state.start_s = tool.workers, tool.start_s
        return Model(
            key=key,
            name=f"chain {name}",
            tool=state,
            spec=home.spec,
            params=stages[0].request.params,
            more_params=tuple(stage.request.params for stage in stages[1:]),
            instance=home.instance,
            vram_mib=need_mib,
            priority=home.priority,
            profile_key=f"{'+'.join(stage.model for stage in stages)}/{home.profile_key}",
        )

    def _need_mib(self, stage: MergedStage) -> int | None:
        """Return a stage's need of device memory: as declared, else as its own workers showed."""
        declared = stage.request.vram_mib or stage.info.vram_mib
        if declared:
            return declared
        needs = (model.memory.need_mib for model in self._models.of_ident(stage.model))
        return max((need for need in needs if need is not None), default=None)

    def _largest_mib(self, spec: DeviceSpec) -> float:
        sizes = [device.memory_mib for device in self._allocator.like(spec)]
        return max((float("inf") if size is None else size for size in sizes), default=0.0)

    def _has_room(self, model: Model) -> bool:
        """Tell whether a row's worker is there, or can be without sending others away."""
        if model.alive or not is_gpu(model.spec):
            return True
        return not model.spec.names and self._scaling.free_places(model) > 0


def _joins(stage: MergedStage, before: list[MergedStage]) -> bool:
    """Tell whether a stage can share its process and device with those before it."""
    info = stage.info
    is_fit = info.deterministic and info.persistent and stage.short_tokens > 0
    is_single = info.gpus_per_instance == 1 and stage.spec.count == 1
    if not is_fit or not is_single or not before:
        return bool(is_fit and is_single)
    first, its = before[0].request, stage.request
    return (
        stage.spec == before[0].spec
        and its.instance == first.instance
        and its.cwd == first.cwd
        and _python(its.tool) == _python(first.tool)
    )


def _python(tool: ToolRef) -> tuple[object, ...]:
    software = tool.python, tool.environment, tool.activation, tool.container
    return tool.base_dir, *software, tool.mode, start_of(tool.stamp)


def merged_ref(stages: tuple[MergedStage, ...]) -> ToolRef:
    """Return the processes that a row's workers are."""
    first, *more = (stage.request.tool for stage in stages)
    name = " + ".join(str(tool) for tool in (first, *more))
    stamp = joined_stamp(tool.stamp for tool in (first, *more))
    specs = tuple(tool.spec for tool in more)
    return dataclasses.replace(first, more=specs, name=name, stamp=stamp)


def merged_info(stages: tuple[MergedStage, ...]) -> ToolInfo:
    """Return what would be said of a tool that is the merged run's tools in a row."""
    infos = [stage.info for stage in stages]
    return dataclasses.replace(
        infos[0],
        pads=any(info.pads for info in infos),
        can_move=all(info.can_move for info in infos),
        batch_limit_s=sum(info.batch_limit_s for info in infos),
        vram_mib=None,
    )
