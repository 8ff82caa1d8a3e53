"""Frames to workers: what is sent is what is read there, neither more nor less."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.wire.frames import Decoder, Frame, encode
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.messages_out import (
    ChainRequest,
    Guessed,
    foresee_job,
    load_model,
    move_model,
    publish_job,
    read_job,
    results_of,
    run_batch,
    run_chains,
    run_step,
    serve_tool,
    with_latency,
    write_job,
)
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

PACKAGE = Path(__file__).resolve().parents[2] / "snakemake_executor_gpupool"
TOOL = ToolRef("tools.py:Embed", "/flow", "python", environment="/env", more=("tools.py:Next",))
LATER = Request(2, "rule b", ToolRef("tools.py:Next", "/flow", "python"), b"job 2", b"p2", "/flow")
REQUEST = Request(
    *(1, "rule a", TOOL, b"job 1", b"p1", "/flow"),
    updates=((0, "/copy"),),
    touched=(1,),
    directories=(2,),
    follow=(LATER,),
)
STORE = StoreAddress("/store", 7)
CHAIN = ChainRequest(
    requests=[REQUEST, LATER],
    keys=["k", "l"],
    items=[b"item", b"result"],
    is_known=[False, True],
    order=[0, 1, 0],
    names=["x", "y", "x"],
    by="w1",
    models=[("/env", "m", "g"), ("", "n", "h")],
    staged="/staged",
)
FRAMES = {
    "tool": serve_tool(TOOL, ["/spool"], is_shared=True, early={"log": "", "variables": {}}),
    "read": read_job(REQUEST, STORE),
    "foresee": foresee_job(REQUEST, "cpu", STORE, reads=True, most=10),
    "write": write_job(REQUEST, [0, 0], ["x", "y"], [b"result"], "computed by w1"),
    "results": results_of(1, ["w"], [b"result"]),
    "publish": publish_job(
        REQUEST, Guessed(["digest", "", "group"], "m"), ["/staged/out"], ["/staged/log"]
    ),
    "load": load_model("cuda:0", "m", [b"p1", b"p2"]),
    "move": move_model("cpu", is_away=True),
    "run": run_batch(3, b"p1", [b"item"], [("", "m", "g", "k")], STORE),
    "chain": run_chains(3, [CHAIN], STORE),
    "step": run_step(3, 1, b"p1", [b"item", b"result"], [1], ["k", "l"], ("", "m", "g"), STORE),
}


def names_read(*files: str) -> set[str]:
    """Names of fields that the worker's modules take out of frames."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse((PACKAGE / "worker" / file).read_text())):
            if isinstance(node, ast.Subscript) and is_meta(node.value):
                place: ast.expr = node.slice
            elif isinstance(node, ast.Call) and is_get(node.func):
                place = node.args[0]
            else:
                continue
            if isinstance(place, ast.Constant):
                found.add(str(place.value))
    return found


def is_get(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "get" and is_meta(node.value)


def is_meta(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name == "meta"


def names_sent() -> set[str]:
    """Names of fields in all frames, those in each request of a chain included."""
    found = {"latency_wait_s"}
    for frame in FRAMES.values():
        chains: Any = frame.meta.get("chains", [])
        found |= {name for each in (frame.meta, *chains) for name in each}
    return found - {"type"}


def test_workers_read_what_they_are_sent_and_nothing_else() -> None:
    read = names_read(
        *(
            "serve.py",
            "channel.py",
            "run_store.py",
            "server.py",
            "writer.py",
            "early_results.py",
            "chain_server.py",
            "chain_step.py",
            "chain.py",
        ),
        "foresee.py",
    )
    assert read - names_sent() == set(), "read, but never sent"
    assert names_sent() - read - {"chains"} <= set(), "sent, but never read"


def test_each_frame_is_of_its_kind_and_travels() -> None:
    for kind, frame in FRAMES.items():
        [arrived] = Decoder().feed(b"".join(encode(*frame)))
        assert arrived.type == frame.type == kind
        assert arrived.blobs == frame.blobs


def test_blobs_come_in_the_order_in_which_they_are_taken() -> None:
    assert FRAMES["read"].blobs == [b"job 1", b"job 2"]
    assert FRAMES["write"].blobs == [b"job 1", b"result"]
    assert FRAMES["load"].blobs == [b"p1", b"p2"]
    assert FRAMES["run"].blobs == [b"p1", b"item"]
    assert FRAMES["chain"].blobs == [b"job 1", b"job 2", b"item", b"result"]
    assert FRAMES["step"].blobs == [b"p1", b"item", b"result"]


def test_only_frames_with_files_wait_for_them() -> None:
    waits = {kind: "latency_wait_s" in with_latency(f.meta, 5.0) for kind, f in FRAMES.items()}
    assert {kind for kind, does in waits.items() if does} == {
        *("read", "write", "publish", "run", "chain", "step")
    }
    assert with_latency(Frame({"type": "run"}, []).meta, 5.0)["latency_wait_s"] == 5.0
