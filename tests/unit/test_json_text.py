"""JSON made quickly is the JSON that Python makes."""

from __future__ import annotations

import json
from json import encoder
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.wire.json_text import json_decoder, json_encoder

VALUES: list[Any] = [
    {},
    "a text",
    {"time_s": 1795892778.965881, "event": "batch_sent", "jobs": [16, 17], "tokens": 64},
    {"é": 'ü\ud800\x00\n"\\/', "big": 2**80, "small": 5e-324, "none": None, "yes": True},
    {"tuple": (1, (2, [])), "nan": float("nan"), "infinity": [float("inf"), -float("inf")]},
    {2: "a number", True: "a flag", None: "none", 1.5: "a fraction"},
    {"path": Path("a/b"), "nested": [{"path": Path("c")}]},
    [0.1, 1e16, 1e-7, -0.0],
]


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("value", VALUES)
def test_texts_are_those_of_json(
    value: Any, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_there:  # other Pythons
        monkeypatch.setattr(encoder, "c_make_encoder", None)
    assert json_encoder(str)(value) == json.dumps(value, default=str)


def test_what_cannot_be_json_is_refused() -> None:
    with pytest.raises(TypeError, match="PosixPath"):
        json_encoder()({"path": Path("a")})
    with pytest.raises(TypeError, match="keys must be"):
        json_encoder(str)({(1, 2): 3})


@pytest.mark.parametrize("value", VALUES)
def test_values_are_those_of_json(value: Any) -> None:
    text = json.dumps(value, default=str)
    assert repr(json_decoder()(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["", "{} ", "{}{}", "[1] 2", "{'a': 1}", "nul", "[1"])
def test_what_is_no_json_or_goes_on_behind_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_decoder()(text)
