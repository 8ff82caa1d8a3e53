"""The worker's end of the socket to the coordinator.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Any

from snakemake_executor_gpupool.wire.frames import Blob, Decoder, Frame, encode


class Channel:
    """The worker's end of the socket to the coordinator."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._held: list[bytes] = []
        self._pid = os.getpid()

    def receive(self) -> Frame | None:
        """Return the next frame; None at the end of the stream."""
        self._leave_to_parent()
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
        if self._frames and self._frames[0].type == "publish":
            # Publishing is quick; a frame for each answer would take as long.
            self._held += chunks
            return
        if self._held:
            chunks, self._held = [b"".join(self._held), *chunks], []
        for chunk in chunks:
            self._socket.sendall(chunk)

    def _leave_to_parent(self) -> None:
        """End a forked child that has returned from the tool's code, like its parent.

        Both would answer as the same worker, and take each other's frames.
        """
        if os.getpid() != self._pid:
            os._exit(1)


def latency_of(frame: Frame) -> float:
    """Return how many seconds a frame's files may take to appear here; 0 on one machine."""
    return float(frame.meta.get("latency_wait_s", 0.0))
