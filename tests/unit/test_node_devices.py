"""What commands see on a cluster's node: what they were leased there, or nothing (S7, D3)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.devices.device_spec import gpus
from snakemake_executor_gpupool.devices.lent_locks import LentLocks, lent_by
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.frontends.snakemake.bundles import MEMBERS_VARIABLE, Bundle
from snakemake_executor_gpupool.frontends.snakemake.cluster import RunningCluster
from snakemake_executor_gpupool.frontends.snakemake.local_jobs import (
    LaneJob,
    TimeLimitReached,
    check_exit,
)
from snakemake_executor_gpupool.frontends.snakemake.needs import Needs
from snakemake_executor_gpupool.hosts.cluster.processes import NodeProcesses
from snakemake_executor_gpupool.hosts.time_limit import LIMIT_CODE

CARDS = [card.on("n1") for card in simulated_devices({"GPUPOOL_SIMULATE": "3x16GiB"})]
TOKEN = "0123456789abcdef"
SEES = "echo $CUDA_VISIBLE_DEVICES/$HIP_VISIBLE_DEVICES/$GPUPOOL_LEASE"


class StubCommands:
    """Notes what is run where."""

    def __init__(self) -> None:
        self.ran: list[tuple[dict[str, str], str, int]] = []

    def run(
        self,
        command: str,
        environment: dict[str, str],
        node: str = "",
        threads: int = 0,
        limit_s: float | None = None,
    ) -> int:
        self.ran.append((environment, node, threads))
        return 0


@pytest.mark.parametrize("cpu_rules", [True, False])
@pytest.mark.parametrize("is_local", [True, False])
def test_a_command_without_devices_sees_none(cpu_rules: bool, is_local: bool) -> None:
    commands = StubCommands()
    host = SimpleNamespace(commands=commands)
    cluster = RunningCluster(SimpleNamespace(paths=None, host=host), cpu_rules)
    rule = SimpleNamespace(shellcmd=None)
    plain = SimpleNamespace(is_local=is_local, is_group=lambda: False, rule=rule)
    job = LaneJob(plain, 3, lambda failure: None)
    cluster.place(job, "")
    if is_local or not cpu_rules:
        assert job.elsewhere is None
        return
    assert job.elsewhere is not None and job.elsewhere("true") == 0
    assert commands.ran == [(visible_env(()), "", 3)]


def test_a_command_with_devices_sees_those() -> None:
    commands = StubCommands()
    host = SimpleNamespace(commands=commands)
    cluster = RunningCluster(SimpleNamespace(paths=None, host=host), True)
    leased = visible_env(CARDS[:1])
    job = LaneJob(SimpleNamespace(is_local=False), 1, lambda failure: None, leased)
    cluster.place(job, "n1")
    assert job.elsewhere is not None and job.elsewhere("true") == 0
    assert commands.ran == [(leased, "n1", 0)]


def test_a_nodes_own_environment_does_not_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    processes = NodeProcesses(lambda group, mark: None, lambda group: None)
    log = tmp_path / "log"
    assert processes.run(SEES, str(tmp_path), visible_env(()), str(log)) == 0
    assert processes.run(SEES, str(tmp_path), visible_env(CARDS[1:2]), str(log)) == 0
    assert log.read_text().splitlines() == ["/-1/", "1/-1/"]


def test_a_node_ends_a_command_that_takes_too_long(tmp_path: Path) -> None:  # K3
    processes = NodeProcesses(lambda group, mark: None, lambda group: None)
    log, body = tmp_path / "log", "bash -c \"trap 'echo ended; exit 4' TERM; sleep 600\"; exit $?"
    code = processes.run(body, str(tmp_path), visible_env(CARDS[:1]), str(log), 0.2)
    assert code == LIMIT_CODE and "ended" in log.read_text()
    with pytest.raises(TimeLimitReached, match="runtime=2 "):
        check_exit(code, limit_s=120)
    assert processes.run("exit 3", str(tmp_path), visible_env(()), str(log), 600.0) == 3


def test_a_node_lends_its_lock_for_as_long_as_the_command_runs(tmp_path: Path) -> None:
    env = {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks")}
    agent = DeviceOwnership(env)
    assert agent.take(CARDS) is None
    lease = str(lent_by(TOKEN, CARDS[:1]))
    inside: list[list[bool]] = []

    def lend(holder: str, text: str) -> None:
        agent.lend_named(holder, LentLocks.parse(text))
        locks = DeviceLocks(env | {"GPUPOOL_LEASE": lease})
        inside.append([locks.try_acquire(card) for card in CARDS])
        locks.close()

    processes = NodeProcesses(lambda group, mark: None, lambda group: None, lend, agent.take_back)
    environment = {**visible_env(CARDS[:1]), "GPUPOOL_LEASE": lease}
    assert processes.run("true", str(tmp_path), environment, str(tmp_path / "log")) == 0
    assert inside == [[True, False, False]]
    late = DeviceLocks(env | {"GPUPOOL_LEASE": lease})
    assert not late.try_acquire(CARDS[0])
    late.close()
    agent.close()


def test_joined_jobs_on_a_node_each_have_their_part_of_the_lease() -> None:
    def job(name: str) -> Any:
        return SimpleNamespace(rule=SimpleNamespace(name=name), wildcards_dict={"x": "1"})

    needs = (Needs(gpus(1)), Needs(), Needs(gpus(2)))
    bundle = Bundle((job("a"), job("b"), job("c")), needs, Needs(gpus(3)))
    leased = {**visible_env(CARDS), "GPUPOOL_LEASE": str(lent_by(TOKEN, CARDS))}
    environment = bundle.environment(CARDS, leased)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["GPUPOOL_LEASE"] == leased["GPUPOOL_LEASE"]  # for the node to lend
    members = json.loads(environment[MEMBERS_VARIABLE])
    seen = [(m["rule"], m["environment"]["CUDA_VISIBLE_DEVICES"]) for m in members]
    assert seen == [("a", "0"), ("b", ""), ("c", "1,2")]
    leases = [m["environment"]["GPUPOOL_LEASE"] for m in members]
    files = [f"SIM-{n}_n1.lock" for n in range(3)]
    assert leases == [f"{TOKEN}:{files[0]}", "", f"{TOKEN}:{files[1]},{files[2]}"]
