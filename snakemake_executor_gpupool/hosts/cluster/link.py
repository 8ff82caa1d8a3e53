"""An ordered stream of messages that outlives the connections it runs over. Pure.

Both ends number what they send and keep it until the other end has it. After a break the
ends tell each other how far they got, and what is missing is sent again: nothing is lost,
nothing arrives twice, and the order stays.
"""

from __future__ import annotations

from collections import deque

from snakemake_executor_gpupool.errors import GpupoolError

#: Bytes that are handed to a connection at once.
CHUNK_BYTES = 4 * 1024**2


class LinkBroken(GpupoolError):
    """The ends of a link no longer agree on what was sent: it cannot be taken up again."""


class Link:
    """One end.

    Attributes
    ----------
    received
        How many messages have arrived.
    """

    def __init__(self) -> None:
        self.received = 0
        self._sent = 0  # how many were handed to the present connection, or an earlier one
        self._acknowledged = 0
        self._kept: deque[bytes] = deque()  # from the first that is not acknowledged on

    def put(self, message: bytes) -> None:
        """Add a message to what is to be sent."""
        self._kept.append(message)

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to hand to the connection."""
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
        """The other end has all messages up to this one.

        Raises
        ------
        LinkBroken
            It cannot have.
        """
        if not self._acknowledged <= number <= self._sent:
            raise LinkBroken(f"{number} was acknowledged of {self._acknowledged} to {self._sent}")
        while self._acknowledged < number:
            self._kept.popleft()
            self._acknowledged += 1

    def resume(self, number: int) -> None:
        """Go on over a new connection, whose other end has all messages up to this one."""
        self.acknowledged(number)
        self._sent = number

    def accept(self, number: int) -> bool:
        """Tell whether a message that arrived is news.

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
