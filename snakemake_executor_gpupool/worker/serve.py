"""What a worker process does first: import the tool, describe it, and answer frames.

::

    coordinator → worker                                worker → coordinator
    tool {spec, more, base_dir, spool, shared, early,
          ahead}                                        tool {info, seconds, versions}
                                                        | tool_failed {error}
                                                        imports {names, code}

``more`` names the tools of a chain's later stages: with it :mod:`.chain_server` answers what
follows, else :mod:`.server` does. ``ahead``: there is no job for it yet (:mod:`.ahead`).

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import time
from typing import Callable

from snakemake_executor_gpupool.tool_api.reproducible import mode_here, refuse_unable
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.ahead import SeenAhead
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.describe import tool_info, versions
from snakemake_executor_gpupool.worker.early import Early, Told
from snakemake_executor_gpupool.worker.end_signals import outlast
from snakemake_executor_gpupool.worker.memory import importing
from snakemake_executor_gpupool.worker.observed import OBSERVER
from snakemake_executor_gpupool.worker.output_capture import tell_error
from snakemake_executor_gpupool.worker.printed import Printed
from snakemake_executor_gpupool.worker.server import Server
from snakemake_executor_gpupool.worker.unchanged import Unchanged

_PACKAGE_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def serve(descriptor: int) -> None:
    """Answer frames until the coordinator closes the channel."""
    early = Early.of_this_process()
    if early is not None and early.forks:
        forked = early.fork_workers(descriptor)
        if forked is None:
            return
        descriptor = forked  # this is a worker
    channel = Channel(descriptor)
    first = channel.receive() if early is None else early.await_tool(channel)
    if first is None:
        return
    if first.meta["shared"]:
        outlast(descriptor)
    answer = start(channel, first, early)
    while answer is not None:
        frame = channel.receive()
        if frame is None:
            return
        answer(frame)


def start(
    channel: Channel, frame: Frame, early: Early | None = None
) -> Callable[[Frame], None] | None:
    """Import the tools that the first frame names, and describe the first to the coordinator.

    A process that was started early begins anew where that fails, or the tool is another one now.
    Return what answers the frames that follow; None where a tool cannot be imported.
    """
    if frame.meta["more"]:
        # Before the tool's code runs, which may change what an import finds.
        from snakemake_executor_gpupool.worker.chain_server import ChainServer
    unchanged = Unchanged.of_this_process()
    OBSERVER.is_anywhere = unchanged.is_anywhere
    printed = Printed(is_wanted=bool(unchanged.tool))
    printed.begin()
    OBSERVER.pass_over([*frame.meta["spool"], _PACKAGE_DIRECTORY])
    ahead = SeenAhead() if frame.meta["ahead"] else None
    started_s = time.perf_counter()
    try:
        specs = [frame.meta["spec"], *frame.meta["more"]]
        with importing(), OBSERVER.watching():
            tool_class, *more = [load_tool_class(spec, frame.meta["base_dir"]) for spec in specs]
        if early is not None:
            early.require(tool_class)
            channel.receive()  # the frame that was only looked at
            early = None
        for each in (tool_class, *more) if mode_here().is_reproducible else ():
            refuse_unable(each)
        info = tool_info(tool_class)
        unchanged.require()
    except BaseException as error:  # a tool's module may even call sys.exit
        if early is not None:
            early.begin_anew()
        printed.tell(channel, "import")
        channel.send({"type": "tool_failed", "error": tell_error(error)})
        return None
    figures = {"seconds": time.perf_counter() - started_s, "versions": versions()}
    printed.tell(channel, "import")
    channel.send({"type": "tool", "info": info, **figures})
    told = Told(channel, tool_class, is_wanted=frame.meta["early"] is not None)
    told.tell()
    spool = Spool(frame.meta["spool"], shared=frame.meta["shared"])
    if more:
        return ChainServer(channel, [tool_class, *more], spool, unchanged).handle
    about = frame.meta["base_dir"], unchanged, printed, ahead
    server = Server(channel, tool_class, spool, *about)

    def handle(frame: Frame) -> None:
        server.handle(frame)
        if frame.type == "load":
            told.tell()

    return handle
