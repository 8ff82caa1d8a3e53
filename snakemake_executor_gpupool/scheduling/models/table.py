"""All models of a run, each known by everything that makes it different. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, ValuesView

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_key import ModelKey
from snakemake_executor_gpupool.wire.described import ModelInfo
from snakemake_executor_gpupool.wire.requests import Request

#: So many models, or groups of a model's items, that have no work are kept at most; measured
#: figures of so many that are not.
MAX_IDLE, MAX_MEASURED = 250, 2000


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
        self._most_figures = len(self._figures) + MAX_MEASURED
        self._models: dict[Hashable, Model] = {}
        #: By what file processes call them.
        self._of_ident: dict[str, dict[Hashable, Model]] = {}
        #: How many models there were when idle ones were forgotten last.
        self._tidied = 0
        #: Of models that are forgotten.
        self.measured: dict[str, Figures] = {}
        #: Told of each of them.
        self.on_removed: Callable[[Model], None] = lambda model: None

    def __getitem__(self, key: Hashable) -> Model:
        return self._models[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._models)

    def values(self) -> ValuesView[Model]:
        """Return all models; that of a mapping would look each of them up."""
        return self._models.values()

    def rows(self) -> list[Model]:
        """Return those that are several models side by side."""
        return [model for model in self._models.values() if model.is_chain]

    def of_ident(self, ident: str) -> Collection[Model]:
        """Return the models that file processes call so: on other devices, or of other instances.

        Not the rows of models, which they do not know.
        """
        return self._of_ident.get(ident, {}).values()

    def __len__(self) -> int:
        return len(self._models)

    def add(self, model: Model, home: Model | None = None) -> Model:
        """Take in a model that is new, and return it.

        ``home``: of a row of models, the one that its first stage goes to if it is not merged.
        """
        if len(self._models) >= self._tidied + MAX_IDLE:
            self._forget_idle(home)
        if isinstance(model.key, tuple):
            model.key = ModelKey(model.key)
        self._models[model.key] = model
        if model.ident:
            self._of_ident.setdefault(model.ident, {})[model.key] = model
        model.recall(self._figures.get(model.profile_key, Figures()))
        return model

    def remove(self, model: Model) -> None:
        """Forget a model that has no worker and no work; what was measured of it is kept."""
        del self._models[model.key]
        if model.ident:
            same = self._of_ident[model.ident]
            del same[model.key]
            if not same:
                del self._of_ident[model.ident]
        for table, most in ((self._figures, self._most_figures), (self.measured, MAX_MEASURED)):
            table.pop(model.profile_key, None)  # the newest last
            table[model.profile_key] = model.figures()
            if len(table) > most:
                del table[next(iter(table))]
        self.on_removed(model)

    def _forget_idle(self, home: Model | None) -> None:
        """Forget the models that have no worker and no work, where there are very many."""
        homes = {merged.home for merged in self._merged()}
        for model in [model for model in self._models.values() if model.is_unused]:
            if model.key not in homes and model is not home:
                self.remove(model)
        self._tidied = len(self._models)

    def _merged(self) -> Iterator[MergedRequest]:
        """Yield the merged requests that wait or are in flight."""
        items = (item for row in self.rows() for item in row.items())
        return (item for item in items if isinstance(item, MergedRequest))

    def know_params(self, model: Model, group: str, params: bytes) -> None:
        """Note the params of a group of items; those of no item are forgotten now and then."""
        known = model.params_of_group
        if group not in known and len(known) >= max(model.most_groups, MAX_IDLE):
            merged = [each for each in self._merged() if each.home == model.key]
            parts = [part for each in merged for part in each.parts]
            in_use = {item.group for item in (*model.items(), *parts)}
            model.params_of_group = {name: known[name] for name in known if name in in_use}
            model.most_groups = len(model.params_of_group) + MAX_IDLE
        model.params_of_group.setdefault(group, params)

    def of_request(
        self,
        request: Request,
        tool: FileWorkerPool,
        described: ModelInfo,
        *,
        is_foretold: bool = False,
    ) -> Model:
        """Return the model that a job's items are computed by, new if it was never asked for.

        ``is_foretold``: the job is still to come, and what is known of it is a guess.

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
                    is_foretold=is_foretold,
                )
            )
        elif model.is_foretold and not is_foretold:
            model.is_foretold = False
            model.params, model.priority = request.params, request.priority
            model.vram_mib = request.vram_mib or tool.info.vram_mib
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
