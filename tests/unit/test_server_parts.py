"""What a server and its clients agree on: address, messages, variables, code that is unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import types
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.visibility import CONTAINER_PREFIXES, visible_env
from snakemake_executor_gpupool.errors import CodeChanged, ConfigError, FrameError, UnlistedCode
from snakemake_executor_gpupool.frontends.server import address
from snakemake_executor_gpupool.frontends.server.address import AUTO, ON, Wish, key_of, wish_of
from snakemake_executor_gpupool.frontends.server.code_watch import CodeWatch, ToolCode, ToolError
from snakemake_executor_gpupool.frontends.server.talk import LENGTH, decode, encode, receive
from snakemake_executor_gpupool.frontends.server.variables import (
    depends_on_place,
    digest_of,
    shown,
)
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.worker.code_report import HERE, _words
from snakemake_executor_gpupool.worker.dependencies import names_of
from snakemake_executor_gpupool.worker.observed import Read
from snakemake_executor_gpupool.worker.unchanged import (
    CONTENT,
    FILE,
    NAMES,
    PLACE,
    Unchanged,
    local_files,
    signature,
)


def test_what_a_user_wishes_for() -> None:
    assert wish_of(None, {}) == Wish() == wish_of("off", {"GPUPOOL_SERVER": "auto"})
    assert wish_of(None, {"GPUPOOL_SERVER": " auto "}) == Wish(AUTO)
    assert wish_of("on", {}) == Wish(ON)
    assert wish_of("/a/b", {}) == Wish(ON, "/a/b")
    with pytest.raises(ConfigError, match="--server is 'maybe'"):
        wish_of("maybe", {})
    with pytest.raises(ConfigError, match="GPUPOOL_SERVER is 'yes'"):
        wish_of(None, {"GPUPOOL_SERVER": "yes"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPUPOOL_LOCK_DIR", "/locks"),
        ("GPUPOOL_SIMULATE", "2"),
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("SLURM_JOB_ID", "7"),
        ("GPUPOOL_SEED", "3"),
    ],
)
def test_what_makes_another_server(variable: str, value: str) -> None:  # G4
    assert key_of({variable: value}) != key_of({})


def test_what_does_not() -> None:
    env = {"HOME": "/x", "GPUPOOL_SERVER": "auto", "GPUPOOL_DEVICE": "cpu", "FOO": "1"}
    assert key_of(env) == key_of({})


def test_every_variable_that_shows_devices_makes_another_server() -> None:
    inside = [name for name in visible_env(()) if name.startswith(CONTAINER_PREFIXES)]
    for name in set(visible_env(())) - {*address.INSIDE, *inside}:
        assert key_of({name: "x"}) != key_of({}), name


def test_another_gpupool_or_python_is_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of({})
    for where, name, value in (
        (address, "__version__", "9.9"),
        (address, "fingerprint", lambda: "x"),
        (sys, "prefix", "/other"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            assert key_of({}) != before


def test_a_directory_of_others_is_not_trusted(tmp_path: Path) -> None:
    place = tmp_path / "server"
    assert address.why_unsafe(str(place)) == ""
    address.make_directory(str(place))
    assert place.stat().st_mode & 0o777 == 0o700 and address.why_unsafe(str(place)) == ""
    place.chmod(0o770)
    assert "others may reach" in address.why_unsafe(str(place))
    place.chmod(0o1777)
    said = address.why_unsafe(str(place))
    assert "others may reach" in said and "chmod" not in said
    with pytest.raises(ConfigError, match="not safe"):
        address.make_directory(str(place))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "no directory" in address.why_unsafe(str(link))


def test_a_path_that_no_socket_can_have() -> None:
    with pytest.raises(ConfigError, match="too long"):
        address.socket_of("/" + "d" * 120)


def test_messages_go_through_whole_and_nothing_else_does() -> None:
    ours, theirs = socket.socketpair()
    message = {"type": "run", "cwd": os.fsdecode(b"/odd\xff"), "text": "\u00e9" * 100_000}
    with ours, theirs:
        theirs.settimeout(10)
        ours.sendall(encode({"type": "a"}))
        assert receive(theirs) == {"type": "a"}
        for bad in (b"[1]", b"nothing", b"{}", b'{"type": 1}', b"\xff"):
            ours.sendall(LENGTH.pack(len(bad)) + bad)
            with pytest.raises(FrameError):
                receive(theirs)
        ours.sendall(LENGTH.pack(2**31))
        with pytest.raises(FrameError, match="at most"):
            receive(theirs)
    assert decode(encode(message)[LENGTH.size :]) == message


def test_the_end_of_a_connection_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(encode({"type": "a"})[:-1])
        ours.close()
        assert receive(theirs) is None


def test_what_differs_from_task_to_task_is_not_shown() -> None:
    task = {"PWD": "/w/1", "TMPDIR": "/t/1", "NXF_TASK_WORKDIR": "/w", "MAKEFLAGS": "-j", "A": "1"}
    assert shown(task, "/w/1") == {"A": "1"}
    ignoring = {**task, "STEP_ID": "4", "B": "2", "GPUPOOL_SERVER_IGNORE": "STEP_*, B,,*"}
    assert shown(ignoring, "/w/1") == {"A": "1"}
    assert digest_of({"A": "1", "B": "2"}) == digest_of({"B": "2", "A": "1"})
    assert digest_of({"A": "1"}) != digest_of({"A": "2"})


def test_a_home_of_one_task_is_the_user_s(tmp_path: Path) -> None:
    assert shown({"HOME": "/home/somebody"}, str(tmp_path)) == {"HOME": "/home/somebody"}
    assert shown({"HOME": str(tmp_path)}, str(tmp_path))["HOME"] != str(tmp_path)


def test_relative_entries_depend_on_the_place() -> None:
    assert not depends_on_place({"PATH": "/bin:/usr/bin", "PYTHONPATH": ""})
    assert depends_on_place({"PATH": "/bin:."})
    assert depends_on_place({"PYTHONPATH": "/a:"})


# -- code that is unchanged ----------------------------------------------------------------
def test_every_change_of_a_file_is_another_signature(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    assert signature(FILE, str(file)) == ""
    seen = {""}
    file.write_text("x = 1\n")
    seen.add(signature(FILE, str(file)))
    status = file.stat()
    file.write_text("x = 2\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as long, and as old
    seen.add(signature(FILE, str(file)))
    other = tmp_path / "b.py"
    other.write_text("x = 2\n")
    other.replace(file)
    seen.add(signature(FILE, str(file)))
    assert len(seen) == 4


def test_a_further_link_changes_no_content(tmp_path: Path) -> None:
    file = tmp_path / "pyvenv.cfg"
    file.write_text("home = /a\n")
    before = signature(CONTENT, str(file)), signature(FILE, str(file))
    os.link(file, tmp_path / "copy")
    assert signature(CONTENT, str(file)) == before[0]
    file.write_text("home = /b\n")
    assert signature(CONTENT, str(file)) != before[0]


def test_what_an_import_may_find_in_a_directory(tmp_path: Path) -> None:
    before = signature(NAMES, str(tmp_path))
    (tmp_path / "results.txt").touch()
    (tmp_path / "results").mkdir()
    assert signature(NAMES, str(tmp_path)) == before, "outputs are no modules"
    (tmp_path / "numpy.py").touch()
    with_module = signature(NAMES, str(tmp_path))
    assert with_module != before
    (tmp_path / "results" / "__init__.py").touch()
    assert signature(NAMES, str(tmp_path)) != with_module
    place = signature(PLACE, str(tmp_path))
    (tmp_path / "new-1.0.dist-info").mkdir()
    assert signature(PLACE, str(tmp_path)) != place


def expected(tmp_path: Path, *files: Path) -> Unchanged:
    watched = [[str(path), FILE, signature(FILE, str(path))] for path in files]
    place = tmp_path / "expected.json"
    place.write_text(json.dumps({"tool": "t.py", "watched": watched}))
    return Unchanged(str(place))


def test_a_process_notices_that_its_code_has_changed(  # G4
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "snakemake_executor_gpupool.worker.unchanged.local_files", set
    )  # those of the tests are local, too
    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    unchanged = expected(tmp_path, file)
    unchanged.require()
    file.write_text("x = 2\n")
    unchanged.require()  # nothing was imported meanwhile: what is loaded is what it was
    monkeypatch.setitem(sys.modules, "something_new", sys)
    with pytest.raises(CodeChanged, match=r"code\.py has changed"):
        unchanged.require()


def expect(folder: Path, stamp: str, *files: Path) -> str:
    watched = [[str(path), FILE, signature(FILE, str(path))] for path in files]
    place = folder / f"{stamp}.json"
    place.write_text(json.dumps({"tool": stamp, "watched": watched}))
    return str(place)


def test_a_process_with_several_tools_knows_the_code_of_each(  # G4
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    for path in (one, two):
        path.write_text("x = 1\n")
    monkeypatch.setattr(
        "snakemake_executor_gpupool.worker.unchanged.local_files", lambda: {str(one), str(two)}
    )
    alone = expect(tmp_path, "start.a-0", one)
    expect(tmp_path, "start.b-0", two)
    both = str(tmp_path / "start.a-0+b-0.json")
    with pytest.raises(UnlistedCode):
        Unchanged(alone).require()
    Unchanged(both).require()
    two.write_text("x = 22\n")
    with pytest.raises(CodeChanged, match=r"two\.py"):
        Unchanged(both).require()
    expect(tmp_path, "start.b-0", one, two)
    one.write_text("x = 22\n")
    expect(tmp_path, "start.c-0", one)
    with pytest.raises(CodeChanged, match=r"one\.py has changed while"):
        Unchanged(str(tmp_path / "start.a-0+c-0.json")).require()


def test_a_process_takes_another_tool_in_only_as_it_was_looked_at(  # G4
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, common = (tmp_path / f"{name}.py" for name in ("one", "two", "common"))
    for path in (one, two, common):
        path.write_text("x = 1\n")
    known = {str(one)}
    monkeypatch.setattr("snakemake_executor_gpupool.worker.unchanged.local_files", lambda: known)
    unchanged = Unchanged(expect(tmp_path, "s.one", one))
    unchanged.require()
    expect(tmp_path, "s.two", two, common)
    assert (
        unchanged.admit("s.two", lambda: known.update({str(two), str(common)}) or "tool") == "tool"
    )
    monkeypatch.setitem(sys.modules, "something_new", sys)
    unchanged.require()  # what the other tool has imported is its own

    # A third tool shares a module that was imported before it was edited.
    common.write_text("x = 22\n")
    expect(tmp_path, "s.three", common)
    with pytest.raises(CodeChanged, match=r"common\.py"):
        unchanged.admit("s.three", lambda: pytest.fail("it is not imported"))
    # One that changes while it is imported.
    late = tmp_path / "late.py"
    late.write_text("x = 1\n")
    expect(tmp_path, "s.late", late)
    with pytest.raises(CodeChanged, match=r"late\.py"):
        unchanged.admit("s.late", lambda: late.write_text("x = 22\n"))


def test_what_a_process_reads_that_starts_anywhere_is_named_from_its_tool_alone(  # C2
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was started means nothing to whoever finds its kept results."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "tool" / "data"
    read, folder = Read(FILE, str(data), is_absolute=True), str(tmp_path / "tool")
    assert set(names_of(read, folder, is_anywhere=True)) == {str(data), "tool:data"}
    assert "here:tool/data" in set(names_of(read, folder, is_anywhere=False))
    place = tmp_path / "s.json"
    for anywhere in (True, False):
        place.write_text(json.dumps({"tool": "t", "watched": [], "anywhere": anywhere}))
        assert Unchanged(str(place)).is_anywhere == anywhere


@pytest.mark.parametrize(
    "code", ["os.path.abspath('')", "Path('.')", "os.getcwd()", "realpath('')"]
)
def test_code_that_asks_for_the_working_directory_starts_there(code: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(f"x = {code}\n")
    assert HERE in _words([str(file)])
    file.write_text("x = os.path.abspath(__file__)\n")
    assert HERE not in _words([str(file)])


def test_a_module_that_nobody_knew_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / "code.py", tmp_path / "other.py"
    for path in (file, other):
        path.touch()
    monkeypatch.setattr(
        "snakemake_executor_gpupool.worker.unchanged.local_files", lambda: {str(file), str(other)}
    )
    expected(tmp_path, file, other).require()
    with pytest.raises(UnlistedCode, match=r"other\.py"):
        expected(tmp_path, file).require()


def test_modules_that_libraries_make_up_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = types.ModuleType("torch._classes")
    made_up.__file__ = "_classes.py"
    monkeypatch.setitem(sys.modules, "torch._classes", made_up)
    assert not [path for path in local_files() if path.endswith("_classes.py")]
    assert __file__ in local_files()


def test_one_look_counts_for_all_that_asked_before_it_and_for_none_that_asks_later(  # G4
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    watch, asked = CodeWatch(), []

    async def ask(*question: object) -> ToolCode:
        asked.append(question)
        await asyncio.sleep(0)
        if "broken" in file.read_text():
            raise ToolError(WorkerError("it cannot be imported"))
        return ToolCode(((str(file), FILE, signature(FILE, str(file))),), (), "1")

    looks: list[str] = []
    monkeypatch.setattr(
        "snakemake_executor_gpupool.frontends.server.code_watch.signature",
        lambda kind, path: looks.append(path) or signature(kind, path),
    )
    monkeypatch.setattr(watch, "_ask", ask)

    async def many() -> set[ToolCode]:
        codes = (watch.code_of("t", {}, "s", "/") for _ in range(20))
        return set(await asyncio.gather(*codes))

    async def all_of_it() -> None:
        assert len(await many()) == 1 and len(asked) == 1
        (before,) = await many()
        assert len(looks) <= 3 and len(asked) == 1, "and not one for each"
        file.write_text("x = 22\n")
        (after,) = await many()
        assert after != before and len(asked) == 2
        file.write_text("broken\n")
        codes = [watch.code_of("t", {}, "s", "/") for _ in range(3)]
        errors = await asyncio.gather(*codes, return_exceptions=True)
        assert all(isinstance(error, ToolError) for error in errors), "none gets what was"

    asyncio.run(all_of_it())


def test_where_nothing_is_expected_all_is_well() -> None:
    Unchanged("").require()
