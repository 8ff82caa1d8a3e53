"""What a tool's source says of it: state that is not there, and who reads all params (C1)."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.tool_api.params_read import reads_all_params
from snakemake_executor_gpupool.tool_api.shared_state import shared_state
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker.cold import run_cold

HEAD = """
import os
import sys
from pathlib import Path
from snakemake_executor_gpupool import Tool
MODEL = None
CACHE = {}
"""
CLASS = """
class T(Tool):
    vocab = None
    def load(self, device):
        LOAD
    def read(self, job):
        READ
        return ["a"]
    def run(self, items):
        RUN
        return items
    def write(self, job, results):
        WRITE
        Path(job.output[0]).touch()
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def make(more: str = "", **bodies: str) -> Path:
        text = CLASS
        for name in ("load", "read", "run", "write"):
            lines = bodies.get(name, "pass").replace("\n", "\n        ")
            text = text.replace(name.upper(), lines)
        path = tmp_path / "tool.py"
        path.write_text(HEAD + text + textwrap.indent(textwrap.dedent(more), "    "))
        return path

    return make


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        ({"load": "self.vocab = 1", "write": "print(self.vocab)"}, "write() uses self.vocab"),
        ({"load": "self.new = 1", "read": "print(self.new)"}, "read() uses self.new"),
        ({"run": "self.n = 1", "write": "print(self.n)"}, "which run() sets"),
        ({"run": "self.n += 1", "write": "print(self.n)"}, "which run() sets"),
        ({"read": "self.head = 1", "write": "print(self.head)"}, "which read() sets"),
        ({"read": "self.head = 1", "run": "print(self.head)"}, "run() uses self.head"),
        ({"load": "global MODEL\nMODEL = 1", "write": "print(MODEL)"}, "write() uses MODEL"),
        ({"load": "global MODEL\nMODEL = 1", "read": "print(MODEL)"}, "read() uses MODEL"),
        ({"load": "CACHE['net'] = 1", "write": "print(CACHE['net'])"}, "write() uses CACHE"),
        ({"load": "CACHE.update(a=1)", "write": "print(CACHE['a'])"}, "write() uses CACHE"),
        ({"load": "T.vocab = 1", "write": "print(self.vocab)"}, "write() uses self.vocab"),
        ({"load": "type(self).vocab = 1", "write": "print(T.vocab)"}, "write() uses self.vocab"),
        ({"load": "self.a, self.b = 1, 2", "write": "print(self.b)"}, "write() uses self.b"),
        ({"load": "with open('x') as self.f: pass", "write": "print(self.f)"}, "uses self.f"),
        ({"load": "self.vocab['a'] = 1", "write": "print(self.vocab['a'])"}, "uses self.vocab"),
    ],
)
def test_state_of_another_object_is_refused(make: Any, bodies: Any, said: str) -> None:  # C1
    with pytest.raises(UnknownTool) as error:
        load_tool_class(str(make(**bodies)))
    assert said in str(error.value) and "different objects" in str(error.value)


def test_through_methods_functions_and_bases(make: Any) -> None:
    helpers = """
        def _prepare(self):
            self.table = {}
        def _text(self):
            return str(self.table)
    """
    path = make(helpers, load="self._prepare()", write="print(self._text())")
    with pytest.raises(UnknownTool, match=r"write\(\) uses self.table"):
        load_tool_class(str(path))
    sub = path.with_name("sub.py")
    base = make("", load="self.table = {}")
    sub.write_text(
        f"from {base.stem} import T\n\nclass Sub(T):\n"
        "    def load(self, device):\n        super().load(device)\n"
        "    def write(self, job, results):\n        print(self.table)\n"
    )
    try:
        with pytest.raises(UnknownTool, match=r"write\(\) uses self.table, which load\(\) sets"):
            load_tool_class(f"{sub}:Sub")
    finally:
        sys.modules.pop(base.stem, None)


@pytest.mark.parametrize(
    "bodies",
    [
        {"load": "self.net = 1", "run": "print(self.net)"},
        {"read": "self.n = 0", "write": "self.n = 1\nprint(self.n)"},
        {"load": "self.vocab = 1", "write": "print(getattr(self, 'vocab', None))"},
        {"load": "self.device = device", "write": "print(self.device)"},
        {"load": "vocab = 1", "write": "vocab = 2\nprint(vocab)"},
        {"load": "CACHE['a'] = 1", "write": "CACHE['a'] = 2\nprint(CACHE)"},
        {"load": "global MODEL\nMODEL = 1", "run": "print(MODEL)"},
        {"load": "import os\nos.environ['A'] = '1'", "write": "import os\nprint(os.environ)"},
        {"load": "sys.path.append('x')", "read": "print(sys.path, os.environ.get('TMPDIR'))"},
        {"run": "os.environ['A'] = '1'", "read": "print(os.environ.get('TMPDIR'))"},
        {"load": "job = 1", "write": "MODEL = 1\nprint(MODEL)"},
        {"load": "Path.x = 1", "write": "print(str(Path(job.output[0])))"},
    ],
)
def test_what_is_right_is_not_refused(make: Any, bodies: Any) -> None:
    load_tool_class(str(make(**bodies)))


def test_what_each_side_sets_for_itself_is_not_refused(make: Any) -> None:
    helpers = """
        def tokenizer(self):
            if self.vocab is None:
                self.vocab = {}
            return self.vocab
    """
    load_tool_class(str(make(helpers, load="self.tokenizer()", read="self.tokenizer()")))
    handed = make(load="self.vocab = 1", read="fill(self)\nprint(self.vocab)")
    text = handed.read_text().replace("class T", "def fill(tool):\n    tool.vocab = 2\n\nclass T")
    handed.write_text(text)
    load_tool_class(str(handed))


def test_cold_refuses_it_too(tmp_path: Path, make: Any) -> None:  # T5
    class Cold(Tool):
        def load(self, device: str) -> None:
            self.vocab = 1

        def write(self, job: Job, results: list[Any]) -> None:
            print(self.vocab)

    with pytest.raises(UnknownTool, match=r"write\(\) uses self.vocab"):
        run_cold(Cold, Job())


@pytest.mark.parametrize("name", ["reload_on", "write_params"])
def test_a_text_for_names_is_refused(make: Any, name: str) -> None:
    path = make(f"{name} = 'model'")
    with pytest.raises(UnknownTool, match=rf'write {name} = \("model",\)'):
        load_tool_class(str(path))


@pytest.mark.parametrize(
    "name",
    ["esm2:Esm2Embed", "esmfold:EsmFold", "sentence:SentenceEmbed", "linear_head:LinearHead"],
)
def test_the_built_in_tools_read_params_by_name(name: str) -> None:
    kind = load_tool_class(f"snakemake_executor_gpupool.tools.{name}")
    assert shared_state(kind) is None
    assert not reads_all_params(kind, "load") and not reads_all_params(kind, "run")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("self.params.a", False),
        ("self.params['a']", False),
        ("self.params[items]", False),
        ("self.params.get('a')", False),
        ("'a' in self.params", False),
        ("one(self.params)", False),
        ("one(params=self.params)", False),
        ("Options.made(self.params)", False),
        ("tool_one(self)", False),
        ("isinstance(self, Tool)", False),
        ("getattr(self, 'net', None)", False),
        ("dict(self.params)", True),
        ("{**self.params}", True),
        ("list(self.params)", True),
        ("self.params.items()", True),
        ("list(map(self.params.get, 'ab'))", True),
        ("self.params == {}", True),
        ("[p for p in self.params]", True),
        ("(lambda p=self.params: p)()", True),
        ("print(self.params)", True),
        ("every(self.params)", True),
        ("Options(self.params)", True),
        ("Options.whole(self.params)", True),
        ("tool_every(self)", True),
        ("unknown(self)", True),
        ("getattr(self, 'params')", True),
    ],
)
def test_who_may_read_all_params(make: Any, line: str, expected: bool) -> None:
    path = make(run=line)
    helpers = """
def one(params):
    return params["a"]
def every(params):
    return dict(params)
def tool_one(tool):
    return tool.params.a
def tool_every(tool):
    return list(tool.params)
class Options:
    def __init__(self, params):
        vars(self).update(params)
    @classmethod
    def made(cls, params):
        return one(params)
    @classmethod
    def whole(cls, params):
        return every(params)
class T("""
    path.write_text(path.read_text().replace("class T(", helpers.lstrip(), 1))
    kind = load_tool_class(f"{path}:T")
    assert reads_all_params(kind, "run") is expected
    assert not reads_all_params(kind, "load")
