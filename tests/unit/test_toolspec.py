"""From a name to a tool's class: what is found, and what is said when nothing is."""

import importlib.metadata
import sys
import threading

import pytest

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.tool_api import tool_spec as toolspec
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class, resolve_spec, split_spec

TOOL = """
from snakemake_executor_gpupool.tool_api.tool import Tool

class Count(Tool):
    version = "3"
"""
SCRIPT = f"""
from snakemake.script import snakemake
{TOOL}
Count.main(snakemake)
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="my tool's.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def entry_points(monkeypatch):
    """Pretend that these tools are installed."""

    def pretend(**targets):
        points = importlib.metadata.EntryPoints(
            importlib.metadata.EntryPoint(name.rstrip("_"), value, toolspec.ENTRY_POINT_GROUP)
            for name, value in targets.items()
        )
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda: points)

    return pretend


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("esm2-embed", ("esm2-embed", "")),
        ("package.module:Class", ("package.module", "Class")),
        ("package.module:Outer.Inner", ("package.module", "Outer.Inner")),
        ("path/to/file.py:Class", ("path/to/file.py", "Class")),
        ("path/to/file.py", ("path/to/file.py", "")),
        ("odd:dir/file.py", ("odd:dir/file.py", "")),
        ("odd:dir/file.py:Class", ("odd:dir/file.py", "Class")),
        (" spaced.module:Class ", ("spaced.module", "Class")),
    ],
)
def test_split(spec, parts):
    assert split_spec(spec) == parts


class TestInstalled:
    def test_found_by_name(self, entry_points):
        entry_points(count="tests_of_gpupool:Count")
        assert resolve_spec("count") == "tests_of_gpupool:Count"

    def test_unknown_name_says_what_there_is(self, entry_points):
        entry_points(fold="a:Fold", embed="b:Embed")
        with pytest.raises(UnknownTool) as error:
            load_tool_class("embde")
        assert "no tool 'embde'" in str(error.value)
        assert "Did you mean 'embed'?" in str(error.value)
        assert "embed, fold" in str(error.value)

    def test_none_installed(self, entry_points):
        entry_points()
        with pytest.raises(UnknownTool, match="Installed tools: none"):
            load_tool_class("embed")

    def test_two_packages_offer_one_name(self, entry_points):
        entry_points(embed="a:Embed", embed_="b:Embed")
        with pytest.raises(UnknownTool, match=r"several installed packages.* a:Embed, b:Embed"):
            load_tool_class("embed")

    def test_twice_the_same_is_one(self, entry_points):
        entry_points(embed="a:Embed", embed_="a:Embed")
        assert resolve_spec("embed") == "a:Embed"

    def test_built_in(self):
        assert load_tool_class("esm2-embed").__name__ == "Esm2Embed"


class TestModule:
    def test_found(self):
        spec = "snakemake_executor_gpupool.tools.esm2:Esm2Embed"
        assert issubclass(load_tool_class(spec), Tool)

    def test_no_such_module(self):
        with pytest.raises(UnknownTool, match=r"importing no_such_module failed.*ModuleNotFound"):
            load_tool_class("no_such_module:Tool")

    def test_no_such_class(self):
        with pytest.raises(UnknownTool, match="has no class 'Nothing'; its tools: Esm2Embed"):
            load_tool_class("snakemake_executor_gpupool.tools.esm2:Nothing")

    @pytest.mark.parametrize("name", ["json:dumps", "json:JSONDecoder"])
    def test_no_tool(self, name):
        with pytest.raises(UnknownTool, match="is not a tool; a tool is a subclass of"):
            load_tool_class(name)

    def test_the_base_class_is_no_tool(self):
        with pytest.raises(UnknownTool, match="is not a tool"):
            load_tool_class("snakemake_executor_gpupool.tool_api.tool:Tool")


class TestFile:
    def test_relative_to_the_base_directory(self, write, tmp_path):
        write(TOOL, "scripts/count.py")
        assert load_tool_class("scripts/count.py:Count", str(tmp_path)).version == "3"

    def test_absolute(self, write):
        assert load_tool_class(f"{write(TOOL)}:Count", "/nowhere").__name__ == "Count"

    def test_class_left_out(self, write):
        assert load_tool_class(str(write(TOOL))).__name__ == "Count"

    def test_class_left_out_and_two_there(self, write):
        path = write(TOOL + "\nclass Other(Count): pass\n")
        with pytest.raises(UnknownTool, match=r"holds 2 tools; say which: .*:Count, .*:Other"):
            load_tool_class(str(path))

    def test_class_left_out_and_none_there(self, write):
        with pytest.raises(UnknownTool, match="defines no subclass of Tool"):
            load_tool_class(str(write("x = 1")))

    def test_missing_file(self, tmp_path):
        with pytest.raises(UnknownTool, match=f"there is no file {tmp_path}/absent.py"):
            load_tool_class("absent.py:Count", str(tmp_path))

    def test_missing_class(self, write):
        with pytest.raises(UnknownTool, match="has no class 'Cuont'; its tools: Count"):
            load_tool_class(f"{write(TOOL)}:Cuont")

    @pytest.mark.parametrize(
        ("text", "cause"),
        [
            ("import no_such_module", "ModuleNotFoundError: No module named"),
            ("\n\n1 / 0", r"ZeroDivisionError: .*\(line 3\)"),
            ("def f(:", "SyntaxError"),
            ("import sys; sys.exit('stop')", "SystemExit: stop"),
        ],
    )
    def test_failing_import_says_the_cause(self, write, text, cause):
        path = write(text)
        before = set(sys.modules)
        with pytest.raises(UnknownTool, match=f"importing .* failed with {cause}"):
            load_tool_class(f"{path}:Count")
        assert not [name for name in set(sys.modules) - before if name.startswith("gpupool_tool")]

    def test_same_file_is_loaded_once_and_again_after_an_edit(self, write):
        path = write(TOOL)
        first = load_tool_class(f"{path}:Count")
        assert load_tool_class(f"{path}:Count") is first
        write(TOOL.replace('"3"', '"4"'))
        assert load_tool_class(f"{path}:Count").version == "4"

    def test_two_files_of_one_name_stay_apart(self, write):
        one, two = write(TOOL, "a/tool.py"), write(TOOL.replace('"3"', '"4"'), "b/tool.py")
        versions = [load_tool_class(f"{path}:Count").version for path in (one, two)]
        assert versions == ["3", "4"]

    def test_neighbours_can_be_imported(self, write, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        write("number = '7'", "gpupool_test_neighbour.py")
        head = "from gpupool_test_neighbour import number\n"
        path = write(head + TOOL.replace('"3"', "number"))
        assert load_tool_class(f"{path}:Count").version == "7"
        assert sys.path[0] != str(path.parent), "a neighbour must not shadow installed modules"


class TestScript:
    def test_a_rules_own_script_is_loaded_without_being_run(self, write):
        assert load_tool_class(f"{write(SCRIPT)}:Count").version == "3"

    def test_snakemake_itself_is_left_alone(self, write):
        import snakemake
        import snakemake.script

        real = snakemake.script
        load_tool_class(f"{write(SCRIPT)}:Count")
        assert sys.modules["snakemake"] is snakemake
        assert sys.modules["snakemake.script"] is real


class Gate:
    """What a tool's file waits for while it is imported."""

    started, opened = threading.Event(), threading.Event()


def test_threads_load_one_file_one_after_the_other(write):
    import_gate = (
        "import sys; gate = sys.modules[{!r}].Gate; gate.started.set(); gate.opened.wait(9)"
    )
    path = write(import_gate.format(__name__) + TOOL)
    loaded = []
    threads = [
        threading.Thread(target=lambda: loaded.append(load_tool_class(f"{path}:Count")))
        for _ in range(2)
    ]
    threads[0].start()
    assert Gate.started.wait(9)
    threads[1].start()
    threads[1].join(0.05)
    Gate.opened.set()
    for thread in threads:
        thread.join(9)
    assert len(loaded) == 2 and loaded[0] is loaded[1]
