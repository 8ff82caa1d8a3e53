"""A tool that does what its items say, most of it bad. An item is a word, maybe with a number."""

import ctypes
import os
import signal
import subprocess
import sys
import time

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.tool import InputError


class Unpicklable:
    """Refuses to travel."""

    def __reduce__(self):
        raise TypeError("this result does not travel")


class Misbehaving(Tool):
    """Echoes innocent items."""

    reload_on = ()
    batch_limit_s = 2.0

    def name(self, item):
        return item

    def batch_tokens(self, device):
        return 16

    def run(self, items):
        if "out-of-memory" in items and len(items) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate more than there is")
        results = [self.one(item) for item in items]
        return results[:-1] if "too-few" in items else results

    def one(self, item):
        act = getattr(self, "do_" + item.partition(":")[0].replace("-", "_"), None)
        result = act() if act is not None else None
        return f"done {item}" if result is None else result

    def do_raise(self):
        raise ValueError("told to")

    def do_refuse(self):
        raise InputError("x.txt: expected something else")

    def do_exit(self):
        os._exit(3)

    def do_system_exit(self):
        sys.exit("leaving")

    def do_segfault(self):
        ctypes.string_at(0)

    def do_kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def do_stop(self):
        os.kill(os.getpid(), signal.SIGSTOP)

    def do_hang(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)

    def do_grandchild(self):
        subprocess.Popen(["sleep", "3600"])
        os._exit(4)

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

    def do_unpicklable(self):
        return Unpicklable()
