"""What a tool's code is made of, looked at again for each job.

A process in the client's environment says which files that are (:mod:`worker.code_report`); from
then on a look at these files tells whether it still holds. Workers compare once more, after they
have imported the tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from snakemake_executor_gpupool.errors import GpupoolError, ProtocolError
from snakemake_executor_gpupool.frontends.server.job_requests import WORKER_DIED, Entrance
from snakemake_executor_gpupool.hosts.containers import variables_in
from snakemake_executor_gpupool.hosts.process import CHILD_ENTRY, PACKAGE_DIR, describe_exit
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.requests import DEVICE_ARGUMENTS
from snakemake_executor_gpupool.worker.main import ASKED_FOR_CODE, ASKED_VARIABLE
from snakemake_executor_gpupool.worker.unchanged import (
    CONTENT,
    FILE,
    NAMES,
    PACKAGE,
    PLACE,
    signature,
)

#: How many tools are remembered, each with its environment.
MAX_TOOLS = 200
#: How long a tool may take to import.
LIMIT_S = 900.0
#: After how long the same is tried again when a signal has ended the process.
WAITS_S = (0.1, 0.5, 1.0)
MAX_ANSWER_BYTES = 64 * 1024**2
_KINDS = (FILE, CONTENT, PLACE, NAMES, PACKAGE)


@dataclass(frozen=True)
class ToolCode:
    """What a tool's code is made of.

    Attributes
    ----------
    watched
        Paths, how they are looked at, and what they were like before they were read.
    words
        Texts in the code, any of which may name a file in a working directory.
    """

    watched: tuple[tuple[str, str, str], ...]
    words: tuple[str, ...]
    version: str
    #: It was imported in a container, whose image is known not to change.
    is_contained: bool = False

    @property
    def package(self) -> str:
        """Which gpupool the tool was imported with; empty: nobody said."""
        return next((sign for _, kind, sign in self.watched if kind == PACKAGE), "")

    def holds(self) -> bool:
        """Return whether all is as it was."""
        return all(signature(kind, path) == sign for path, kind, sign in self._visible)

    @functools.cached_property
    def _visible(self) -> tuple[tuple[str, str, str], ...]:
        """What can be looked at from here: of a container, all that is not its image's.

        A file of code that only a container sees may be bound from anywhere: it never counts as
        unchanged, so that it is looked at from inside, each time.
        """
        if not self.is_contained:
            return self.watched
        return tuple(
            (path, kind, sign)
            for path, kind, sign in self.watched
            if kind == FILE or signature(kind, path) == sign
        )


class ToolError(GpupoolError):
    """A tool cannot be imported; ``error`` says why."""

    def __init__(self, error: WorkerError) -> None:
        super().__init__(error.message)
        self.error = error


class CodeWatch:
    """Knows the code of tools; used by one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], ToolCode] = OrderedDict()
        #: When the last look at each began: one counts for all that asked before.
        self._looked_s: dict[tuple[str, str], float] = {}
        #: What is being asked for, one after the other, and how many want to know.
        self._asking: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    async def code_of(
        self,
        spec: str,
        variables: Mapping[str, str],
        software: str,
        cwd: str,
        entrance: Entrance | None = None,
    ) -> ToolCode:
        """Return what a tool's code is made of now.

        Parameters
        ----------
        variables
            The environment to import it in; ``software`` identifies it.
        cwd
            Where to import it.
        entrance
            How to enter its software environment; None: it has none of its own.

        Raises
        ------
        ToolError
            It cannot be imported.
        """
        ident, asked_s = (spec, software), time.monotonic()
        lock, waiting = self._asking.get(ident, (asyncio.Lock(), 0))
        self._asking[ident] = lock, waiting + 1
        try:
            async with lock:
                code, looked_s = self._known.get(ident), self._looked_s.get(ident, 0.0)
                if code is not None and looked_s < asked_s:
                    looked_s = time.monotonic()
                    if not await asyncio.to_thread(code.holds):
                        code = None
                        self._known.pop(ident, None)
                if code is None:
                    looked_s = time.monotonic()
                    code = await self._ask(spec, variables, cwd, entrance)
                # Both once more: others may have displaced it meanwhile.
                self._known[ident], self._looked_s[ident] = code, looked_s
                self._known.move_to_end(ident)
        finally:
            _, waiting = self._asking.pop(ident)
            if waiting > 1:
                self._asking[ident] = lock, waiting - 1
            elif ident not in self._known:
                self._looked_s.pop(ident, None)
        while len(self._known) > MAX_TOOLS:
            oldest, _ = self._known.popitem(last=False)
            self._looked_s.pop(oldest, None)
        return code

    async def _ask(
        self, spec: str, variables: Mapping[str, str], cwd: str, entrance: Entrance | None
    ) -> ToolCode:
        for wait_s in WAITS_S:
            code, out, words = await _asked(spec, variables, cwd, entrance)
            if code == 0 and len(out) <= MAX_ANSWER_BYTES:
                return read_answer(out, is_contained=is_in_container(entrance))
            if code >= 0:
                break
            await asyncio.sleep(wait_s)  # it was killed, perhaps by no fault of the tool's
        message = f"importing it ended its process, {describe_exit(code)}: {words}"
        raise ToolError(WorkerError(message, type=WORKER_DIED))


async def _asked(
    spec: str, variables: Mapping[str, str], cwd: str, entrance: Entrance | None
) -> tuple[int, bytes, str]:
    """Have a process import a tool; return its exit code, its answer and its last words."""
    command = [sys.executable, str(CHILD_ENTRY), ASKED_FOR_CODE, str(PACKAGE_DIR)]
    prefix = ""
    if entrance is not None and entrance.container is not None:
        activation = entrance.activation.replace(DEVICE_ARGUMENTS, "")
        command = ["bash", "--norc", "-c", activation]
        variables = variables_in(variables, {ASKED_VARIABLE: ASKED_FOR_CODE})
    elif entrance is not None:
        command, prefix = [entrance.python, *command[1:]], entrance.environment
        if entrance.activation:
            command = ["bash", "-c", entrance.activation, "bash", *command]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(variables),
        cwd=cwd,
        start_new_session=True,
    )
    question = json.dumps({"spec": spec, "base_dir": cwd, "prefix": prefix}).encode()
    try:
        out, err = await asyncio.wait_for(process.communicate(question), LIMIT_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    return process.returncode or 0, out, err[-2000:].decode(errors="replace").strip()


def is_in_container(entrance: Entrance | None) -> bool:
    """Return whether a tool's processes run in a container."""
    return entrance is not None and entrance.container is not None


def read_answer(data: bytes, *, is_contained: bool = False) -> ToolCode:
    """Return what a process, perhaps one in a container, has said of a tool.

    Raises
    ------
    ToolError
        It said that the tool cannot be imported, or made no sense.
    """
    try:
        answer = json.loads(data)
        if "error" in answer:
            error = WorkerError.from_fields(Fields(answer["error"], "an error"))
            raise ToolError(error)
        watched = tuple((str(p), str(kind), str(sign)) for p, kind, sign in answer["watched"])
        if not all(kind in _KINDS for _, kind, _ in watched):
            raise ValueError("an unknown kind")
        words = tuple(map(str, answer["words"]))
        return ToolCode(watched, words, str(answer["version"]), is_contained)
    except (ValueError, KeyError, TypeError, RecursionError, ProtocolError) as error:
        raise ToolError(WorkerError(f"what it says of its code makes no sense: {error}")) from error
