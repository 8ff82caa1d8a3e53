"""How values of params are written on the command line, the same for run, check and a rule (T5)."""

from __future__ import annotations

import doctest

import pytest

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline import arguments
from snakemake_executor_gpupool.frontends.commandline.arguments import parsed, read_params
from snakemake_executor_gpupool.frontends.commandline.main import build_parser


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # lists lose the spaces around their words, at any depth
        ("[a, b]", ["a", "b"]),
        ("[ a , b ]", ["a", "b"]),
        ("[a,b,]", ["a", "b"]),
        ("[a b, c]", ["a b", "c"]),
        ("[[a, b], [c]]", [["a", "b"], ["c"]]),
        ("[1, 2.5, true, none, x]", [1, 2.5, True, None, "x"]),
        ("[cuda:0, cuda:1]", ["cuda:0", "cuda:1"]),
        ("[]", []),
        ("[[]]", [[]]),
        # quotes keep what is in them
        ("['a', \"b\"]", ["a", "b"]),
        ("['a, b', ' c']", ["a, b", " c"]),
        ("['1', 1]", ["1", 1]),
        ("'6'", "6"),
        ('"a\\tb"', "a\tb"),
        ("'true'", "true"),
        # mappings, as JSON and Python write them, or without quotes
        ('{"a": 1, "b": [2]}', {"a": 1, "b": [2]}),
        ("{a: x, b: {c: none}}", {"a": "x", "b": {"c": None}}),
        ("{'a': 'x y'}", {"a": "x y"}),
        ("{}", {}),
        # a shell has split a list at its spaces
        (["[a,", "b]"], ["a", "b"]),
        (["[a,", "b]", "c"], [["a", "b"], "c"]),
        (["[1]", "[2]"], [[1], [2]]),
        (["{a:", "1}"], {"a": 1}),
        (["a", "b"], ["a", "b"]),
        (["6"], [6]),
        # anything else is text, as it was written
        (" b", " b"),
        ("a, b", "a, b"),
        ("{sample}", "{sample}"),
        ("[A-Z]+", "[A-Z]+"),
        ("it's", "it's"),
        ("'a' or 'b'", "'a' or 'b'"),
        ("007", "007"),
        ("-", "-"),
    ],
)
def test_values(text: str | list[str], value: object) -> None:
    assert parsed(text) == value
    assert repr(parsed(text)) == repr(value)


@pytest.mark.parametrize("text", ["[a, b", "[a,,b]", "[a(1), b]", "[it's]", "{a: 1"])
def test_what_looks_like_a_list_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a list or mapping"):
        parsed(text)


@pytest.mark.parametrize("command", ["run", "check"])
def test_run_and_check_read_params_alike(command: str) -> None:
    words = [command, "tool", "--param", "x=[a, b]", "layers=6", "12", "y=[1,", "2]", "z=' q'"]
    options = build_parser().parse_args(words)
    expected = {"x": ["a", "b"], "layers": [6, 12], "y": [1, 2], "z": " q"}
    assert read_params("--param", options.param) == expected


def test_a_malformed_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--param layers: '\[6, 12' is not a list"):
        read_params("--param", [["layers=[6, 12"]])


def test_the_examples_of_the_docstring() -> None:
    results = doctest.testmod(arguments)
    assert (results.failed, results.attempted) == (0, 3)
