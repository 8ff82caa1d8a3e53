"""A process that was started before the run knew what for: it imports packages, and waits.

::

    GPUPOOL_EARLY   {imports: names of installed packages, code: digest of the tool's code,
                     forks: whether several workers are to have them (:mod:`.fork_server`)}

Its first frame, ``tool``, may come much later or never. The tool's own code is imported only then.
If that code is not what it was when the imports were noted, they may not be what it would import
first: then the process becomes another program, a worker that has just been started, which finds
the frame where it was.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
from contextlib import AbstractContextManager
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.code_digest import code_digest
from snakemake_executor_gpupool.worker.imports import has_neighbour
from snakemake_executor_gpupool.worker.memory import importing
from snakemake_executor_gpupool.worker.observed import OBSERVER

#: Says what to import; it is taken out of the environment at once.
VARIABLE = "GPUPOOL_EARLY"
#: Seconds that it waits for a tool, once it has imported what it was to.
UNUSED_S = 120.0


class Early:
    """What this process has imported before it knew its tool.

    Parameters
    ----------
    text
        What ``GPUPOOL_EARLY`` said.
    """

    def __init__(self, text: str) -> None:
        asked = json.loads(text)
        self._imports: list[str] = asked["imports"]
        self._code: str = asked["code"]
        #: Whether this is to be a server that forks workers.
        self.forks: bool = asked["forks"]
        #: Where the imports have printed to; None: nothing is imported yet.
        self._said: Any = None
        #: What came with them.
        self._imported: set[str] = set()
        #: What an ordinary worker would have been started from.
        self._variables = dict(os.environ)
        self._cwd, self._umask = os.getcwd(), os.umask(0o077)
        os.umask(self._umask)

    @classmethod
    def of_this_process(cls) -> Early | None:
        """Return what is asked of this process; None: it is an ordinary one."""
        text = os.environ.pop(VARIABLE, "")
        return cls(text) if text else None

    def await_tool(self, channel: Channel) -> Frame | None:
        """Import the packages; return the first frame, which stays where it is.

        None: the process is not needed.
        """
        if self._said is None:
            self._import_packages()
        frame = channel.peek(UNUSED_S)
        if frame is not None:
            _become(frame.meta["early"], self._said)
            self._variables.update(frame.meta["early"]["variables"])
        self._said.close()
        return frame

    def fork_workers(self, descriptor: int) -> int | None:
        """Be a server that forks workers; return its channel in each of them. None: the end."""
        from snakemake_executor_gpupool.worker.fork_server import MARK_VARIABLE, ForkServer, Traces

        traces = Traces()
        self._import_packages(traces.watching())
        none = json.dumps({"imports": [], "code": "", "forks": False})
        server = ForkServer(descriptor, self._variables, (VARIABLE, none), self._restore)
        forked = server.serve(can_share=bool(self._code) and traces.are_none())
        self._variables[MARK_VARIABLE] = os.environ.get(MARK_VARIABLE, "")
        return forked

    def _import_packages(self, watching: AbstractContextManager[None] | None = None) -> None:
        OBSERVER.pass_over([PACKAGE_DIR])
        before = set(sys.modules)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it stays until there is a log
        _print_to(self._said.fileno())
        try:
            with importing(), watching or contextlib.nullcontext(), OBSERVER.watching():
                for name in self._imports:
                    __import__(name)
        except BaseException:
            self._code = ""  # it will begin anew, and its tool will say what is wrong
        gc.freeze()  # it stays for good
        self._imported = {name.partition(".")[0] for name in set(sys.modules) - before}

    def require(self, tool_class: type[Tool]) -> None:
        """Begin anew unless the tool's code is what it was when its imports were noted."""
        if code_digest(tool_class) != self._code or has_neighbour(self._imported):
            self.begin_anew()

    def begin_anew(self) -> None:
        """Become a worker that has just been started; the channel and what is in it stay."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._restore()
        command = [sys.executable, *sys.argv]
        os.execve(sys.executable, command, self._variables)  # noqa: S606 - the same program

    def _restore(self) -> None:
        """Be where this process was started."""
        os.chdir(self._cwd)
        os.umask(self._umask)


def _become(place: dict[str, Any], said: Any) -> None:
    """Take a worker's name, variables and log; what was printed so far belongs there."""
    os.environ.update(place["variables"])
    OBSERVER.imports.environment_was_set()
    log = os.open(place["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _print_to(log)
    os.close(log)
    size_bytes = os.fstat(said.fileno()).st_size
    with contextlib.suppress(OSError):  # as for any worker: printing is no reason to fail
        # Where the file is read from is shared with other workers.
        os.write(1, os.pread(said.fileno(), size_bytes, 0))


def _print_to(descriptor: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


class Told:
    """Says to the coordinator what a tool imports, so that a later run can do it early.

    Parameters
    ----------
    is_wanted
        Whether anything is to be said.
    """

    def __init__(self, channel: Channel, tool_class: type[Tool], *, is_wanted: bool) -> None:
        self._channel, self._tool_class, self._is_wanted = channel, tool_class, is_wanted
        self._names: list[str] | None = None

    def tell(self) -> None:
        """Say it, if there is something new."""
        if not self._is_wanted:
            return
        names = OBSERVER.imports.names()
        if names != self._names:
            self._names = names
            message = {"type": "imports", "names": names, "code": code_digest(self._tool_class)}
            self._channel.send(message)
