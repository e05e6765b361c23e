"""Ctrl-C within a block that is written as a whole."""

from __future__ import annotations

import signal
import threading

import pytest

from detection.common.interrupts import interrupts_held


def test_ctrl_c_is_raised_at_the_end_of_the_block() -> None:
    done = []

    def block() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_ctrl_c_and_in_another_thread_nothing_changes() -> None:
    def block() -> None:
        with interrupts_held():
            done.append(signal.getsignal(signal.SIGINT))

    done: list[object] = []
    block()
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert len(done) == 2
    assert done[1] is signal.default_int_handler
