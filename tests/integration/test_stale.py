"""Kept results against whatever a tool's results may depend on: never stale (C2, real workers)."""
# ruff: noqa: E501 - tools in one line each

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

TOOL = """
from snakemake_executor_gpupool import Tool
{imports}
class T(Tool):
    reload_on = ("model",)
    defaults = {{"model": "m", "extra": "x"}}
    {body}
    def read(self, job): return []
    def write(self, job, results): pass
"""
#: Computes items in a pool that keeps results, and says how many batches that took; or cold.
DRIVER = """
import json, logging, sys
from pathlib import Path
from snakemake_executor_gpupool import ToolPool, tool_function
way, spec, items, params = sys.argv[1], *map(json.loads, sys.argv[2:])
logging.basicConfig(format="%(message)s")
if way == "cold":
    print(json.dumps(tool_function(spec, **params)(items)))
else:
    with ToolPool(devices="cpu:1", cache="cache") as pool:
        print(json.dumps(pool.run(spec, items, params)))
"""


class Case(NamedTuple):
    """A tool, and an edit after which its results are others."""

    files: dict[str, str]
    edit: Callable[[], object]
    spec: str = "t.py:T"
    params: dict[str, str] = {}  # noqa: RUF012 - never changed


def tool(run: str, load: str = "pass", imports: str = "", more: str = "") -> str:
    body = (
        f"def load(self, device):\n        open('loads', 'a').write('x')\n        {load}\n"
        f"    def run(self, items):\n        {run}\n    {more}"
    )
    return TOOL.format(imports=imports, body=body)


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def forged(name: str, text: str) -> Callable[[], None]:
    """Write other content of the same size and time of change."""

    def act() -> None:
        status = Path(name).stat()
        assert status.st_size == len(text)
        Path(name).write_text(text)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))

    return act


def relinked(link: str, target: str) -> Callable[[], None]:
    def act() -> None:
        Path(link).unlink()
        Path(link).symlink_to(target)

    return act


READ = "return [i + open({}).read() for i in items]"
HERE = "import os\nHERE = os.path.dirname(os.path.abspath(__file__))\n"
LOADED = "return [i + self.x for i in items]"

CASES = {
    "a helper of the same size and time": Case(
        {
            "t.py": tool("return [i + helper.X for i in items]", imports="import helper"),
            "helper.py": "X='1'",
        },
        forged("helper.py", "X='2'"),
    ),
    "the package that the tool's module is in": Case(
        {
            "pkg/__init__.py": "import builtins; builtins.X='1'",
            "pkg/t.py": tool("return [i + X for i in items]"),
        },
        lambda: write({"pkg/__init__.py": "import builtins; builtins.X='2'"}),
        spec="pkg.t:T",
    ),
    "a star import of submodules": Case(
        {
            "t.py": tool("return [i + sub.X for i in items]", imports="from pkg import *"),
            "pkg/__init__.py": "__all__=['su'+'b']",
            "pkg/sub.py": "X='1'",
        },
        lambda: write({"pkg/sub.py": "X='2'"}),
    ),
    "a module whose name is computed": Case(
        {
            "t.py": tool(
                "import importlib; return [i + importlib.import_module('hel'+'per').X for i in items]"
            ),
            "helper.py": "X='1'",
        },
        lambda: write({"helper.py": "X='2'"}),
    ),
    "a module on a path that load adds": Case(
        {
            "t.py": tool(
                LOADED,
                HERE
                and "import sys, os; sys.path.insert(0, os.path.join(HERE, 'lib')); import far; self.x = far.X",
                HERE,
            ),
            "lib/far.py": "X='1'",
        },
        lambda: write({"lib/far.py": "X='2'"}),
    ),
    "a module by its path": Case(
        {
            "t.py": tool(
                LOADED,
                "import importlib.util as u; s=u.spec_from_file_location('zz', 'far/z.py'); m=u.module_from_spec(s); s.loader.exec_module(m); self.x=m.X",
            ),
            "far/z.py": "X='1'",
        },
        lambda: write({"far/z.py": "X='2'"}),
    ),
    "code that is executed": Case(
        {
            "t.py": tool(LOADED, "d={}; exec(open('code.txt').read(), d); self.x=d['X']"),
            "code.txt": "X='1'",
        },
        lambda: write({"code.txt": "X='2'"}),
    ),
    "runpy": Case(
        {"t.py": tool(LOADED, "import runpy; self.x=runpy.run_path('s.py')['X']"), "s.py": "X='1'"},
        lambda: write({"s.py": "X='2'"}),
    ),
    "data beside the tool, at import": Case(
        {
            "t.py": tool(
                "return [i + X for i in items]", imports=HERE + "X=open(HERE + '/d.txt').read()"
            ),
            "d.txt": "1",
        },
        forged("d.txt", "2"),
    ),
    "data of a local package": Case(
        {
            "t.py": tool(LOADED, "import pkg; self.x=pkg.table()", ""),
            "pkg/__init__.py": "from importlib import resources\ndef table(): return resources.files(__name__).joinpath('d.txt').read_text()",
            "pkg/d.txt": "1",
        },
        forged("pkg/d.txt", "2"),
    ),
    "data in run": Case({"t.py": tool(READ.format("'d.txt'")), "d.txt": "1"}, forged("d.txt", "2")),
    "data that was not there": Case(
        {
            "t.py": tool(
                LOADED,
                "\n        ".join(
                    ["try: self.x=open('d.txt').read()", "except OSError: self.x='none'"]
                ),
            )
        },
        lambda: write({"d.txt": "2"}),
    ),
    "a new file in a directory": Case(
        {
            "t.py": tool(
                LOADED,
                "import glob; self.x=''.join(open(f).read() for f in sorted(glob.glob('d/*')))",
            ),
            "d/1": "1",
        },
        lambda: write({"d/2": "2"}),
    ),
    "a database": Case(
        {
            "t.py": tool(
                LOADED,
                "import sqlite3; self.x=sqlite3.connect('d.db').execute('select x from t').fetchone()[0]",
            ),
            "make.py": "",
        },
        lambda: database("2"),
    ),
    "a file that a param names in part": Case(
        {"t.py": tool(LOADED, "self.x=open(self.params.model + '.bin').read()"), "w.bin": "1"},
        forged("w.bin", "2"),
        params={"model": "w"},
    ),
    "weights of the same size and time": Case(
        {"t.py": tool(LOADED, "self.x=open(self.params.model).read()"), "w.pt": "1"},
        forged("w.pt", "2"),
        params={"model": "w.pt"},
    ),
    "weights in a hidden directory of a model": Case(
        {"t.py": tool(LOADED, "self.x=open(self.params.model + '/.in/w').read()"), "m/.in/w": "1"},
        forged("m/.in/w", "2"),
        params={"model": "m"},
    ),
    "a link's target": Case(
        {"t.py": tool(LOADED, "self.x=open(self.params.model).read()"), "w1": "1", "w2": "2"},
        relinked("w", "w2"),
        params={"model": "w"},
    ),
    "a file of a run's param": Case(
        {"t.py": tool("return [i + open(self.params.extra).read() for i in items]"), "e": "1"},
        forged("e", "2"),
        params={"extra": "e"},
    ),
    "defaults": Case(
        {"t.py": tool("return [i + self.params.extra for i in items]")},
        lambda: Path("t.py").write_text(
            Path("t.py").read_text().replace('"extra": "x"', '"extra": "y"')
        ),
    ),
    "an attribute of a base in another file": Case(
        {
            "t.py": "from base import B\nclass T(B): pass\n",
            "base.py": tool(LOADED, more="x = '1'").replace("class T", "class B"),
        },
        lambda: write({"base.py": tool(LOADED, more="x = '2'").replace("class T", "class B")}),
    ),
    "an environment variable": Case(
        {"t.py": tool("import os; return [i + os.environ.get('MY_SETTING', '') for i in items]")},
        lambda: os.environ.update(MY_SETTING="2"),
    ),
    "a program": Case(
        {
            "t.py": tool(
                LOADED,
                "import subprocess; self.x=subprocess.run(['./p'], capture_output=True, text=True).stdout",
            ),
            "p": "#!/bin/sh\necho 1\n",
        },
        forged("p", "#!/bin/sh\necho 2\n"),
    ),
    "a file that an own key does not name": Case(
        {
            "t.py": tool(
                "return [i[0] + open(i[1]).read() for i in items]",
                more="def key(self, item): return item[0]",
            ),
            "f": "1",
        },
        forged("f", "2"),
    ),
    "sitecustomize": Case(
        {
            "t.py": tool("return [i + getattr(__import__('builtins'), 'X', '') for i in items]"),
            "sitecustomize.py": "import builtins; builtins.X='1'",
        },
        lambda: write({"sitecustomize.py": "import builtins; builtins.X='2'"}),
    ),
}


def database(value: str) -> None:
    import sqlite3

    with sqlite3.connect("d.db") as connection:
        connection.execute("drop table if exists t")
        connection.execute("create table t (x text)")
        connection.execute("insert into t values (?)", (value,))


def complete(case: Case) -> None:
    """Make what a case has beside texts: a program, a database, a link."""
    if "p" in case.files:
        Path("p").chmod(0o755)
    if "make.py" in case.files:
        database("1")
    if "w1" in case.files:
        Path("w").symlink_to("w1")


def driven(way: str, case: Case, items: object) -> tuple[list[str], str]:
    words = [json.dumps(each) for each in (case.spec, items, case.params)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, way, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_kept_result_is_never_stale(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_SETTING", "1")
    write(case.files)
    complete(case)
    items = [["a", "f"]] if "f" in case.files else ["a"]
    first, _ = driven("pool", case, items)
    assert driven("pool", case, items)[0] == first
    assert Path("loads").read_text() == "x", "nothing is kept"
    case.edit()
    again, said = driven("pool", case, items)
    right, _ = driven("cold", case, items)
    assert right != first, "the edit changes nothing"
    assert again == right
    assert said.count("cannot cover") == ("p" in case.files), "programs are said, once"


#: Edits the helper of a tool while Python goes on, as in a notebook.
NOTEBOOK = """
from pathlib import Path
from snakemake_executor_gpupool import ToolPool
for text in ("X='1'", "X='2'", "X='1'"):
    Path("helper.py").write_text(text)
    with ToolPool(devices="cpu:1", cache="cache") as pool:
        print(pool.run("t.py:T", ["a"]))
"""


def test_a_python_process_that_lives_on_finds_no_results_of_older_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C2
    monkeypatch.chdir(tmp_path)
    write({"t.py": tool("return [i + helper.X for i in items]", imports="import helper")})
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n") == ["['a1']", "['a2']", "['a1']", ""], done.stderr
    assert Path("loads").read_text() == "xx", "the third time it is kept"


def test_an_edited_copy_of_a_workflow_finds_no_results_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C2
    for name, x in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        code = HERE + "X=open(HERE + '/d.txt').read()"
        files = {"t.py": tool("return [i + X for i in items]", imports=code), "d.txt": x}
        write(files)
        Path("cache").symlink_to(tmp_path)
        assert driven("pool", Case(files, str), ["a"])[0] == [f"a{x}"]
    # The original's are still there.
    monkeypatch.chdir(tmp_path / "one")
    assert driven("pool", Case({}, str), ["a"])[0] == ["a1"]
