"""A network of this process and its children alone, which can be cut."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
_GET_FLAGS, _SET_FLAGS, _SET_ADDRESS, _UP = 0x8913, 0x8914, 0x8916, 1


class Network:
    """The network that the tests' processes are in.

    Attributes
    ----------
    is_private
        Whether it is theirs alone, so that it can be cut.
    """

    is_private = False

    @contextlib.contextmanager
    def private(self) -> Iterator[None]:
        """Have a network of its own meanwhile, where the kernel allows that: loopback only."""
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.is_private = libc.unshare(_CLONE_NEWNET) == 0
        try:
            if self.is_private:
                _set_loopback(up=True)
                _add_address("127.0.0.2")
            yield
        finally:
            if self.is_private and libc.setns(before, 0) != 0:
                raise OSError(ctypes.get_errno(), "cannot go back to the machine's network")
            self.is_private = False
            os.close(before)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing gets through meanwhile; connections stay, as they do when a cable is pulled."""
        assert self.is_private, "this machine's own network is not ours to cut"
        _set_loopback(up=False)
        try:
            yield
        finally:
            _set_loopback(up=True)


network = Network()


def _set_loopback(*, up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))
        flags = flags | _UP if up else flags & ~_UP
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags))


def _add_address(address: str) -> None:
    """Give loopback a second address: Slurm looks no name up where 127.0.0.1 is the only one."""
    request = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(address))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_ADDRESS, request)


def free_ports(count: int) -> int:
    """Return the first of so many neighbouring ports that nobody listens on."""
    for first in range(16817, 26817, 7):
        with contextlib.ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")
