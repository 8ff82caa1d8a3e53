"""Work from any thread reaches the one thread, in order, and wakes it."""

from __future__ import annotations

import threading

from snakemake_executor_gpupool.hosts.mailbox import Mailbox


def test_what_is_posted_is_taken_in_order_and_wakes_each_time() -> None:
    wakes: list[int] = []
    mailbox: Mailbox[str] = Mailbox(lambda: wakes.append(1))
    for act in ("a", "b", "c"):
        mailbox.post(act)
    assert list(mailbox.take()) == ["a", "b", "c"]
    assert list(mailbox.take()) == []
    assert len(wakes) == 3


def test_what_is_posted_meanwhile_is_taken_too() -> None:
    mailbox: Mailbox[int] = Mailbox(lambda: None)
    mailbox.post(0)
    taken = []
    for act in mailbox.take():
        taken.append(act)
        if act < 3:
            mailbox.post(act + 1)
    assert taken == [0, 1, 2, 3]


def test_the_first_is_waited_for() -> None:
    mailbox: Mailbox[str] = Mailbox(lambda: None)
    thread = threading.Thread(target=mailbox.post, args=("late",))
    thread.start()
    assert list(mailbox.take(timeout_s=20.0)) == ["late"]
    thread.join()
