"""Signals end the run within seconds, whatever it is doing and whatever else has failed.

Snakemake's own handler for SIGTERM waits for all jobs in flight, and takes a lock that the
interrupted main thread may hold; its Ctrl-C is an exception that a second one interrupts with a
traceback. These handlers wrap Snakemake's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

#: How long children may take to end before they are killed.
CANCEL_GRACE_S = 5.0
#: The process ends itself after so many seconds without progress after a signal.
STUCK_S = 12.0
#: How often progress is checked.
LOOK_S = 0.5
#: A second Ctrl-C within this time counts as the same one.
SAME_S = 1.0


class Signals:
    """Handles SIGTERM and SIGINT for one run.

    Parameters
    ----------
    cancel
        Ends the jobs in flight; called on another thread, with the reason.
    kill
        Kills the processes that have not ended by then.
    progress
        Returns a value that changes while the run is ending.
    """

    def __init__(
        self,
        cancel: Callable[[str], None],
        kill: Callable[[], None],
        progress: Callable[[], object],
    ) -> None:
        self._cancel = cancel
        self._kill = kill
        self._progress = progress
        self._before: dict[int, Any] = {}
        self._is_caught = False
        self._is_ending = False
        self._interrupted_s = -SAME_S
        self._over_s: float | None = None
        self._watchdog: threading.Thread | None = None

    def catch(self) -> None:
        """Install the handlers, once, if this is the main thread."""
        if self._is_caught or threading.current_thread() is not threading.main_thread():
            return
        self._is_caught = True
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.getsignal(number)
        signal.signal(signal.SIGTERM, self._on_term)
        if callable(self._before[signal.SIGINT]):  # else it is ignored, as for a background job
            signal.signal(signal.SIGINT, self._on_interrupt)

    def ending(self) -> None:
        """Note that the run is being cancelled: a further Ctrl-C only hurries it."""
        if self._is_caught and not self._is_ending:
            # The interpreter removes our handler at its end; later signals do not matter.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        self._is_ending = True

    def over(self) -> None:
        """Note that everything the run started has ended; the rest is Snakemake's."""
        self._over_s = time.monotonic()

    # -- handlers, on the main thread ------------------------------------------------------
    def _on_term(self, number: int, frame: Any) -> None:
        self._watch(number)
        # On threads: Snakemake's handler takes locks that this thread may hold.
        _start(lambda: self._call_before(number, None))
        _start(lambda: self._cancel("ended by SIGTERM"))
        self._kill_later()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        now_s = time.monotonic()
        if self._over_s is not None and now_s - self._over_s > STUCK_S:
            self._call_before(number, frame)
        elif self._is_ending:
            _start(self._kill)
        elif now_s - self._interrupted_s >= SAME_S:
            self._interrupted_s = now_s
            self._watch(number)
            self._call_before(number, frame)

    def _call_before(self, number: int, frame: Any) -> None:
        """Call the handler that was installed before ours."""
        before = self._before[number]
        if callable(before):
            before(number, frame)

    # -- the last resort -------------------------------------------------------------------
    def kill_later(self) -> threading.Timer:
        """Start a timer that kills the children that have not ended by then."""
        return self._kill_later()

    def _kill_later(self) -> threading.Timer:
        killer = threading.Timer(CANCEL_GRACE_S, self._kill)
        # A daemon: the threads that wait for the children keep the process alive, this must not.
        killer.daemon = True
        killer.start()
        return killer

    def _watch(self, number: int) -> None:
        if self._watchdog is None:
            self._watchdog = threading.Thread(
                target=self._end_if_stuck, args=(number,), name="gpupool-watchdog", daemon=True
            )
            self._watchdog.start()

    def _end_if_stuck(self, number: int) -> None:
        """End the process when there was no progress for too long."""
        seen: object = None
        since_s = time.monotonic()
        while True:
            time.sleep(LOOK_S)
            now_s = time.monotonic()
            if self._over_s is not None and threading.main_thread().is_alive():
                if now_s - self._over_s > STUCK_S:
                    return  # a program that only used Snakemake, and goes on
                continue
            state = self._look()
            if state != seen:
                seen, since_s = state, now_s
            elif now_s - since_s > STUCK_S:
                break
        with contextlib.suppress(Exception):
            self._kill()
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):
            os.write(
                2, f"gpupool: the run did not end by itself after {name}; it is killed\n".encode()
            )
        os._exit(128 + number)

    def _look(self) -> object:
        try:
            return self._progress()
        except Exception:  # another thread changed the tables meanwhile
            return None


def _start(act: Callable[[], None]) -> None:
    """Run a function on a daemon thread; if it fails, the watchdog ends the run."""

    def guarded() -> None:
        with contextlib.suppress(Exception):
            act()

    threading.Thread(target=guarded, daemon=True).start()
