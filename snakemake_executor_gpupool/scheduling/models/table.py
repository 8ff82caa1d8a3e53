"""All models of a run, each known by everything that makes it different. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, ValuesView

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.wire.described import ModelInfo
from snakemake_executor_gpupool.wire.requests import Request


class ModelTable(Mapping[Hashable, Model]):
    """The models by their keys; a new one starts with what earlier runs measured of it.

    Parameters
    ----------
    figures
        What earlier runs measured, by model and kind of device.
    """

    def __init__(self, devices: DeviceRequests, figures: Mapping[str, Figures]) -> None:
        self._devices = devices
        self._figures = dict(figures)
        self._models: dict[Hashable, Model] = {}
        #: Of models that are forgotten.
        self.measured: dict[str, Figures] = {}

    def __getitem__(self, key: Hashable) -> Model:
        return self._models[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._models)

    def values(self) -> ValuesView[Model]:
        """Return all models; that of a mapping would look each of them up."""
        return self._models.values()

    def __len__(self) -> int:
        return len(self._models)

    def add(self, model: Model) -> Model:
        """Take in a model that is new, and return it."""
        self._models[model.key] = model
        model.recall(self._figures.get(model.profile_key, Figures()))
        return model

    def remove(self, model: Model) -> None:
        """Forget a model that has no worker and no work; what was measured of it is kept."""
        del self._models[model.key]
        self._figures[model.profile_key] = model.figures()
        self.measured[model.profile_key] = model.figures()

    def of_request(self, request: Request, tool: FileWorkerPool, described: ModelInfo) -> Model:
        """Return the model that a job's items are computed by, new if it was never asked for.

        Raises
        ------
        ImpossibleRequest
            No device of the pool will do; the message says why.
        """
        assert tool.info is not None
        spec = self._devices.spec_for(request, tool.info)
        key = (described.model, request.instance, spec, tool.ref)
        model = self._models.get(key)
        if model is None:
            name = f"{tool.name} ({described.label})" if described.label else tool.name
            model = self.add(
                Model(
                    key=key,
                    name=f"{name} [{request.instance}]" if request.instance else name,
                    tool=tool,
                    spec=spec,
                    params=request.params,
                    instance=request.instance,
                    vram_mib=request.vram_mib or tool.info.vram_mib,
                    priority=request.priority,
                    ident=described.model,
                    profile_key=self._profile_key(described.model, spec),
                )
            )
        if model.error is not None and request.attempt > 1:
            # What could not be loaded may be there by now.
            model.error = None
        if request.attempt > 1:
            model.broken.pop(described.group, None)
        return model

    def _profile_key(self, ident: str, spec: DeviceSpec) -> str:
        return f"{ident}/{self._devices.label(spec)}"

    def last_load_s(self, ident: str, spec: DeviceSpec) -> float | None:
        """Return what loading a model took that this run has not asked for; None: never seen."""
        return self._figures.get(self._profile_key(ident, spec), Figures()).load_s
