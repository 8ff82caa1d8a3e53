"""A tool that does what its items say, most of it bad. An item is a word, maybe with a number."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.wire import frames as protocol

ERROR = {"kind": "tool", "type": "ValueError", "message": "forged", "traceback": ""}
#: Frames that a worker at work has no business to send, each well-formed.
FORGED = {
    "unknown": {"type": "dance"},
    "other-batch": {
        "type": "done",
        "batch": 10**9,
        "items": 0,
        "failed": [],
        "errors": [],
        "out_of_memory": [],
        "seconds": 0.0,
        "peak_mib": None,
    },
    "other-job": {"type": "written", "job": 1, "seconds": 0.0},
    "wrong-types": {"type": "done", "batch": "1", "items": {"a": 1}, "seconds": [], "errors": 0},
    "load-failed": {"type": "load_failed", "error": ERROR},
    "seconds": {
        "type": "done",
        "batch": 1,
        "items": 0,
        "failed": [],
        "errors": [],
        "out_of_memory": [],
        "seconds": 1e308,
        "peak_mib": None,
    },
}
#: What a descendant of a worker is called, and for how long it means to stay.
LINGERING = ["sleep", "3601"]


class Unpicklable:
    """Refuses to travel."""

    def __reduce__(self):
        raise TypeError("this result does not travel")


def leave_mark(path):
    """Write down which process unpickles."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return "marked"


class Marking:
    """Runs code wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return leave_mark, (self.path,)


class Wordless(ValueError):
    """Does not say what is wrong."""

    def __str__(self):
        raise RuntimeError("no words")


class Misbehaving(Tool):
    """Echoes innocent items, which are the lines of a file."""

    defaults = {"mark": ""}
    batch_limit_s = 1.5

    def read(self, job):
        yield from Path(job.input[0]).read_text().splitlines()

    def write(self, job, results):
        Path(job.output[0]).write_text("".join(f"{result}\n" for result in results))

    def name(self, item):
        return item

    def cost(self, item):
        return {"cost": 1e308, "no-cost": float("nan")}.get(item, 1.0)

    def batch_tokens(self, device):
        return 16

    def run(self, items):
        if "out-of-memory" in items and len(items) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate more than there is")
        results = [self.one(item) for item in items]
        return results[:-1] if "too-few" in items else results

    def one(self, item):
        act, _, detail = item.partition(":")
        act = getattr(self, "do_" + act.replace("-", "_"), None)
        result = act(*filter(None, [detail])) if act is not None else None
        return f"done {item}" if result is None else result

    def do_raise(self):
        raise ValueError("told to")

    def do_refuse(self):
        raise InputError("x.txt: expected something else")

    def do_exit(self):
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)

    def do_system_exit(self):
        sys.exit("leaving")

    def do_segfault(self):
        ctypes.string_at(0)

    def do_kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_stop(self):
        os.kill(os.getpid(), signal.SIGSTOP)

    def do_sleep(self):
        time.sleep(3600)

    def do_hang(self):
        self.do_ignore_sigterm()
        time.sleep(3600)

    def do_ignore_sigterm(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def do_grandchild(self):
        subprocess.Popen(["sleep", "3600"])
        os._exit(4)

    def do_fork(self):
        """Die, and leave a child that holds the channel."""
        if os.fork() == 0:
            os.execvp(LINGERING[0], LINGERING)
        os._exit(5)

    def do_fork_open(self):
        """The same; the child runs no other program, and so has all of our descriptors."""
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os._exit(5)

    def do_background(self):
        os.system("sleep 3601 &")
        os._exit(6)

    def do_daemon(self):
        """Die, and leave a daemon: a session of its own, nobody's child, the channel open."""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
                    with contextlib.suppress(OSError):
                        os.set_inheritable(descriptor, True)
                os.execvp(LINGERING[0], LINGERING)
            os._exit(0)
        time.sleep(0.2)
        os._exit(7)

    def do_return_twice(self):
        """Come back as a parent and as its child."""
        return "parent or child" if os.fork() else "child"

    def do_surrogate(self):
        raise ValueError("half a letter: \ud800")

    def do_wordless(self):
        raise Wordless

    def do_announce(self):
        """Send the header of a frame of 8 GiB, and some of it."""
        head = protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, 100, 8 << 30, 0)
        self.send([head, *[bytes(1 << 20)] * 64])

    def do_flood(self):
        """Send frames without end."""
        frame = protocol.encode({"type": "dance"})
        self.send(frame * 3_000_000)

    def do_nest(self):
        """Send a frame whose JSON has no bottom."""
        text = b'{"blobs": ' + b"[" * 10_000_000
        head = protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, len(text), 0, 0)
        self.send([head, text])

    def send(self, chunks):
        """Write into the channel, whichever descriptor it is, until it is closed."""
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            with contextlib.suppress(OSError):
                channel = socket.socket(fileno=os.dup(descriptor))
                for chunk in chunks:
                    channel.sendall(chunk)
        time.sleep(0.2)

    def do_print(self):
        for stream in (sys.stdout, sys.stderr):
            stream.write("x" * 3_000_000)
        os.write(1, b"straight to the descriptor\n")

    def do_garbage(self):
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            try:
                os.write(descriptor, b"garbage" * 100)
            except OSError:
                continue

    def do_forge(self, name):
        self.send(protocol.encode(FORGED[name]))

    def do_eat(self):
        """Take memory until there is no more: the limit is near, for everybody's sake."""
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (in_use + (256 << 20), before[1]))
        eaten = []
        try:
            while True:
                eaten.append(bytearray(16 << 20))
        finally:
            eaten.clear()
            resource.setrlimit(resource.RLIMIT_AS, before)

    def do_too_large(self):
        raise RuntimeError("CUDA out of memory. Tried to allocate 90 GiB")

    def do_unpicklable(self):
        return Unpicklable()

    def do_mark(self):
        return Marking(self.params.mark)
