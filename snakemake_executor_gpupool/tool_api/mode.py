"""How a run computes: a plain value that all of its processes agree on. Pure.

Worker side: standard library only, Python >= 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snakemake_executor_gpupool.errors import ConfigError

#: Where every process of a run finds its mode, its seed, and what computes it.
MODE_VARIABLE, SEED_VARIABLE = "GPUPOOL_REPRODUCIBLE", "GPUPOOL_SEED"
KIND_VARIABLE = "GPUPOOL_DEVICE_KIND"
#: Counts up when rungs or rows come out differently: results of two rules are not mixed.
RULE = 1
#: Seeds are below this: every generator takes them.
SEED_BITS = 63


@dataclass(frozen=True)
class Mode:
    """How a run computes: what all of its processes must agree on.

    Attributes
    ----------
    is_reproducible
        An item's result is the same to the bit in any company.
    seed
        What the seeds of items are made from, beside the items.
    kind
        Of the run's devices, its processor included; empty: it makes no difference.
    """

    is_reproducible: bool = False
    seed: int = 0
    kind: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Mode:
        """Return the mode that an environment asks for.

        Raises
        ------
        ConfigError
            A variable is malformed.
        """
        flag = environment.get(MODE_VARIABLE, "").strip()
        if flag not in ("", "0", "1"):
            raise ConfigError(f"{MODE_VARIABLE} is {flag!r}: 1 asks for a reproducible run, 0 not")
        seed = parse_seed(environment.get(SEED_VARIABLE, ""), SEED_VARIABLE)
        return cls(flag == "1", seed, environment.get(KIND_VARIABLE, ""))

    def variables(self) -> dict[str, str]:
        """Return the variables by which another process learns of it."""
        flag = "1" if self.is_reproducible else "0"
        return {MODE_VARIABLE: flag, SEED_VARIABLE: str(self.seed), KIND_VARIABLE: self.kind}

    def space(self, environment: str, devices: str, card: str = "") -> str:
        """Return what the keys of results start with: results of other modes are other results.

        Parameters
        ----------
        environment
            Of the rule's software; empty: Snakemake's own.
        devices
            What the rule asks for; empty: nothing.
        card
            Which cards it asks for; empty: any. Who asks for one does not take what another has
            computed, in no mode.
        """
        parts = [environment]
        if self.is_reproducible:
            parts += [f"reproducible {RULE}", self.kind, devices]
        if self.seed:
            parts.append(f"seed {self.seed}")
        if card:
            parts.append(f"card {card}")
        return "\n".join(parts)


#: Batches as they come, and the seed 0.
DEFAULT_MODE = Mode()


def parse_seed(text: str, what: str) -> int:
    """Return a run's seed; empty: 0.

    Raises
    ------
    ConfigError
        It is no whole number from 0 on, below 2**63.
    """
    try:
        seed = int(text.strip() or 0)
    except ValueError:
        seed = -1
    if not 0 <= seed < 1 << SEED_BITS:
        raise ConfigError(f"{what} is {text!r}; it must be a whole number from 0 to 2**63 - 1")
    return seed
