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
        #: What is taken to be the model of a kind until it has a job.
        self._foretold: dict[str, Hashable] = {}

    def models(self, kind: str) -> Collection[Hashable]:
        """Return the keys of the models of a kind, in the order in which they were met."""
        return self._models.get(kind, {}).keys()

    def of(self, key: Hashable) -> Set[str]:
        """Return the kinds of a model."""
        return self._of_model.get(key, set())

    def add(self, kind: str, key: Hashable) -> bool:
        """Note that a job needs a model; return whether that is new."""
        guess = self._foretold.pop(kind, key)
        if guess != key:
            self._forget(kind, guess)
        models = self._models.setdefault(kind, {})
        if key in models:
            return False
        models[key] = None
        self._of_model.setdefault(key, set()).add(kind)
        return True

    def guess(self, kind: str) -> Hashable | None:
        """Return what is taken to be the model of a kind without a job so far; None: nothing is."""
        return self._foretold.get(kind)

    def foretell(self, kind: str, key: Hashable) -> None:
        """Take a model to be that of a kind until a job of it has come."""
        if not self.models(kind):
            self.add(kind, key)
            self._foretold[kind] = key

    def forget_model(self, key: Hashable) -> None:
        """Forget a model, and the kinds that had no other."""
        for kind in list(self.of(key)):
            self._forget(kind, key)

    def _forget(self, kind: str, key: Hashable) -> None:
        del self._models[kind][key]
        if not self._models[kind]:
            del self._models[kind]
            self._foretold.pop(kind, None)
        self._of_model[key].discard(kind)
        if not self._of_model[key]:
            del self._of_model[key]

    def forget_unused(self, used: Collection[str]) -> None:
        """Forget the oldest of too many kinds, but none of those that are ``used``."""
        unused = [kind for kind in self._models if kind not in used]
        for kind in unused[: max(len(unused) - MAX_KINDS, 0)]:
            for key in list(self._models[kind]):
                self._forget(kind, key)
