"""Which models the jobs of each kind have needed so far. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Set

#: Kinds that are remembered although no forecast has them; those met first are forgotten first.
MAX_KINDS = 1000


class JobKinds:
    """Kinds of jobs and keys of models: each kind may have several models, and the other way."""

    def __init__(self) -> None:
        #: Values mean nothing; a dict has an order.
        self._models: dict[str, dict[Hashable, None]] = {}
        self._of_model: dict[Hashable, set[str]] = {}

    def models(self, kind: str) -> Collection[Hashable]:
        """Return the keys of the models of a kind, in the order in which they were met."""
        return self._models.get(kind, {}).keys()

    def of(self, key: Hashable) -> Set[str]:
        """Return the kinds of a model."""
        return self._of_model.get(key, set())

    def add(self, kind: str, key: Hashable) -> bool:
        """Note that a job needs a model; return whether that is new."""
        models = self._models.setdefault(kind, {})
        if key in models:
            return False
        models[key] = None
        self._of_model.setdefault(key, set()).add(kind)
        return True

    def forget_model(self, key: Hashable) -> None:
        """Forget a model, and the kinds that had no other."""
        for kind in self._of_model.pop(key, ()):
            del self._models[kind][key]
            if not self._models[kind]:
                del self._models[kind]

    def forget_unused(self, used: Collection[str]) -> None:
        """Forget the oldest of too many kinds, but none of those that are ``used``."""
        unused = [kind for kind in self._models if kind not in used]
        for kind in unused[: max(len(unused) - MAX_KINDS, 0)]:
            for key in self._models.pop(kind):
                self._of_model[key].discard(kind)
                if not self._of_model[key]:
                    del self._of_model[key]
