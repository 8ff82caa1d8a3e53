"""How much device memory a model needs, from what its workers were seen to hold. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryUse:
    """What workers of one model held at most, in MiB on the fullest of their devices.

    Attributes
    ----------
    weights_mib
        Once the model was loaded, before any item.
    peak_mib
        At any time.
    peak_tokens
        Tokens (padded, if the tool pads) of the largest micro-batch until then.
    full_tokens
        The micro-batch budget that the tool starts with on this kind of device.
    """

    weights_mib: int | None = None
    peak_mib: int | None = None
    peak_tokens: int | None = None
    full_tokens: int | None = None

    def loaded(self, held_mib: int | None, full_tokens: int) -> MemoryUse:
        """A model is on its device."""
        known = dataclasses.replace(self, full_tokens=full_tokens)
        if held_mib is None:
            return known
        peak_mib = max(held_mib, self.peak_mib or 0)
        return dataclasses.replace(known, weights_mib=held_mib, peak_mib=peak_mib)

    def computed(self, held_mib: int | None, tokens: int) -> MemoryUse:
        """A micro-batch is done; ``held_mib`` is the process's peak until now."""
        if held_mib is None:
            return self
        return dataclasses.replace(
            self,
            peak_mib=max(held_mib, self.peak_mib or 0),
            peak_tokens=max(tokens, self.peak_tokens or 0),
        )

    @property
    def need_mib(self) -> int | None:
        """What to expect of a worker with full micro-batches; None if nothing was measured.

        Where only small ones were seen, the part beyond the weights grows in proportion to
        the tokens; attention can take more, which the out-of-memory fallback catches.
        """
        if self.peak_mib is None:
            return None
        growth = max((self.full_tokens or 0) / self.peak_tokens, 1.0) if self.peak_tokens else 1.0
        weights_mib = self.weights_mib or 0
        return weights_mib + int((self.peak_mib - weights_mib) * growth)
