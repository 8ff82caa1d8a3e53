"""Keys of models: found by equal tuples, their parts hashed once, copied as plain tuples (P6)."""

from __future__ import annotations

import copy
import pickle

from snakemake_executor_gpupool.scheduling.models.model_key import ModelKey


class Part:
    """Counts how often it is hashed."""

    hashed = 0

    def __hash__(self) -> int:
        Part.hashed += 1
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part)


def test_a_key_is_a_tuple_whose_parts_are_hashed_once() -> None:  # P6
    key = ModelKey(("model", Part()))
    assert key == ("model", Part()) and hash(key) == hash(("model", Part()))
    assert {key: 1}["model", Part()] == 1 and {("model", Part()): 2}[key] == 2
    assert key[0] == "model" and key != ("other", Part())
    before, table = Part.hashed, {key: 1}
    assert [table[key] for _ in range(100)] == [1] * 100
    assert Part.hashed == before


def test_a_copy_is_a_plain_tuple() -> None:  # texts have other hashes in another process
    key = ModelKey(("model", ("tool", 1)))
    for made in (pickle.loads(pickle.dumps(key)), copy.deepcopy(key)):
        assert type(made) is tuple and made == key
