"""The only way into the run loop: closures from any thread, until the loop ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from snakemake_executor_gpupool.errors import PoolEnded
from snakemake_executor_gpupool.hosts.mailbox import Mailbox

Act = Callable[[float], None]
AnswerT = TypeVar("AnswerT")
#: How often a thread that waits for an answer checks whether the loop has ended.
LOOK_S = 0.2


class Inbox:
    """Functions for the run loop's thread to call, posted by any thread.

    Parameters
    ----------
    wake
        Makes the loop look into the inbox; called from any thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._acts: Mailbox[Act] = Mailbox(wake)
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._why_ended = ""
        self._is_over = threading.Event()

    def post(self, act: Act) -> None:
        """Have the loop call ``act`` with the time. Returns at once.

        Raises
        ------
        PoolEnded
            The loop accepts nothing more, or belongs to another process.
        """
        if os.getpid() != self._pid:
            raise PoolEnded(
                f"the pool is of process {self._pid}, from which this one was forked: "
                "open one here, or call it there"
            )
        with self._guard:
            if self._why_ended:
                raise PoolEnded(self._why_ended)
            self._acts.post(act)

    def post_if_open(self, act: Act) -> bool:
        """Do the same, but ignore it once the loop has ended; return whether it is accepted."""
        try:
            self.post(act)
        except PoolEnded:
            return False
        return True

    def ask(self, question: Callable[[], AnswerT]) -> AnswerT:
        """Return ``question()``, called by the loop's thread, or here once that has ended.

        Raises
        ------
        PoolEnded
            The loop belongs to another process.
        """
        answer: Future[AnswerT] = Future()

        def act(now_s: float) -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        is_accepted = self.post_if_open(act)
        while not self._is_over.is_set() and os.getpid() == self._pid:
            try:
                if is_accepted:
                    return answer.result(LOOK_S)
                self._is_over.wait(LOOK_S)
            except TimeoutError:
                continue
        if os.getpid() != self._pid:
            self.post(act)  # says why not
        return question()

    # -- the loop's side -----------------------------------------------------------------
    def take(self) -> Iterator[Act]:
        """Yield the posted functions; called by the loop's thread."""
        return self._acts.take()

    def close(self, why: str) -> None:
        """Accept nothing more; later posts raise :class:`PoolEnded` with ``why``."""
        with self._guard:
            self._why_ended = self._why_ended or why

    def over(self) -> None:
        """Note that the loop's thread has ended: any thread may read its tables."""
        self.close("the pool is closed")
        self._is_over.set()
