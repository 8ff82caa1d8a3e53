"""The worker's end of the socket to the coordinator.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from typing import Any, Callable

from snakemake_executor_gpupool.wire.frames import Blob, Decoder, Frame, encode
from snakemake_executor_gpupool.worker.overlap import Later, ReadAhead

#: Bytes of the longest frame that can be looked at before it is taken.
MAX_PEEK = 1024**2
#: An answer that takes no longer is given at once: another thread would take as long to wake up.
QUICK_S = 0.001


class Channel:
    """The worker's end of the socket to the coordinator."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._held: list[bytes] = []
        self._pid = os.getpid()
        self._sending = threading.Lock()
        self._ahead: ReadAhead | None = None
        self._later: Later | None = None
        #: Whether it took next to no time to give the last answer.
        self._is_quick = False
        #: Of the frame that was received last: what was prepared of it; None: nothing was.
        self.prepared: Any = None

    def overlap(self, prepare: Callable[[Frame], Any]) -> None:
        """From now on receive ahead, and have frames prepared as they come; see :mod:`.overlap`."""
        if self._ahead is None:
            self._later = Later()
            self._ahead = ReadAhead(self._received, prepare)

    def receive(self) -> Frame | None:
        """Return the next frame; None at the end of the stream."""
        self._leave_to_parent()
        if self._ahead is None:
            return self._received()
        self.prepared = None
        frame, self.prepared = self._ahead.get()
        if frame is None:
            self.settle()
        return frame  # type: ignore[no-any-return]

    def waiting(self) -> Frame | None:
        """Return the frame that is received next, if it is there already."""
        if self._ahead is not None:
            return None
        while not self._frames:
            try:
                data = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not data:
                return None
            self._frames.extend(self._decoder.feed(data))
        return self._frames[0]

    def peek(self, patience_s: float) -> Frame | None:
        """Return the first frame that has come, and leave it there: the next one gets it again.

        None: the stream has ended, or nothing came in that many seconds.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while poll.poll(1000 * patience_s):
            data = self._socket.recv(MAX_PEEK, socket.MSG_PEEK)
            if not data:
                return None
            for frame in Decoder().feed(data):
                return frame
            time.sleep(0.001)  # the rest is on its way
        return None

    def later(self, act: Callable[[], None]) -> None:
        """Do something that ends in a message, beside what follows if that was asked for.

        Where nothing is known to follow yet, it is done at once if that is quick.
        """
        self._leave_to_parent()
        if self._later is None or self._ahead is None:
            act()
        elif self._is_quick and self._ahead.is_empty and self._later.is_idle:
            self._answer(act)
        else:
            self._later.put(lambda: self._answer(act))

    def _answer(self, act: Callable[[], None]) -> None:
        started_s = time.perf_counter()
        act()
        self._is_quick = time.perf_counter() - started_s < QUICK_S

    def settle(self) -> None:
        """Wait until everything that was to be done later is done."""
        if self._later is not None:
            self._later.settle()

    def _received(self) -> Frame | None:
        while not self._frames:
            data = self._socket.recv(max(65536, min(self._decoder.wanted_bytes, 1 << 22)))
            if not data:
                return None
            self._frames.extend(self._decoder.feed(data))
        return self._frames.popleft()

    def send(self, meta: dict[str, Any], blobs: list[Blob] | None = None) -> None:
        """Send one frame; blocks until the coordinator takes it."""
        self._leave_to_parent()
        chunks = encode(meta, blobs or ())
        if not self._held and self._ahead is None and self._frames and is_brief(self._frames[0]):
            # Two at once: one for each takes as long, and of many the first ones come late.
            self._held = chunks
            return
        if self._held:
            chunks, self._held = [b"".join(self._held), *chunks], []
        with self._sending:
            for chunk in chunks:
                self._socket.sendall(chunk)

    def _leave_to_parent(self) -> None:
        """End a forked child that has returned from the tool's code, like its parent.

        Both would answer as the same worker, and take each other's frames.
        """
        if os.getpid() != self._pid:
            os._exit(1)


def is_brief(frame: Frame) -> bool:
    """Return whether a frame asks for renames alone."""
    return frame.type == "publish" and frame.meta["order"] is None


def latency_of(frame: Frame) -> float:
    """Return how many seconds a frame's files may take to appear here; 0 on one machine."""
    return float(frame.meta.get("latency_wait_s", 0.0))
