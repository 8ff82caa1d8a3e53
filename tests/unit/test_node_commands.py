"""Jobs on nodes that the pool does not serve: where they go, what comes back (K4, S10, W4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.hosts.cluster.commands import (
    MAX_OVERTAKES,
    NodeCommands,
)
from snakemake_executor_gpupool.hosts.cluster.messages import CommandDone, RunCommand, unpack
from snakemake_executor_gpupool.hosts.cluster.processes import SharedCores
from snakemake_executor_gpupool.hosts.cluster.session import Session
from snakemake_executor_gpupool.hosts.cluster.shell_command import (
    FAILED_CODE,
    OTHER_PLACE_CODE,
    ShellCommand,
)
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE
from tests.waiting import PATIENCE_S, eventually


class Told:
    """A node that only notes what it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[RunCommand] = []

    def tell(self, command: Any) -> None:
        self.told.append(command)

    def texts(self) -> list[str]:
        return [command.shell.text for command in self.told]


class Running:
    """Commands that wait for their ends, each on a thread."""

    def __init__(self, logs: Path) -> None:
        self.commands = NodeCommands(logs)
        self.codes: dict[str, int | None] = {}
        self._threads: list[threading.Thread] = []

    def run(self, text: str, **where: Any) -> None:
        """Start one, and wait until it waits."""
        before = self.commands.pending

        def body() -> None:
            self.codes[text] = self.commands.run(text, {}, **where)

        thread = threading.Thread(target=body)
        self._threads.append(thread)
        thread.start()
        assert eventually(lambda: self.commands.pending > before or text in self.codes)

    def join(self, *nodes: tuple[Any, int]) -> None:
        for node, cores in nodes:
            self.commands.joined(node, cores)

    def end(self, node: Told, text: str, code: int = 0, **more: Any) -> None:
        """Have a command end, and wait until that is known."""
        number = next(each.number for each in node.told if each.shell.text == text)
        self.commands.done(CommandDone(number, code, **more))
        assert eventually(lambda: text in self.codes)

    def close(self) -> None:
        self.commands.cancel()
        for thread in self._threads:
            thread.join(PATIENCE_S)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "logs")
    yield made
    made.close()


def test_commands_go_where_cores_are_free_and_follow_in_order(running: Running) -> None:
    one, two = Told("n1"), Told("n2")
    running.run("early", threads=1)
    running.join((one, 2), (two, 1))
    assert one.texts() == ["early"]
    for text in ("a", "b", "c", "d"):
        running.run(text, threads=1)
    assert one.texts() == ["early", "a"] and two.texts() == ["b"]
    assert running.commands.pending == 5
    running.end(two, "b", 3)
    assert running.codes == {"b": 3} and two.texts() == ["b", "c"]
    running.end(one, "early")
    assert one.texts() == ["early", "a", "d"]


def test_one_that_wants_more_than_any_node_has_gets_a_whole_one(running: Running) -> None:
    small, large = Told("n1"), Told("n2")
    running.join((small, 1), (large, 4))
    running.run("narrow", threads=4)
    running.run("wide", threads=64)
    assert small.texts() == [] and large.texts() == ["narrow"]
    running.end(large, "narrow")
    assert [each.threads for each in large.told] == [4, 4]
    running.end(large, "wide")
    running.run("again", threads=4)
    assert large.texts() == ["narrow", "wide", "again"]


def test_a_wide_one_is_not_overtaken_for_ever(running: Running) -> None:
    node = Told("n1")
    running.join((node, 2))
    running.run("first", threads=1)
    running.run("wide", threads=2)
    for number in range(MAX_OVERTAKES + 5):
        running.run(f"{number}", threads=1)
        text = node.texts()[-1]
        if text == "wide":
            break
        if text != "first":
            running.end(node, text)
    assert len(node.told) == 1 + MAX_OVERTAKES
    running.end(node, "first")
    assert node.texts()[-1] == "wide"


def test_a_node_that_leaves_gets_nothing_new_and_one_that_is_lost_gives_back(
    running: Running,
) -> None:
    one, two = Told("n1"), Told("n2")
    running.join((one, 4))
    running.run("on one", threads=1)
    running.run("with devices", node="n1")
    running.commands.leaving("n1")
    running.run("later", threads=1)
    assert one.texts() == ["on one", "with devices"]
    assert running.commands.are_on("n1") and not running.commands.are_on("n2")
    running.join((two, 1))
    assert two.texts() == ["later"]
    running.commands.gone("n1")
    assert eventually(lambda: len(running.codes) == 2)
    assert running.codes == {"on one": None, "with devices": None}
    running.commands.done(CommandDone(1, 0))  # it was on its way when its node was lost
    running.run("gone", node="n1")
    assert running.codes["gone"] is None and running.commands.pending == 1


def test_where_no_node_is_left_and_none_will_come_commands_fail(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Told("n1")
    running.join((node, 1))
    running.run("last", threads=1)
    running.run("waits", threads=1)
    running.commands.no_more_nodes("no pilot can be submitted")
    assert running.commands.pending == 2, "a node is there"
    running.commands.gone("n1")
    running.run("late", threads=1)
    assert eventually(lambda: len(running.codes) == 3)
    assert running.codes == {"last": None, "waits": FAILED_CODE, "late": FAILED_CODE}
    assert "cannot be started: no pilot can be submitted" in capsys.readouterr().err


def test_a_node_that_joins_after_all_gives_hope(running: Running) -> None:
    running.commands.no_more_nodes("no pilot can be submitted")
    running.join((Told("n1"), 1))
    running.commands.gone("n1")
    running.run("hopes", threads=1)
    assert running.commands.pending == 1


def test_commands_go_to_the_node_with_most_free_cores(running: Running) -> None:
    small, large = Told("n1"), Told("n2")
    running.join((small, 1), (large, 3))
    for text in ("a", "b"):
        running.run(text, threads=1)
    assert (small.texts(), large.texts()) == ([], ["a", "b"])
    assert running.commands.are_on("n2") and not running.commands.are_on("n1")


def test_what_a_command_printed_is_printed_once(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Told("n1")
    running.join((node, 4))
    for text in ("short", "long", "left", "other"):
        running.run(text, threads=1)
    log = Path(node.told[1].log)
    log.write_bytes(b"in a file \xff\n")
    running.end(node, "short", 1, said="in a message\n")
    running.end(node, "long", has_log=True)
    running.end(node, "left", LEFT_CODE, said="half")
    running.end(node, "other", OTHER_PLACE_CODE, said="nothing")
    assert capsys.readouterr().err == "in a message\nin a file \ufffd\n"
    assert running.codes == {"short": 1, "long": 0, "left": LEFT_CODE, "other": OTHER_PLACE_CODE}
    assert not log.exists()


def test_an_exit_code_counts_whatever_became_of_the_log(running: Running) -> None:
    node = Told("n1")
    running.join((node, 1))
    running.run("unseen", threads=1)
    running.end(node, "unseen", has_log=True)  # another node's file is not there yet
    assert running.codes == {"unseen": 0}


def test_at_the_end_nobody_waits_and_nothing_is_sent(running: Running) -> None:
    node = Told("n1")
    running.join((node, 1))
    running.run("runs", threads=1)
    running.run("waits", threads=1)
    running.commands.cancel()
    assert eventually(lambda: len(running.codes) == 2)
    running.run("late", threads=1)
    assert running.codes == {"runs": None, "waits": None, "late": None}
    assert node.texts() == ["runs"] and running.commands.pending == 0


# -- on a node ----------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., CommandDone]]:
    """Runs a command in an agent's session, and returns what that says of its end."""
    loop: Any = SimpleNamespace()
    session = Session("s", loop, 2)
    said: list[Any] = []
    session.endpoint.post = lambda data: said.append(unpack(data))  # type: ignore[method-assign]

    def run(text: str, **shell: Any) -> CommandDone:
        command = ShellCommand(text, **shell)
        log = str(tmp_path / "log")
        session._obey(RunCommand(7, command, str(tmp_path), {"A": "b"}, log, threads=1))
        assert eventually(lambda: bool(said), PATIENCE_S)
        done: CommandDone = said.pop()
        assert not said and done.number == 7
        return done

    yield run
    session.close()


def test_an_agent_runs_a_command_and_says_what_it_printed(
    node: Callable[..., CommandDone], tmp_path: Path
) -> None:
    assert node("echo $A; pwd >&2; exit 3") == CommandDone(7, 3, f"b\n{tmp_path}\n")
    assert node("true") == CommandDone(7, 0)
    assert not (tmp_path / "log").exists()
    assert node("head -c 20000 /dev/zero") == CommandDone(7, 0, has_log=True)
    assert (tmp_path / "log").stat().st_size == 20000
    assert node(f"rm {tmp_path}/log; exit 4").code == 4, "whatever became of the log"


def test_a_command_that_cannot_be_started_fails_with_the_reason(
    node: Callable[..., CommandDone], tmp_path: Path
) -> None:
    done = node("true", executable="/not/there")
    assert done.code == FAILED_CODE and "/not/there" in done.said
    done = node("touch x", files=("missing",))
    assert done.code == 1 and str(tmp_path / "missing") in done.said
    assert not (tmp_path / "x").exists()
    assert node("true", tmpdir="/other", names_tmpdir=True).code == OTHER_PLACE_CODE


def test_two_runs_share_the_cores_of_an_agent() -> None:
    cores, order = SharedCores(), []
    cores.take(2, 2, lambda: False)
    thread = threading.Thread(
        target=lambda: (cores.take(1, 2, lambda: False), order.append("second"))
    )
    thread.start()
    order.append("first")
    cores.give_back(2)
    thread.join(PATIENCE_S)
    cores.take(5, 2, lambda: True)  # all is over: nobody waits
    assert order == ["first", "second"]


def test_a_command_that_is_wider_than_its_agent_runs_alone() -> None:
    SharedCores().take(5, 2, lambda: pytest.fail("nothing else runs"))
