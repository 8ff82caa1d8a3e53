"""The devices that a rule's resources ask for: one grammar, wherever they are read.

``gpu`` counts GPUs, ``device`` names them and takes precedence, ``vram_mb`` is the memory on each,
``gpu_model`` and ``gpu_manufacturer`` say which cards; ``gpu_model`` alone is one GPU, as under the
Slurm plugin.

Snakemake rounds fractions early, so that ``gpu=0.5`` would silently mean no GPU, and it cannot add
up ``"8GB"``. At the start, the rules' resources are therefore wrapped so that they remember what
was written (:func:`keep_words`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.card_wish import (
    ANY_CARD,
    CardWish,
    parse_makers,
    parse_models,
)
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_spec import (
    DEVICE_GRAMMAR,
    DeviceSpec,
    gpus,
    parse_device,
)
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.errors import DeviceStringError
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable

GRAMMAR = (
    "gpu is a whole number of GPUs, as in gpu=2 (0: none); device says which, as in "
    'device="cuda:1", and takes precedence over gpu; vram_mb is the memory on each in MiB, as in '
    'vram_mb=8000, or with its unit, as in vram_mb="8GB"; gpu_model and gpu_manufacturer say which '
    'cards, as in gpu_model="a100" or gpu_model="a100,h100", gpu_manufacturer="nvidia"; '
    f"{DEVICE_GRAMMAR}"
)
#: The resources that say which devices a rule needs, and how much memory on each.
DEVICE_RESOURCES = ("device", "gpu", "vram_mb")
#: Standard resources that say which card.
CARD_RESOURCES = ("gpu_model", "gpu_manufacturer")
#: What ``gpu_model`` and ``gpu_manufacturer`` say for any card, as from outside no resource can be
#: taken away.
ANY = "any"
#: Snakemake's placeholder for a resource that is not known yet.
UNKNOWN = "<TBD>"
_MIB = 1024**2
#: Attribute of a workflow whose rules run without the GPUs that they ask for.
GOES_WITHOUT = "gpupool_goes_without_gpus"


class NeedNotKnown(Unservable):
    """A resource depends on a file that is not there."""


@dataclass(frozen=True)
class Needs:
    """The devices of one job.

    Attributes
    ----------
    spec
        Which devices; None: the rule does not say.
    vram_mib
        Memory on each in MiB; None: the rule does not say.
    card
        Which cards, also where the rule leaves it to the tool how many.
    is_counted
        False: the rule names a card and not how many; ``spec`` is one GPU.
    """

    spec: DeviceSpec | None = None
    vram_mib: int | None = None
    card: CardWish = ANY_CARD
    is_counted: bool = True

    @property
    def gpus(self) -> int:
        """How many GPUs."""
        return self.spec.count if self.spec is not None and is_gpu(self.spec) else 0

    @property
    def names(self) -> tuple[str, ...]:
        """The devices that are asked for by name."""
        return self.spec.names if self.spec is not None else ()

    def accepts(self, device: Device) -> bool:
        """Return whether a device is one of those that are asked for."""
        return self.spec is not None and self.spec.accepts(device)


def needs_of(job: Any) -> Needs:
    """Return the devices that a job's resources ask for.

    Raises
    ------
    Unservable
        One of them is malformed; the message shows the grammar.
    NeedNotKnown
        One of them cannot be evaluated: it depends on a missing file.
    """
    resources = job.resources
    device = parse_named(_as_said(job, "device", resources.get("device")))
    said_count = _as_said(job, "gpu", resources.get("gpu"))
    said_count = None if said_count == "" else said_count
    count = parse_count(said_count)
    vram_mib = parse_vram(_as_said(job, "vram_mb", resources.get("vram_mb")))
    if device is None and said_count is not None and count is None:
        return Needs(None, vram_mib)  # gpu=0 is none, whatever card it would be
    needs = _with_card(device or count, vram_mib, card_of(resources))
    if (needs.gpus or needs.card) and getattr(
        getattr(job.rule, "workflow", None), GOES_WITHOUT, False
    ):
        return Needs(None, vram_mib)
    return needs


def _with_card(spec: DeviceSpec | None, vram_mib: int | None, card: CardWish) -> Needs:
    """Put together how many GPUs and which cards."""
    if spec is None:
        if card.models:
            return Needs(gpus(1, card), vram_mib, card, is_counted=False)
        return Needs(None, vram_mib, card)
    if not is_gpu(spec):
        return Needs(spec, vram_mib)
    return Needs(dataclasses.replace(spec, card=card), vram_mib, card)


def card_of(resources: Any) -> CardWish:
    """Return which cards ``gpu_model`` and ``gpu_manufacturer`` ask for.

    Raises
    ------
    Unservable
        One of them is malformed; the message shows the grammar.
    """
    return CardWish(
        _read_text("gpu_model", resources.get("gpu_model"), parse_models),
        _read_text("gpu_manufacturer", resources.get("gpu_manufacturer"), parse_makers),
    )


def _read_text(name: str, value: Any, parse: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    if value is None or str(value).strip().lower() in ("", ANY):
        return ()
    if str(value) == UNKNOWN or isinstance(value, bool):
        raise _not_understood(name, value, "it is not text")
    try:
        return parse(str(value))
    except DeviceStringError as error:
        raise _not_understood(name, value, str(error)) from None


def go_without_gpus(workflow: Any) -> None:
    """Have rules that ask for GPUs run as if they did not: there is none, and the user knows."""
    setattr(workflow, GOES_WITHOUT, True)


def parse_named(value: Any) -> DeviceSpec | None:
    """Return the devices that ``device`` names; None: it is empty."""
    if value is None or value == "":
        return None
    try:
        return parse_device(value)
    except DeviceStringError as error:
        why = str(error).removesuffix(f"; {DEVICE_GRAMMAR}")
        raise _not_understood("device", value, why) from None


def parse_count(value: Any) -> DeviceSpec | None:
    """Return the GPUs that ``gpu`` asks for; None: it is empty or 0."""
    if value is None or value == "":
        return None
    count = _whole(value)
    if count is None or count < 0:
        raise _not_understood("gpu", value, "it is not a whole number of at least 0")
    return gpus(count) if count else None


def parse_vram(value: Any) -> int | None:
    """Return ``vram_mb`` in MiB, rounded up; None: it is empty or 0."""
    if value is None or value == "":
        return None
    mib = _mib(value)
    if mib is None or mib < 0:
        raise _not_understood("vram_mb", value, "it is not a size")
    return mib or None


def _whole(value: Any) -> int | None:
    """Return a value as a whole number; None: it is not one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,18}\s*", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    try:
        return int(operator.index(value))
    except TypeError:
        return None


def _mib(value: Any) -> int | None:
    """Return a size in MiB; None: it is not a size."""
    if isinstance(value, float):
        return math.ceil(value) if math.isfinite(value) else None
    if not isinstance(value, str):
        return _whole(value)
    if re.fullmatch(r"\s*[0-9]{1,18}(\.[0-9]{1,18})?\s*", value):
        return math.ceil(float(value))
    # Snakemake reads mem="8GB" with the same library.
    from humanfriendly import InvalidSize, parse_size

    try:
        return -(-int(parse_size(value.strip("'\""))) // _MIB)
    except (InvalidSize, OverflowError):
        return None


def _not_understood(name: str, value: Any, why: str) -> Unservable:
    if str(value) == UNKNOWN:
        return NeedNotKnown(f"{name} cannot be evaluated: a file that it depends on is missing")
    shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:80]}..."
    return Unservable(f"{name}={shown} is not understood: {why}; {GRAMMAR}")


# -- what Snakemake would have rounded ----------------------------------------------------


class Said(int):
    """A number for Snakemake to add up, which remembers and shows what the rule says.

    Attributes
    ----------
    said
        What the rule says: a fraction, a size with its unit, or not a number at all.
    """

    said: Any

    def __new__(cls, number: int, said: Any) -> Said:
        """Return ``number`` with ``said`` attached."""
        self = super().__new__(cls, number)
        self.said = said
        return self

    def __str__(self) -> str:
        return str(self.said)

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self.said), spec)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what the rule says: a script's Python need not have this class."""
        return type(self.said), (self.said,)


def keep_words(workflow: Any) -> None:
    """Make the rules' resources remember what they say, where Snakemake would round it.

    Snakemake would also end the run for a value that it cannot round or add up in a group. This
    way a bad value reaches :func:`needs_of`, which refuses that job alone. Called once, before
    any job is checked.
    """
    from snakemake.resources import Resource

    for rule in workflow.rules:
        for name in DEVICE_RESOURCES:
            resource = rule.resources.get(name)
            if resource is None:
                continue
            if resource.is_evaluable():
                kept: Any = _remembering(name, resource._evaluator)
            else:
                kept = remembered(name, _constant(rule, name, resource.value))
            rule.resources[name] = Resource(name, kept, raw=resource.raw)


def _constant(rule: Any, name: str, value: Any) -> Any:
    """Return a constant resource as the rule says it."""
    info = rule.ruleinfo
    said = info.resources[1].get(name) if info is not None and info.resources else None
    return (
        said if isinstance(said, float) and math.isfinite(said) and value == round(said) else value
    )


def _remembering(name: str, evaluator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(evaluator)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        return remembered(name, evaluator(*args, **kwargs))

    return evaluate


def remembered(name: str, value: Any) -> Any:
    """Return a resource's value in a form that Snakemake accepts, the original remembered."""
    if value is None or (isinstance(value, str) and (name == "device" or value in ("", UNKNOWN))):
        return value
    if name == "device":
        return Said(0, value)
    number = _whole(value) if name == "gpu" else _mib(value)
    if number is not None and not isinstance(value, str) and number == value:
        return number
    return Said(number or 0, value)


def _as_said(job: Any, name: str, value: Any) -> Any:
    """Return a value as the rule says it, also if the job's resources were evaluated before."""
    resource = job.rule.resources.get(name)
    if resource is not None and not resource.is_evaluable() and isinstance(resource.value, Said):
        return resource.value.said
    return value.said if isinstance(value, Said) else value
