"""Shell jobs that go to a node without a Snakemake: which, as what, and what comes back (K4)."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.shell import shell

from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake import node_shell
from snakemake_executor_gpupool.frontends.snakemake.cluster import bring_up
from snakemake_executor_gpupool.frontends.snakemake.node_shell import NotRun, is_plain
from snakemake_executor_gpupool.hosts.cluster.shell_command import OTHER_PLACE_CODE, ShellCommand
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE


def job(**more: Any) -> Any:
    """A job of a rule with ``shell:``, or what ``more`` makes of it; ``rule_``: of its rule."""
    rule = {
        "shellcmd": "true {output}",
        "cache": SimpleNamespace(output=False),
        "params": (),
        "resources": {},
    }
    rule |= {name.removeprefix("rule_"): more.pop(name) for name in list(more) if "rule_" in name}
    flags = ("norun", "template_engine", "pipe", "service", "shadow")
    own: dict[str, Any] = {f"is_{flag}": False for flag in flags}
    own |= {"input": (), "output": ("out",), "log": (), "benchmark": None, "group": None}
    own |= {"is_group": lambda: False, "rule": SimpleNamespace(**rule), "resources": {}}
    return SimpleNamespace(**{**own, **more})


class File(str):
    """A file of Snakemake's."""

    flags: dict[str, Any]
    is_storage = False


def flagged(name: str) -> File:
    file = File("out")
    file.flags = {name: True}
    return file


def stored() -> File:
    file = flagged("storage")
    file.is_storage = True
    return file


TMPDIR = {"tmpdir": SimpleNamespace(raw="system_tmpdir")}


@pytest.mark.parametrize(
    "simple",
    [job(), job(rule_resources=TMPDIR), job(output=(flagged("temp"),)), job(log=("log",))],
)
def test_a_shell_command_needs_no_snakemake_of_its_own(simple: Any) -> None:
    assert is_plain(simple)


@pytest.mark.parametrize(
    "other",
    [
        job(rule_shellcmd=None),
        job(is_shadow=True),
        job(benchmark="b.tsv"),
        job(rule_cache=SimpleNamespace(output=True)),
        job(is_pipe=True),
        job(group="g"),
        job(is_group=lambda: True),
        job(software_env=object()),
        job(output=(flagged("update"),)),
        job(input=(stored(),)),
        job(rule_resources={"tmpdir": SimpleNamespace(raw="os.environ['X']")}),
        job(rule_resources={"tmpdir": SimpleNamespace(raw=lambda wildcards: "/x")}),
    ],
)
def test_what_would_not_be_exact_goes_the_other_way(other: Any) -> None:
    assert not is_plain(other)


def test_a_user_may_want_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node_shell.SWITCH, "always")
    assert not is_plain(job())
    for word in ("", " auto "):
        monkeypatch.setenv(node_shell.SWITCH, word)
        assert is_plain(job())


def test_a_misspelt_wish_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:  # C4
    monkeypatch.setenv(node_shell.SWITCH, "allways")
    with pytest.raises(ConfigError, match="GPUPOOL_NODE_SNAKEMAKE is 'allways': 'always' has"):
        bring_up(None, DeviceSettings(), None)


def test_snakemake_builds_the_command_and_the_node_runs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    ran: list[ShellCommand] = []

    def run(command: ShellCommand) -> int:
        ran.append(command)
        # Another thread's commands stay here.
        other = threading.Thread(target=lambda: shell(f"touch {tmp_path}/here"))
        other.start()
        other.join()
        return 0

    def body() -> None:
        threads, resources = 3, {"tmpdir": "/here"}
        shell("echo {threads}", threads=threads, resources=resources, additional_envvars={"A": "b"})

    known = ShellCommand(environment={"DECLARED": "x"}, files=("in",))
    node_shell.run_elsewhere(run, known, body)
    (command,) = ran
    assert command.text == "set -euo pipefail;  echo 3" and command.executable.endswith("/bash")
    assert command.environment.items() >= {"OMP_NUM_THREADS": "3", "A": "b"}.items()
    assert command.environment["DECLARED"] == "x" and command.files == ("in",)
    assert not {"TMPDIR", "TMP", "PATH"} & set(command.environment), "these are the node's own"
    assert (tmp_path / "here").exists()
    shell(f"touch {tmp_path}/after")
    assert len(ran) == 1 and (tmp_path / "after").exists()


@pytest.mark.parametrize("code", [None, LEFT_CODE, OTHER_PLACE_CODE])
def test_what_was_not_run_is_told_from_what_failed(code: int | None) -> None:
    def body() -> None:
        try:
            shell("true")
        except BaseException as error:
            raise RuntimeError("as Snakemake words it") from error

    with pytest.raises(NotRun) as caught:
        node_shell.run_elsewhere(lambda command: code, ShellCommand(), body)
    assert caught.value.code == code
    with pytest.raises(subprocess.CalledProcessError):
        node_shell.run_elsewhere(lambda command: 3, ShellCommand(), lambda: shell("true"))


def test_a_node_has_its_own_place_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = {"TMPDIR": "/elsewhere", "PYTHONPATH": "/node", "KEPT": "1", "A": "node"}
    command = ShellCommand(environment={"A": "job"}, unset=("PYTHONPATH",), tmpdir="/coordinator")
    seen = command.variables(own)
    place = dict.fromkeys(("TMPDIR", "TMP", "TEMP", "TEMPDIR"), str(tmp_path))
    assert seen == {"KEPT": "1", "A": "job", **place}
    assert ShellCommand().variables(own) == own
    assert command.why_not("/") is None
    named = ShellCommand(tmpdir="/coordinator", names_tmpdir=True)
    assert named.why_not("/") == (OTHER_PLACE_CODE, "")
    assert ShellCommand(tmpdir=str(tmp_path), names_tmpdir=True).why_not("/") is None


def test_files_that_a_node_does_not_see_are_named(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    command = ShellCommand(files=("there", "not there", str(tmp_path)), wait_s=0.0)
    code, why = command.why_not(str(tmp_path)) or (0, "")
    assert code == 1 and str(tmp_path / "not there") in why and "latency-wait" in why


def test_a_command_that_may_name_the_place_says_so() -> None:
    workflow = SimpleNamespace(deployment_settings=SimpleNamespace())
    some = {"resources": {"tmpdir": "/tmp"}}
    cases = {
        "echo {output}": False,
        "echo {resources.tmpdir}": True,
        "echo {resources}": True,
        "echo {resources.mem_mb} {resources.tmpdir_of_mine}": False,
        "echo {resources[tmpdir]}": True,
        "mktemp -p $TMPDIR": False,
    }
    for text, names in cases.items():
        made = job(rule_shellcmd=text, output=("out/deep/x", "y"), **some)
        command = node_shell.command_of(workflow, made, 5.0, {"D": "1"})
        assert command.names_tmpdir is names and command.tmpdir == "/tmp"
        assert command.files == (".", "out/deep") and command.environment == {"D": "1"}
    computed = job(rule_params=(lambda wildcards: 1,), **some)
    assert node_shell.command_of(workflow, computed, 5.0, {}).names_tmpdir
