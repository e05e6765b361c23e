"""Worker processes that die, fail, hang or are left alone: every run ends within seconds, with the reason."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from backbones.common.errors import UserError
from detection.data import workers as workers_module
from detection.data.worker_pool import WorkerPool
from detection.data.workers import joined_batches
from tests.detection.data.test_loader import children

PARTS = [[(0, 2 * i), (0, 2 * i + 1)] for i in range(12)]


class Samples:
    """(epoch, i) → a tensor of i, or what `act` does for it."""

    def __init__(self, act: Callable[[int], object] = lambda i: None, side: int = 20) -> None:
        self.act, self.side = act, side

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        self.act(key[1])
        return torch.full((3, self.side, self.side), key[1] % 250, dtype=torch.uint8)

    def name(self, key: tuple[int, int]) -> str:
        return f"{key[1]}.jpg"


def at(number: int, action: Callable[[], object]) -> Callable[[int], object]:
    """Does `action` when sample `number` is asked for."""
    return lambda i: action() if i == number else None


def batches(act: Callable[[int], object] = lambda i: None, **options: object) -> Iterator[torch.Tensor]:
    return joined_batches(Samples(act), PARTS, torch.stack, **{"workers": 3, **options})  # type: ignore[arg-type]


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block ends in time (what it waits for takes a minute), and no process that it started outlives it."""
    before = children()
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds
    assert children() <= before


def numbers(stream: Iterator[torch.Tensor]) -> list[int]:
    return [int(value) for batch in stream for value in batch[:, 0, 0, 0]]


@pytest.mark.parametrize("workers", [0, 1, 5, 50])
def test_all_values_in_order(workers: int) -> None:
    with within(20.0):
        assert numbers(batches(workers=workers)) == list(range(24))
    assert list(joined_batches(Samples(), [], torch.stack, workers=workers)) == []


def test_a_killed_worker_is_told_with_its_usual_reason() -> None:
    with (
        within(20.0),
        pytest.raises(UserError, match=r"one of 3 that load images, was killed \(SIGKILL\).*memory.*runtime\.workers"),
    ):
        numbers(batches(at(9, lambda: os.kill(os.getpid(), signal.SIGKILL))))


def test_a_worker_that_is_killed_while_another_s_batch_is_waited_for_is_noticed_at_once() -> None:
    def act(i: int) -> None:
        if i == 0:
            time.sleep(60)
        if i == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with within(20.0), pytest.raises(UserError, match="was killed"):
        numbers(batches(act))


def test_a_worker_that_crashes_names_the_files_that_it_was_at() -> None:
    def crash() -> None:
        faulthandler.disable()  # pytest's, which would tell of it
        os.kill(os.getpid(), signal.SIGSEGV)

    with within(20.0), pytest.raises(UserError, match=r"crashed \(SIGSEGV\) while it loaded one of .*8\.jpg, 9\.jpg"):
        numbers(batches(at(9, crash)))


def test_a_worker_that_ends_by_itself_is_an_error() -> None:
    with within(20.0), pytest.raises(UserError, match="ended with status 3 while it loaded"):
        numbers(batches(at(9, lambda: os._exit(3))))


def test_a_worker_that_hangs_is_told_at_the_limit_with_who_lives() -> None:
    with within(20.0), pytest.raises(UserError) as caught:
        numbers(batches(at(9, lambda: time.sleep(60)), patience=1.2))
    message = str(caught.value)  # the first worker has made its share
    assert "no batch came for 0.02 minutes (runtime.timeout_minutes) from process" in message
    assert "which loads one of 8.jpg, 9.jpg" in message
    assert "Of 3 processes that load images, 2 are alive: " in message


def test_a_limit_may_be_of_months() -> None:
    with within(20.0):
        assert numbers(batches(patience=60 * 100_000.0)) == list(range(24))


def test_a_stopped_worker_too() -> None:
    with within(20.0), pytest.raises(UserError, match="no batch came"):
        numbers(batches(at(9, lambda: os.kill(os.getpid(), signal.SIGSTOP)), patience=1.0))


def test_another_exception_comes_with_its_traceback() -> None:
    def fail() -> None:
        raise KeyError("an error of ours")

    with within(20.0), pytest.raises(RuntimeError, match=r"(?s)Traceback.*in fail.*an error of ours"):
        numbers(batches(at(9, fail)))


def test_a_user_error_comes_as_it_is_even_if_it_does_not_survive_pickling() -> None:
    class Strange(UserError):
        def __init__(self, one: str, other: str) -> None:
            super().__init__(one + other)

    def fail() -> None:
        raise Strange("no ", "use")

    with within(20.0), pytest.raises(UserError, match=r"^no use$"):
        numbers(batches(at(9, fail)))


def test_a_worker_without_memory_says_what_to_lower() -> None:
    with within(20.0), pytest.raises(UserError, match=r"out of memory.*Lower runtime\.workers"):
        numbers(batches(at(9, lambda: torch.empty(1 << 55))))


def test_few_open_files_are_enough_or_told() -> None:
    gc.collect()  # files that it would close later would make room
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # closes what earlier tests left open, which would be more descriptors later
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = [descriptor for descriptor in range(len(taken) + 20) if descriptor not in taken]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (free[19] + 1, limit[1])
    )  # it bounds the numbers, not how many there are
    try:
        with within(20.0), pytest.raises(UserError, match=r"process \d+ of 12 that are to load images could not be"):
            numbers(batches(workers=12))
        large = joined_batches(Samples(side=300), PARTS, torch.stack, workers=5)
        assert numbers(large) == list(range(24))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_leaving_early_ends_them() -> None:
    with within(20.0):
        stream = batches(lambda i: time.sleep(0.01))
        next(stream)
        stream.close()


def test_an_interrupt_within_the_teardown_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = WorkerPool.close

    def close(pool: WorkerPool) -> None:
        inner(pool)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(WorkerPool, "close", close)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            numbers(batches())
    finally:
        signal.signal(signal.SIGINT, before)


# Page-locked memory: what a GPU asks for, by a stand-in


class Pinnable:
    def __init__(self, images: torch.Tensor, pinned: bool = False) -> None:
        self.images, self.pinned = images, pinned

    def pin_memory(self) -> Pinnable:
        return Pinnable(self.images, True)


def pinnable(samples: list[torch.Tensor]) -> Pinnable:
    return Pinnable(torch.stack(samples))


@pytest.fixture
def pinned_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[Pinnable]]:
    monkeypatch.setattr(workers_module.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(workers_module.torch.cuda, "set_device", lambda _: None)
    return lambda act=lambda i: None, **options: joined_batches(
        Samples(act), PARTS, pinnable, workers=3, pin_memory=True, **options
    )


def test_pinned_batches_come_in_order(pinned_batches: Callable[..., Iterator[Pinnable]]) -> None:
    with within(20.0):
        found = list(pinned_batches())
    assert all(batch.pinned for batch in found)
    assert [int(batch.images[0, 0, 0, 0]) for batch in found] == list(range(0, 24, 2))


def test_errors_come_through_the_pinning_thread(pinned_batches: Callable[..., Iterator[Pinnable]]) -> None:
    with within(20.0), pytest.raises(UserError, match="was killed"):
        list(pinned_batches(at(9, lambda: os.kill(os.getpid(), signal.SIGKILL))))
    with within(20.0), pytest.raises(UserError, match="no batch came"):
        list(pinned_batches(at(9, lambda: time.sleep(60)), patience=1.0))


def test_leaving_early_ends_the_pinning_thread(pinned_batches: Callable[..., Iterator[Pinnable]]) -> None:
    with within(20.0):
        stream = pinned_batches()
        next(stream)
        stream.close()


# Whole processes

# For each ending, a process that is forked here and leaves by the interpreter's own way out, as a tool does.
PROGRAM = """
import gc, json, os, signal, sys, time, torch
from detection.data.workers import joined_batches

gc.freeze()  # otherwise each child's collections copy the pages of all that was imported

class Samples:
    def __init__(self, stuck):
        self.stuck = stuck
    def __getitem__(self, key):
        time.sleep(100 if self.stuck and key[1] > 5 else 0.01)
        return torch.zeros(3, 20, 20, dtype=torch.uint8)
    def name(self, key):
        return "a.jpg"

results = {}
for ending, stuck in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 2)
        os.set_inheritable(2, True)
        os.close(writer)
        break
    os.close(writer)
    errors = open(reader).read()  # to its end: until the last process that could write to it has gone
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    took = float(errors.split("begun at ")[1].split()[0])
    results[f"{ending} {stuck}"] = [status, errors, time.monotonic() - took]
else:
    print(json.dumps(results))
    sys.exit()

kept = joined_batches(Samples(stuck), [[(0, i)] for i in range(10**6)], torch.stack, workers=2)
for number, batch in enumerate(kept):
    if number == 4:
        print("begun at", time.monotonic(), file=sys.stderr, flush=True)
        exec(ending)
"""
ENDINGS = {
    "sys.last_value = kept; raise KeyError('ours')": 1,
    "sys.exit(3)": 3,
    "os._exit(4)": 4,
    "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
}
# Each ending while the workers go on, and some while one is stuck in an image.
CASES = [(ending, False) for ending in ENDINGS] + [(ending, True) for ending in list(ENDINGS)[::3]]


@pytest.fixture(scope="module")
def ended(repository: Path) -> dict[str, tuple[int, str, float]]:
    """Ending → exit status, what was written to stderr, seconds until the last process was gone."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(CASES)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str, float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("ending", "stuck"), CASES)
def test_whatever_ends_the_main_process_ends_the_workers(
    ending: str, stuck: bool, ended: dict[str, tuple[int, str, float]]
) -> None:
    status, errors, seconds = ended[f"{ending} {stuck}"]
    assert status == ENDINGS[ending]
    assert seconds < 30.0
    assert errors.count("Traceback") == ("raise" in ending)


def test_a_training_within_a_process_of_multiprocessing_ends_too() -> None:
    """There, atexit's functions are not called."""

    def work() -> None:
        kept.append(batches(lambda i: time.sleep(0.01)))
        next(kept[0])
        raise KeyError("ours")

    kept: list[Iterator[torch.Tensor]] = []
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(10)
    assert process.exitcode == 1


def test_little_shared_memory_is_no_matter(repository: Path) -> None:
    """A container has 64 MB by default, which 16 batches of 8 workers would fill. Here there are 0.6."""
    program = """
import torch
from tests.detection.data.test_worker_pool import PARTS, Samples, numbers
from detection.data.workers import joined_batches
print(numbers(joined_batches(Samples(side=800), PARTS, torch.stack, workers=8)) == list(range(24)))
"""
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=600k tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("NO NAMESPACE: /dev/shm could not be made small here (not root?), so it was not tried")
    command = [*small, sys.executable, "-c", program]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr
