"""The number of threads, and work done in several at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from detection.common.threads import available_threads, map_in_threads


def test_the_variable_that_pytorch_obeys_comes_before_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3
    for value in ("", "0", "-1", "all"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert 1 <= available_threads() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_results_come_in_order_and_few_items_are_taken_ahead(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    taken, used = [], set()

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    def squared(number: int) -> int:
        used.add(threading.get_ident())
        time.sleep(0.002 * (number % 3))
        return number**2

    results = map_in_threads(squared, items())
    assert [next(results) for _ in range(10)] == [number**2 for number in range(10)]
    assert len(taken) <= 10 + 2 * int(threads) + 1
    assert list(results) == [number**2 for number in range(10, 40)]
    assert len(used) <= int(threads)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_error_reaches_the_caller(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda number: 1 / number, [1, 2, 0, 3]))
