"""What the tools of a chain get to write, results of their own at each place, and their logs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES
from snakemake_executor_gpupool.wire.payload import load_bytes, pack
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.chain import Chain, Packed
from snakemake_executor_gpupool.worker.chain_server import ChainServer
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.staging import View, digest


@pytest.mark.parametrize("size", [3, SPOOL_BYTES])
@pytest.mark.parametrize("made_now", [True, False])
def test_a_tool_may_change_what_it_writes(size: int, made_now: bool) -> None:
    values: dict[str, Any] = {"k0": np.arange(size, dtype=np.float32), "k1": {"a": [np.ones(size)]}}
    found = {k: Packed(pack(v), v if made_now else None) for k, v in values.items()}
    meta = {"keys": list(values), "order": [1, 0, 1, 0], "names": ["b", "a", "b", "a"]}
    chains = [Chain(meta, [Job()], []) for _ in range(2)]
    for chain in chains:
        ChainServer._take_results(chain, found)
        for result in chain.results:
            array = result["a"][0] if isinstance(result, dict) else result
            assert np.array_equal(array, np.ones(size) if array.dtype == float else np.arange(size))
            array[:] = -1
            if isinstance(result, dict):
                result["a"].append("mine")
    sent = [load_bytes(b"".join(parts)) for parts in chains[0].parts]
    assert np.array_equal(sent[0], np.arange(size)) and len(sent[1]["a"]) == 1


class Fails(Tool):
    def load(self, device: str) -> None: ...

    def read(self, job: Job) -> list[str]:
        return []

    def run(self, items: list[str]) -> list[str]:
        return items

    def write(self, job: Job, results: list[str]) -> None:
        print("writing")
        raise ValueError("no")


def test_what_fails_in_a_chain_is_in_its_jobs_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S4 M5
    monkeypatch.chdir(tmp_path)
    ours, theirs = socket.socketpair()
    server = ChainServer(Channel(theirs.detach()), [Fails, Fails], Spool(str(tmp_path)))
    meta: dict[str, Any] = {"keys": ["k"], "order": [0], "names": ["n"], "cwd": str(tmp_path)}
    meta |= {"updates": [], "touched": [[], []], "by": "w", "staged": ""}
    chain = Chain(meta, [Job(output=Named(["out"]), log=Named(["log"])), Job()], [])
    Path("log").write_text("reading\n")
    with pytest.raises(ValueError, match="no"):
        server._write_stage(chain)
    # It is written once more, job by job, and tells of it then.
    assert Path("log").read_text() == "reading\n"
    ours.close()
    server._channel._socket.close()


def test_what_the_first_job_has_written_is_not_read_again_to_know_what_it_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # M5
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(name).write_text(name)
    Path("d").mkdir()
    chain = Chain(
        {"keys": [], "order": [], "names": []},
        [Job(output=Named(["a", "b", "d"])), Job(input=Named(["a", "b", "c", "d"]))],
        [],
    )
    chain.note_first(["1:of a", "", "dir:0:of d"])
    chain.view, chain.stage = View(str(tmp_path / "view"), str(tmp_path)), 1
    chain.take_digests("group")
    told = ["1:of a", digest("b"), digest("c"), digest("d")]
    assert chain.digests[:4] == told and chain.hashes == ["1:of a", "", "dir:0:of d"]
