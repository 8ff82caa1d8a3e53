"""A tool's class, looked at before anything is called (C3, C4)."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.errors import ContractError, UnknownTool
from snakemake_executor_gpupool.tool_api.class_checks import (
    refuse_missing,
    remarks_on,
    why_unusable,
)
from snakemake_executor_gpupool.tool_api.methods import missing_method
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class

HEAD = "from snakemake_executor_gpupool import Tool\nclass T(Tool):\n"


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], str]:
    """Write a class's body; return how the tool is named."""

    def write(body: str) -> str:
        (tmp_path / "tool.py").write_text(HEAD + textwrap.indent(body, "    "))
        return f"{tmp_path / 'tool.py'}:T"

    return write


#: A class's body, and what is said of it.
BODIES = {
    'devices = "cpu"': "devices is the text 'cpu', taken letter by letter; write devices",
    'reload_on = ("model")': 'write reload_on = ("model",)',
    'write_params = "digits"': 'write write_params = ("digits",)',
    'devices = ("gpu",)': "devices is ('gpu',); it names what the model can run on",
    'devices = ("gpu", "cpu")': "devices has 'gpu'; it names",
    'devices = ("cuda:0", "cpu")': "devices has 'cuda:0'",
    'devices = ("CPU",)': "it names what the model can run on, 'cuda' and 'cpu'",
    "devices = ()": "the preferred first",
    'devices = {"cuda", "cpu"}': "devices is a set, which has no order",
    "devices = 1": "devices is 1; it must be a tuple of names",
    "reload_on = (1,)": "each of its names must be a text",
    'defaults = ["model"]': "defaults is ['model']; it must be a dict",
    'deterministic = "False"': "deterministic is 'False'; it must be True or False",
    'max_batch_tokens = "128"': "max_batch_tokens is '128'; it must be a whole number",
    'name = "score"': "name is 'score', and is called as name(item); write def name(self, item)",
    "tokens = 5": "tokens is 5, and is called as tokens(item)",
    "def read(self): pass": "cannot be called as read(job); write def read(self, job)",
    "def run(self, items, model): pass": "cannot be called as run(items); write def run(self",
    "def write(self, results): pass": "write def write(self, job, results)",
    "def load(self): pass": "write def load(self, device)",
    "async def run(self, items): pass": "run is async; write def run(self, items), without async",
    "async def read(self, job):\n    yield 1": "read is async",
}


@pytest.mark.parametrize("body", BODIES)
def test_what_cannot_be_meant_is_refused_when_the_class_is_loaded(
    make: Callable[[str], str], body: str
) -> None:
    with pytest.raises(UnknownTool) as refused:
        load_tool_class(make(body))
    assert "T: " in str(refused.value) and BODIES[body] in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        'devices = ["cpu"]',
        'devices = ("cuda", "mps", "cpu")',
        'reload_on = ["a", "b"]',
        "to = None",
        "def run(self, items, scale=1): pass",
        "def run(self, *arguments, **named): pass",
        "@staticmethod\ndef cost(item):\n    return 1",
        "@classmethod\ndef tokens(cls, item):\n    return 1",
        "cost = len",
        "cost = staticmethod(len)",
        "import functools\ntokens = functools.lru_cache(lambda self, item: 1)",
        "import functools\nname = functools.partialmethod(lambda self, n, item: n, 'x')",
        "@property\ndef cost(self):\n    return len",
        "def load(this, where): pass",
        "deterministic = 0",
    ],
)
def test_what_works_is_not_refused(make: Callable[[str], str], body: str) -> None:
    assert why_unusable(load_tool_class(make(body))) is None


def test_a_missing_method_is_named(make: Callable[[str], str]) -> None:
    kind: Any = load_tool_class(make("def rite(self, job, results): pass"))
    assert missing_method(kind, Tool, ("write",)) == (
        "T has no write(): add def write(self, job, results); is rite it, misspelt?"
    )
    with pytest.raises(ContractError, match=r"T has no read\(\): add def read\(self, job\)"):
        refuse_missing(kind)
    for call in (lambda: kind().run([]), lambda: kind().read(None), lambda: kind().write(None, [])):
        with pytest.raises(ContractError, match="T has no"):
            call()


def test_a_misspelt_attribute_is_a_remark(make: Callable[[str], str]) -> None:
    body = """
        determinstic = False
        defualts = {}
        net = layers = None
        names = ()
        def batch_token(self, device):
            return 1
        def run(self, items):
            return [self.names for _ in items]
    """
    remarks = remarks_on(load_tool_class(make(textwrap.dedent(body))))
    assert remarks == (
        "T.batch_token means nothing; did you mean 'batch_tokens'?",
        "T.defualts means nothing; did you mean 'defaults'?",
        "T.determinstic means nothing; did you mean 'deterministic'?",
    )


@pytest.mark.parametrize(
    "tool", ["esm2-embed", "esmfold", "sentence-embed", "linear-head", "tests/tools/textual.py"]
)
def test_nothing_is_said_of_our_own(tool: str) -> None:
    kind: Any = load_tool_class(tool)
    assert why_unusable(kind) is None and remarks_on(kind) == ()
    assert missing_method(kind, Tool) == ""


def test_looking_imports_nothing_heavy() -> None:
    load_tool_class("esm2-embed")
    assert "torch" not in sys.modules or "pytest" in sys.modules


def test_keys_without_a_return_or_of_arrays_do_not_collapse(make: Callable[[str], str]) -> None:
    import numpy as np

    from snakemake_executor_gpupool.worker.describe import describe_item

    none: Any = load_tool_class(make("def key(self, item):\n    item.upper()"))
    with pytest.raises(ContractError, match=r"T.key\(\) returned None. Does it lack a return"):
        describe_item(none(), "a", 0)
    same: Any = load_tool_class(make("def key(self, item):\n    return item"))
    arrays = np.zeros(5000), np.zeros(5000), np.array([1.0]), np.array([1.0 + 1e-12])
    arrays[1][2500] = 1  # where the printed text has three dots
    assert len({describe_item(same(), array, 0).key for array in arrays}) == 4
    assert (
        describe_item(same(), np.array([1.0]), 0).key
        == describe_item(same(), np.array([1.0]), 7).key
    )
