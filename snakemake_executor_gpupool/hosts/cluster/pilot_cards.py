"""Which type of card a pilot asks Slurm for, by what the rules want.

Slurm gives cards a type (``gpu:a100:4``), each site in words of its own. Rules name models as
cards' names do, so the two are compared by the rules of
:mod:`~snakemake_executor_gpupool.devices.card_wish`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping

from snakemake_executor_gpupool.devices.card_wish import CardWish, is_model, maker_in
from snakemake_executor_gpupool.errors import ConfigError

#: Any card.
ANY_TYPE = ""
#: Options of pilots by which users choose cards themselves.
_CHOOSES = re.compile(r"--(gres|gpus|gpus-per-\w+|tres-per-\w+)(?![\w-])|-G")
#: A generic resource of a node: ``gpu:4``, ``gpu:a100:4(S:0-1)``.
_GPU = re.compile(r"\bgpu(?::([^:,()\s]+))?:\d+")
#: How long Slurm may take to answer.
PATIENCE_S = 30.0


class PilotCards:
    """The types of card that pilots of a run ask for.

    Parameters
    ----------
    types
        By what rules want; what is not there wants any.

    Attributes
    ----------
    kinds
        The different types, in order; at least one.
    """

    def __init__(self, types: Mapping[CardWish, str] | None = None) -> None:
        self._types = dict(types or {})
        self.kinds = tuple(dict.fromkeys(self._types.values())) or (ANY_TYPE,)

    def type_for(self, wish: CardWish) -> str:
        """Return the type that a request for cards is served by; one of :attr:`kinds`."""
        return self._types.get(wish, ANY_TYPE if ANY_TYPE in self.kinds else self.kinds[0])


def types_of(gres: str) -> list[str]:
    r"""Return the types of GPU in what ``sinfo`` says of nodes; empty: of a GPU without a type.

    Examples
    --------
    >>> types_of("gpu:a100:4(S:0-1),shard:8\ngpu:2\n(null)\ngpu:a100:2")
    ['a100', '']
    """
    return list(dict.fromkeys(_GPU.findall(gres)))


def type_of(wish: CardWish, types: Iterable[str]) -> str | None:
    """Return the type for a wish; None: all types are of other cards.

    The first alternative of the wish that there is. A type may say less than the wish (``a100``
    for ``a100_80gb``), and is taken if none says as much; a card without a type may be any.
    """
    types = list(types)
    if not wish or not types:
        return ANY_TYPE
    named = [each for each in types if each and _may_be_by(wish.makers, each)]
    if not wish.models and named:
        return named[0]
    for model in wish.models:
        found = next(_matches(model, named), None)
        if found is not None:
            return found
    return ANY_TYPE if ANY_TYPE in types else None


def _matches(model: str, types: list[str]) -> Iterator[str]:
    """Yield the types of a model, those first that say as much as it."""
    yield from (each for each in types if is_model(model, each))
    yield from (each for each in types if is_model(each, model))


def _may_be_by(makers: tuple[str, ...], type_name: str) -> bool:
    return not makers or (maker_in(type_name) or makers[0]) in makers


def cards_of_slurm(
    wishes: Mapping[CardWish, str], partition: str | None, options: Iterable[str]
) -> PilotCards:
    """Return what pilots ask for, of the cards that Slurm has.

    Parameters
    ----------
    wishes
        What rules want, each with the name of one of them.
    partition
        Where pilots run; None: in the default one.
    options
        The user's own for pilots.

    Raises
    ------
    ConfigError
        No node has such a card.
    """
    if not any(wishes) or any(map(_CHOOSES.match, options)):
        return PilotCards()
    types = types_of(_sinfo(partition))
    found: dict[CardWish, str] = {}
    for wish, rule in wishes.items():
        kind = type_of(wish, types)
        if kind is None:
            where = f"partition {partition}" if partition else "the default partition"
            raise ConfigError(
                f"rule {rule} asks for a card that no node of {where} has: {wish}. There are "
                f"{', '.join(filter(None, types))}. Name one of these in gpu_model (several: "
                "separated by commas), leave it out to take any (--set-resources "
                f"{rule}:gpu_model=ANY), or choose where pilots run with --gpupool-partition"
            )
        found[wish] = kind
    return PilotCards(found)


def _sinfo(partition: str | None) -> str:
    """Return what nodes have; empty if Slurm does not say."""
    where = ["--partition", partition] if partition else []
    try:
        told = subprocess.run(
            ["sinfo", "--noheader", "--format", "%P %G", *where],  # noqa: S607 - the site's own
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line.partition(" ") for line in told.stdout.splitlines()]
    # The default partition is marked.
    return "\n".join(gres for name, _, gres in lines if partition or name.endswith("*"))
