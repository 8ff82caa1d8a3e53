"""Which model of card a request wants, and whether a card is one. Pure.

A card has a long name (``NVIDIA A100-SXM4-80GB``), and rules name it by a part of that, as Slurm's
types do (``a100``, ``a100_80gb``, ``rtx4090``, ``2080ti``). Case, spaces and punctuation do not
count; whole words do, so that ``a10`` is no A100:

- Each word of the wish must be found in the name, in order. A number belongs to the word before it:
  ``rtx 6000`` is no ``RTX PRO 6000``.
- A word that makes another card of a number (``Ti``, ``SUPER``, ``Ada``) must be asked for: ``rtx
  3080`` is no ``RTX 3080 Ti``. So must a slice of a card (``a100 mig``, or its profile ``1g.5gb``).
- A size (``80gb``) is compared with the one in the name, else with the card's memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import DeviceStringError

#: Words that name the manufacturer, each with the one that this package uses.
_MAKERS = {"nvidia": "nvidia", "amd": "amd", "ati": "amd", "intel": "intel", "apple": "apple"}
#: Manufacturers in full, as some tools report them.
_IN_FULL = {"advanced micro devices": "amd", "advanced micro devices inc": "amd"}
#: Words that only go with a maker's name.
_COMPANY = {"corporation", "corp", "inc", "gpu", "card"}
#: Series that drivers name or leave out, depending on their version.
_SERIES = {"tesla", "geforce", "quadro", "instinct", "radeon"}
#: What makes another card of the number before it.
_VARIANTS = {"ti", "super", "ada", "sff", "d", "xt", "xtx", "gre", "laptop", "mobile", "max"}
_MIG = "mig"
#: How far a card's memory may be from a size that its name does not hold.
_LEAST, _MOST = 0.88, 1.05


@dataclass(frozen=True)
class CardWish:
    """Which cards a request wants; the empty wish wants any.

    Attributes
    ----------
    models
        Alternatives, each as words in lower case. Empty: any model.
    makers
        Alternatives, in lower case. Empty: anybody's.
    """

    models: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.models or self.makers)

    def __str__(self) -> str:
        by = f"by {' or '.join(self.makers)}" if self.makers else ""
        return " ".join(filter(None, (" or ".join(self.models), by)))

    def accepts(self, device: Device, maker: str) -> bool:
        """Tell whether a card is one of these.

        Parameters
        ----------
        maker
            Who makes the device. One whose model is not known yet may turn out to be any.
        """
        if not device.model_name:
            return True
        name, memory_mib = device.model_name, device.memory_mib
        return (not self.makers or maker in self.makers) and (
            not self.models
            or any(is_model(model, name, memory_mib, maker) for model in self.models)
        )


ANY_CARD = CardWish()


def parse_models(text: str) -> tuple[str, ...]:
    """Read alternatives of models, separated by ``,`` or ``|``.

    Raises
    ------
    DeviceStringError
        One of them has neither a letter nor a digit.

    Examples
    --------
    >>> parse_models("A100-SXM4-80GB, h100")
    ('a100 sxm4 80gb', 'h100')
    """
    parts = [part for part in re.split("[,|]", text) if part.strip()]
    models = [" ".join(_words(part)) for part in parts]
    if not models or not all(models):
        raise DeviceStringError(
            f'{text!r} names no model of a card; write one, as in "a100", or several, as in '
            '"a100,h100"'
        )
    return tuple(dict.fromkeys(models))


def parse_makers(text: str) -> tuple[str, ...]:
    """Read alternatives of manufacturers, separated by ``,`` or ``|``.

    Raises
    ------
    DeviceStringError
        One of them is not known.
    """
    # A comma before "Inc." ends no name.
    parts = [part for part in re.split("[,|]", text) if set(_words(part)) - _COMPANY]
    makers = [_maker(part) for part in parts]
    if not makers or None in makers:
        known = ", ".join(f'"{name}"' for name in dict.fromkeys(_MAKERS.values()))
        raise DeviceStringError(f"{text!r} is no manufacturer of cards that is known: {known}")
    return tuple(dict.fromkeys(maker for maker in makers if maker))


def _maker(text: str) -> str | None:
    words = _words(text)
    if (full := " ".join(words)) in _IN_FULL:
        return _IN_FULL[full]
    left = [word for word in words if word not in _COMPANY]
    return _MAKERS.get(left[0]) if len(left) == 1 else None


def maker_in(model_name: str) -> str:
    """Return the manufacturer that a card's name says; empty: it says none."""
    words = _words(model_name)
    if {"instinct", "radeon"} & set(words):
        return "amd"
    return next((_MAKERS[word] for word in words if word in _MAKERS), "")


@functools.lru_cache(maxsize=4096)
def is_model(wanted: str, model_name: str, memory_mib: int | None = None, maker: str = "") -> bool:
    """Tell whether a card is of a wanted model.

    Examples
    --------
    >>> is_model("a100", "NVIDIA A100-SXM4-80GB"), is_model("a10", "NVIDIA A100-SXM4-80GB")
    (True, False)
    >>> is_model("rtx4090", "NVIDIA GeForce RTX 4090"), is_model("3080", "GeForce RTX 3080 Ti")
    (True, False)
    """
    asked, card = _words(wanted), _words(model_name)
    makers = {_MAKERS[word] for word in asked if word in _MAKERS}
    asked = [word for word in asked if word not in _MAKERS]
    if makers and (maker or maker_in(model_name)) not in makers:
        return False
    if not asked:
        return bool(makers)
    if (_MIG in card) != (_MIG in asked or any(map(_is_profile, asked))):
        return False
    sizes = [word for word in asked if _is_size(word)]
    if not all(_has_size(size, card, memory_mib) for size in sizes):
        return False
    name = tuple(word for word in card if not _is_size(word) and word != _MIG)
    rest = tuple(word for word in asked if not _is_size(word) and word != _MIG)
    return any(not words or _is_found(words, name) for words in _readings(rest, name))


def _words(text: str) -> list[str]:
    words = re.findall("[a-z0-9]+", text.lower())
    # 80g, 80gb and 80gib are one size; 1g to 7g are profiles of slices.
    return [re.sub("^([0-9]{1,4})gi?b?$", r"\1gb", w) if not _is_profile(w) else w for w in words]


def _is_profile(word: str) -> bool:
    return re.fullmatch("[1-7]g", word) is not None


def _is_size(word: str) -> bool:
    return re.fullmatch("[0-9]{1,4}gb", word) is not None


def _has_size(size: str, card: list[str], memory_mib: int | None) -> bool:
    named = [word for word in card if _is_size(word)]
    if named or memory_mib is None:
        return size in named
    share = memory_mib / 1024 / int(size.removesuffix("gb"))
    return _LEAST <= share <= _MOST


def _readings(asked: tuple[str, ...], name: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the wanted words, and without a series that the card's driver does not name."""
    yield asked
    shorter = tuple(w for w in asked if w not in _SERIES | _COMPANY or w in name)
    if shorter and shorter != asked:
        yield shorter


def _is_found(asked: tuple[str, ...], name: tuple[str, ...], at: int = 0) -> bool:
    """Tell whether the wanted words are found in a name from a place on, in order."""
    if not asked:
        return not _begins_variant(name, at)
    for start in _starts(asked[0], name, at):
        for taken in range(1, len(asked) + 1):
            wanted = "".join(asked[:taken])
            for end in range(start + 1, len(name) + 1):
                if "".join(name[start:end]) == wanted and _is_found(asked[taken:], name, end):
                    return True
    return False


def _starts(word: str, name: tuple[str, ...], at: int) -> Iterable[int]:
    """Return where the next word may begin."""
    if at == 0:
        return range(len(name))
    if word.isdecimal() or _begins_variant(name, at):
        return (at,)
    return range(at, len(name))


def _begins_variant(name: tuple[str, ...], at: int) -> bool:
    """Tell whether the word at a place makes another card of the words before it."""
    if not 0 < at < len(name) or name[at] not in _VARIANTS:
        return False
    before = name[at - 1]
    return before in _VARIANTS or any(letter.isdecimal() for letter in before)
