"""An ordered stream of messages that outlives the connections it runs over. Pure.

Both ends number what they send and keep it until it is acknowledged. After a break each end
says how much it has received, and the rest is sent again: nothing is lost, nothing is delivered
twice, and the order is kept.
"""

from __future__ import annotations

from collections import deque

from snakemake_executor_gpupool.errors import GpupoolError

#: How many bytes are handed to a connection at once.
CHUNK_BYTES = 4 * 1024**2


class LinkBroken(GpupoolError):
    """The two ends disagree about what was sent: the link cannot be resumed."""


class Link:
    """One end.

    Attributes
    ----------
    received
        How many messages have arrived.
    """

    def __init__(self) -> None:
        self.received = 0
        self._sent = 0  # how many were handed to the current connection or an earlier one
        self._acknowledged = 0
        self._kept: deque[bytes] = deque()  # everything from the first unacknowledged one

    def put(self, message: bytes) -> None:
        """Add a message to the queue."""
        self._kept.append(message)

    @property
    def has_unsent(self) -> bool:
        """Whether there are messages for the connection."""
        return self._acknowledged + len(self._kept) > self._sent

    def take_unsent(self) -> list[tuple[int, bytes]]:
        """Return the next messages for the connection, each with its number."""
        taken: list[tuple[int, bytes]] = []
        size_bytes = 0
        while self.has_unsent and size_bytes < CHUNK_BYTES:
            message = self._kept[self._sent - self._acknowledged]
            self._sent += 1
            size_bytes += len(message)
            taken.append((self._sent, message))
        return taken

    def acknowledged(self, number: int) -> None:
        """Note that the other end has all messages up to this one.

        Raises
        ------
        LinkBroken
            It was never sent that many, or had acknowledged more before.
        """
        if not self._acknowledged <= number <= self._sent:
            raise LinkBroken(f"{number} was acknowledged of {self._acknowledged} to {self._sent}")
        while self._acknowledged < number:
            self._kept.popleft()
            self._acknowledged += 1

    def resume(self, number: int) -> None:
        """Continue over a new connection, whose other end has all messages up to this one."""
        self.acknowledged(number)
        self._sent = number

    def accept(self, number: int) -> bool:
        """Return whether a message that arrived is new, and count it as received.

        Raises
        ------
        LinkBroken
            One before it is missing.
        """
        if number <= self.received:
            return False
        if number != self.received + 1:
            raise LinkBroken(f"message {number} came after {self.received}")
        self.received = number
        return True
