"""Short requests through a chain of models in one dispatch. Pure decisions.

::

    A's items are read ─► short, and the models fit side by side? ─► one dispatch runs A, B, C
    stage A answered   ─► A's job is done, its outputs are in place
    stage B answered   ─► B's outputs are staged, and the ledger keeps its results, by content
    B's job arrives    ─► waits until its stage is answered; it is the one that was guessed, and
                          its inputs are what was read? ─► its outputs are published
                          else it is read as any job, and may still find results

A chain is a model of its own whose worker holds all its models. What goes wrong with one, in
whatever way, only ends the chain: what is left of it goes the ordinary way, stage by stage.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.errors import ImpossibleRequest
from snakemake_executor_gpupool.scheduling.effects import Outbox, Unstage
from snakemake_executor_gpupool.scheduling.files.scheduler import Filing
from snakemake_executor_gpupool.scheduling.files.worker_pool import ToolState
from snakemake_executor_gpupool.scheduling.jobs import JobState, JobTable, Phase
from snakemake_executor_gpupool.scheduling.merging.stage import ChainUnit, Claim, Link
from snakemake_executor_gpupool.scheduling.models.charging import work_of
from snakemake_executor_gpupool.scheduling.models.cost_shares import JobCost, Work, by_cost
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.model import Batch, Model, ModelWorker
from snakemake_executor_gpupool.scheduling.results import Ledger, Unit
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.messages import FollowingModel, ItemsRead
from snakemake_executor_gpupool.wire.model_messages import StageDone, StagedRequest
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

Identity = tuple[str, ...]

#: Bounds of what is staged for jobs yet to come; beyond them the oldest goes.
MAX_STAGED_BYTES = 1024**3
MAX_STAGED = 10_000


class Chains:
    """All chains, and the jobs that wait for theirs.

    Parameters
    ----------
    spec_for
        Returns the devices of a request, given what is known of its tool.
    recall
        Starts a model's figures from what earlier runs measured.
    filing
        Reads the inputs of jobs, and publishes outputs.
    """

    def __init__(
        self,
        allocator: Allocator,
        dispatch: Dispatch,
        jobs: JobTable,
        ledger: Ledger,
        outbox: Outbox,
        spec_for: Callable[[Request, ToolInfo], DeviceSpec],
        recall: Callable[[Model], None],
        filing: Filing,
    ) -> None:
        self._allocator = allocator
        self._dispatch = dispatch
        self._jobs = jobs
        self._ledger = ledger
        self._outbox = outbox
        self._spec_for = spec_for
        self._recall = recall
        self._filing = filing
        # All by the identity of a job yet to come; of the claims the oldest is first.
        self._expected: dict[Identity, ChainUnit] = {}
        self._held: dict[Identity, JobState] = {}
        self._claims: OrderedDict[Identity, Claim] = OrderedDict()
        self._staged_bytes = 0
        self._arrivals = 0
        self.counts: Counter[str] = Counter()

    # -- jobs --------------------------------------------------------------------
    def arrived(self, job: JobState, now_s: float) -> None:
        """Have a job done that is ready, unless a chain is about to bring what it needs."""
        identity = job.request.identity
        if identity in self._expected and identity not in self._held:
            self._held[identity] = job
            return
        claim = self._unclaim(identity)
        if claim is not None and claim.is_for(job.request):
            self._filing.publish(job, claim, now_s)
            return
        if claim is not None:
            self._outbox.put(Unstage(claim.paths))
        self._filing.read(job, now_s)

    def published(self, job: JobState) -> None:
        """A job's outputs are in place, without a dispatch of its own."""
        assert job.claim is not None
        job.seconds += job.claim.seconds
        job.cost.take(job.claim.cost)
        self._dispatch.charging.time.claimed(job.claim.cost.device_s)
        self._ledger.claim(job.claim.keys, job.claim.items)
        self.claimed(job)
        self._jobs.succeed(job)

    def _stage_claim(self, claim: Claim) -> None:
        """Keep what was staged for a job yet to come, within the bound."""
        stale = self._unclaim(claim.guess.identity)
        dropped = [] if stale is None else [stale]
        self._claims[claim.guess.identity] = claim
        self._staged_bytes += claim.size_bytes
        while self._staged_bytes > MAX_STAGED_BYTES or len(self._claims) > MAX_STAGED:
            oldest = self._unclaim(next(iter(self._claims)))
            dropped += [oldest] if oldest is not None else []
        for each in dropped:
            self._outbox.put(Unstage(each.paths))

    def _unclaim(self, identity: Identity) -> Claim | None:
        claim = self._claims.pop(identity, None)
        self._staged_bytes -= claim.size_bytes if claim is not None else 0
        return claim

    def take(
        self,
        job: JobState,
        home: Model,
        tool: ToolState,
        message: ItemsRead,
        new: list[Unit],
        now_s: float,
    ) -> bool:
        """Send a short job through its chain, if it has one and may go now.

        Parameters
        ----------
        new
            Those of its items that nobody has asked for before.
        """
        parts = list(dict.fromkeys(job.units))
        fresh = set(new)
        # What waits in a queue, or is in the hands of a worker, is left there and waited for.
        is_free = all(unit in fresh or unit.is_done or unit.is_merged for unit in parts)
        if home.error is not None or not fresh or not is_free:
            return False
        links = self._links(job.request, tool, message)
        model = None
        while len(links) > 1 and model is None:  # as much of the row as fits
            model = self._model(links, home, tool)
            links = links if model is not None else links[:-1]
        if model is None:
            return False
        for unit in fresh:
            unit.is_merged = True
        job.all_read, job.phase = True, Phase.MERGED
        chain = self._chain(job, home, links, parts)
        model.places += len(job.units)
        self._expected.update((link.request.identity, chain) for link in links[1:])
        self._dispatch.add(model, [chain], now_s)
        return True

    def _chain(
        self, job: JobState, home: Model, links: tuple[Link, ...], parts: list[Unit]
    ) -> ChainUnit:
        self._arrivals += 1
        return ChainUnit(
            key=None,
            group="|".join(link.group for link in links),
            cost=sum(unit.cost for unit in parts),
            tokens=len(parts) * max(unit.tokens for unit in parts),
            payload=b"",
            name=job.request.title,
            order=(-job.request.priority, 0, self._arrivals),
            places=[(job.request.job_id, 0)],
            links=links,
            job=job,
            home=home,
            parts=parts,
        )

    # -- which stages, and where ----------------------------------------------------
    def _links(self, request: Request, tool: ToolState, message: ItemsRead) -> tuple[Link, ...]:
        """Return the stages that one process can hold, as far as they go in one row."""
        assert tool.info is not None
        described = [FollowingModel(message.model, tool.info), *message.following]
        links: list[Link] = []
        for each, its in zip((request, *request.follow), described, strict=False):
            try:
                spec = self._spec_for(each, its.info)
            except ImpossibleRequest:
                break
            model = its.model
            names = model.model, model.label, model.group, model.short_tokens
            link = Link(each, *names, its.info, spec)
            if not _joins(link, links):
                break
            links.append(link)
        return tuple(links)

    def _model(self, links: tuple[Link, ...], home: Model, tool: ToolState) -> Model | None:
        """Return the chain's model if its models may be side by side now; None: they may not."""
        models = tuple((link.model, link.request.tool) for link in links)
        key = ("chain", models, home.spec)
        known = self._dispatch.models.get(key)
        if known is None:
            known = self._new_model(key, links, home, tool)
            if known is None or not self._has_room(known):
                return None
            self._dispatch.models[key] = known
            self._recall(known)
        may_run = known.error is None and self._has_room(known) and self._pays(known, links)
        return known if may_run else None

    def _pays(self, chain: Model, links: tuple[Link, ...]) -> bool:
        """Tell whether a chain's worker is there, or saves loading one of its models elsewhere.

        Beside models that are loaded already, its load would only be one more.
        """
        loaded = {
            model.key[0]  # type: ignore[index]
            for model in self._dispatch.models.values()
            if not model.is_chain and any(worker.has_loaded for worker in model.alive)
        }
        is_there = any(worker.has_loaded for worker in chain.alive)
        return is_there or not {link.model for link in links} <= loaded

    def _new_model(
        self, key: Hashable, links: tuple[Link, ...], home: Model, tool: ToolState
    ) -> Model | None:
        needs = [self._need_mib(link) for link in links]
        need_mib = sum(need or 0 for need in needs) if None not in needs else None
        if not is_gpu(home.spec):
            need_mib = None
        elif need_mib is not None and need_mib > self._largest_mib(home.spec):
            return None
        name = " + ".join(link.label or str(link.request.tool) for link in links)
        state = ToolState(chain_ref(links), f"{tool.name}.chain", info=chain_info(links))
        # It gathers while inputs of its first stage are being read.
        state.reads, state.reading = tool.reads, tool.reading
        return Model(
            key=key,
            name=f"chain {name}",
            tool=state,
            spec=home.spec,
            params=links[0].request.params,
            more_params=tuple(link.request.params for link in links[1:]),
            vram_mib=need_mib,
            priority=home.priority,
            profile_key=f"{'+'.join(link.model for link in links)}/{home.profile_key}",
        )

    def _need_mib(self, link: Link) -> int | None:
        """Return a stage's need of device memory: as declared, else as its own workers showed."""
        declared = link.request.vram_mib or link.info.vram_mib
        if declared:
            return declared
        needs = (m.memory.need_mib for k, m in self._dispatch.models.items() if k[0] == link.model)  # type: ignore[index]
        return max((need for need in needs if need is not None), default=None)

    def _largest_mib(self, spec: DeviceSpec) -> float:
        sizes = [device.memory_mib for device in self._allocator.of_kind(spec.kind)]
        return max((float("inf") if size is None else size for size in sizes), default=0.0)

    def _has_room(self, model: Model) -> bool:
        """Tell whether a chain's worker is there, or can be without sending others away."""
        if model.alive or not is_gpu(model.spec):
            return True
        return not model.spec.names and self._dispatch.scaling.free_places(model) > 0

    # -- answers -----------------------------------------------------------------------
    def stage_done(
        self, worker: ModelWorker, message: StageDone, now_s: float, energy_j: float | None = None
    ) -> None:
        """A worker has finished one stage of those requests that its message names."""
        batch = worker.in_flight[0]
        batch.stages_done += 1
        batch.seconds += message.seconds
        results = iter(message.results)
        staged_of = {staged.number: staged for staged in message.requests}
        work = work_of(worker, message.seconds, message.peak_mib, energy_j)
        shares = self._shares(worker, message.requests, work)
        for number, chain in enumerate(chains_of(batch)):
            staged = staged_of.get(number)
            if staged is not None:
                found = {key: next(results) for key in staged.keys}
                share_s = message.seconds / len(staged_of)
                self._answered(chain, staged, found, share_s, worker, now_s, shares[number])
            elif not chain.is_over:
                self.dissolve(chain, now_s)

    def _shares(
        self, worker: ModelWorker, requests: Sequence[StagedRequest], work: Work
    ) -> dict[int, JobCost]:
        """Charge a stage to the jobs whose items it computed; return each chain's part of it.

        Later stages' jobs have not come yet, and pay when they do.
        """
        batch = worker.in_flight[0]
        chains = list(chains_of(batch))
        costs = [chains[each.number].cost for each in requests]
        if batch.stages_done > 1:  # what the items of later stages cost is not known here
            costs = [float(len(each.keys)) for each in requests]
        shares_s = by_cost(work.device_s, costs) if requests else []
        paid: list[tuple[Unit, float]] = []
        shares: dict[int, JobCost] = {}
        for each, share_s in zip(requests, shares_s, strict=True):
            parts = chains[each.number].parts if batch.stages_done == 1 else []
            undone = [unit for unit in parts if not unit.is_done]
            paid += zip(undone, by_cost(share_s, [unit.cost for unit in undone]), strict=True)
            shares[each.number] = JobCost()
            shares[each.number].add(work, share_s)
        self._jobs.charge([unit for unit, _ in paid], [share_s for _, share_s in paid], work)
        self._dispatch.charging.book(worker, work)
        batch.work.add(work)
        return shares

    def _answered(
        self,
        chain: ChainUnit,
        staged: StagedRequest,
        found: dict[str, Blob],
        share_s: float,
        worker: ModelWorker,
        now_s: float,
        cost: JobCost,
    ) -> None:
        stage, link = chain.stages_done, chain.links[chain.stages_done]
        chain.stages_done += 1
        chain.is_over = chain.stages_done == len(chain.links)
        name = worker.worker_id
        first_id = chain.job.request.job_id
        batch_id = worker.in_flight[0].batch_id
        named = {"job": link.request.title, "job_id": first_id, "batch": batch_id}
        self._outbox.note("stage_done", **named, stage=stage, worker=name)
        if stage == 0:
            self._first_done(chain, list(found.values()), share_s, worker)
            return
        keys = [(*link.key_head, key) for key in found]
        for key, blob in zip(keys, found.values(), strict=True):
            self._ledger.offer(key, blob)
        files = staged.digests, staged.outputs, staged.logs
        figures = staged.items, staged.size_bytes, share_s
        tool = chain.job.request.tool
        claim = Claim(link.request, tool, *files, keys, *figures, worker.node, cost, batch_id)
        self._stage_claim(claim)
        self._let_go(chain, stage, now_s)

    def _first_done(
        self, chain: ChainUnit, results: list[Blob], share_s: float, worker: ModelWorker
    ) -> None:
        chain.places = []
        for unit, blob in zip(chain.parts, results, strict=True):
            if unit.is_done:
                self._ledger.discard(blob)
            else:
                seconds = share_s / len(results)
                self._jobs.unit_done(unit, blob, seconds, worker.worker_id, worker.node)
        self.counts["merged"] += 1
        if self._jobs.get(chain.job.request.job_id) is chain.job:
            self._jobs.succeed(chain.job)

    def ended(self, unit: Unit, now_s: float) -> None:
        """A chain is neither waiting nor in flight any more: what is left goes the ordinary way."""
        assert isinstance(unit, ChainUnit)
        if not unit.is_over:
            self.dissolve(unit, now_s)

    def dissolve(self, chain: ChainUnit, now_s: float) -> None:
        """Send what is left of a chain the ordinary way."""
        chain.is_over = True
        chain.places = []
        if chain.stages_done == 0:
            self._dispatch_apart(chain, now_s)
        undone = range(max(chain.stages_done, 1), len(chain.links))
        for stage in undone:
            self._let_go(chain, stage, now_s)

    def held_jobs(self) -> set[JobState]:
        """Return the jobs that wait for what a chain is about to bring."""
        return set(self._held.values())

    def wind_down(self, now_s: float) -> None:
        """End the chains whose first job is not to be started, and which no worker has."""
        chains = [model for model in self._dispatch.models.values() if model.is_chain]
        waiting = [unit for model in chains for unit in model.queue]
        for chain in waiting:
            assert isinstance(chain, ChainUnit)
            is_wanted = self._jobs.get(chain.job.request.job_id) is chain.job
            if not is_wanted and not chain.is_over:
                self.dissolve(chain, now_s)

    def _dispatch_apart(self, chain: ChainUnit, now_s: float) -> None:
        """Have a chain's first stage computed by its own model."""
        apart = [unit for unit in chain.parts if unit.is_merged and not unit.is_done]
        for unit in apart:
            unit.is_merged = False
        if self._jobs.get(chain.job.request.job_id) is chain.job:
            self._jobs.go_on(chain.job)
        if apart:
            self._dispatch.add(chain.home, apart, now_s)

    def _let_go(self, chain: ChainUnit, stage: int, now_s: float) -> None:
        """Read the job of a stage, should it have come already: nothing more of it is expected."""
        identity = chain.links[stage].request.identity
        if self._expected.get(identity) is not chain:
            return
        del self._expected[identity]
        job = self._held.pop(identity, None)
        if job is not None and self._jobs.get(job.request.job_id) is job:
            self.arrived(job, now_s)

    def claimed(self, job: JobState) -> None:
        """A chain had computed all that a job needs: it costs no dispatch of its own."""
        self.counts["saved"] += 1
        batch = {"batch": job.claim.batch_id} if job.claim is not None else {}
        self._outbox.note(
            "dispatch_saved", job=job.request.title, job_id=job.request.job_id, **batch
        )


def chains_of(batch: Batch) -> Iterator[ChainUnit]:
    """Return the chains of a dispatch."""
    for unit in batch.units:
        assert isinstance(unit, ChainUnit)
        yield unit


def _joins(link: Link, before: list[Link]) -> bool:
    """Tell whether a stage can share its process and device with those before it."""
    info = link.info
    is_fit = info.deterministic and info.persistent and link.short_tokens > 0
    is_single = info.gpus_per_instance == 1 and link.spec.count == 1
    if not is_fit or not is_single or not before:
        return bool(is_fit and is_single)
    first, its = before[0].request, link.request
    return (
        link.spec == before[0].spec
        and its.instance == first.instance
        and its.cwd == first.cwd
        and _python(its.tool) == _python(first.tool)
    )


def _python(tool: ToolRef) -> tuple[str, ...]:
    return tool.base_dir, tool.python, tool.environment, tool.activation


def chain_ref(links: tuple[Link, ...]) -> ToolRef:
    """Return the processes that a chain's workers are."""
    first, *more = (link.request.tool for link in links)
    return ToolRef(
        spec=first.spec,
        base_dir=first.base_dir,
        python=first.python,
        environment=first.environment,
        more=tuple(tool.spec for tool in more),
        activation=first.activation,
        name=" + ".join(str(tool) for tool in (first, *more)),
    )


def chain_info(links: tuple[Link, ...]) -> ToolInfo:
    """Return what would be said of a tool that is the chain's tools in a row."""
    infos = [link.info for link in links]
    return dataclasses.replace(
        infos[0],
        pads=any(info.pads for info in infos),
        can_move=all(info.can_move for info in infos),
        batch_limit_s=sum(info.batch_limit_s for info in infos),
        vram_mib=None,
    )
