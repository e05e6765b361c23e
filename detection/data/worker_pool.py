"""Numbers 0 … n − 1 → the value that `make` returns for each, in order, prefetched by worker processes.

All processes end within seconds after a worker dies, fails or exceeds the time limit, after an exception or a signal in
the main process, and after the main process is killed. In torch's DataLoader, a worker that cannot send a batch (shared
memory is full, too many files are open) prints a traceback and continues, and the main process waits for ever.

Only the main process handles signals: a batch system or Ctrl-C signals the whole process group, but the main process
needs its workers to finish the current step. Workers are therefore ended only by SIGKILL; they have no state that could
be lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch

from backbones.common.errors import UserError
from detection.common.out_of_memory import is_out_of_memory
from detection.data import batch_pipe

_NOT_THEIRS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
_FEWER = "Lower runtime.workers or the image size, or give the machine or its container more memory."
_SHOWN = 6  # files that a message lists

# The main process's ends of all pipes to workers. A forked worker inherits those of earlier workers and closes them:
# otherwise the earlier workers would not notice the end of the main process.
_own_ends: weakref.WeakSet[Connection] = weakref.WeakSet()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    next: int  # the number that it sends next


class WorkerPool:
    """Worker w makes the values of w, w + `workers`, w + 2 · `workers` …, at most `ahead` of them in advance.

    Args:
        make: number → value; picklable where processes are spawned.
        count: how many values.
        patience: seconds to wait for one value before an error.
        describe: number → the files that its value is made from, for messages.

    Raises:
        UserError: the processes cannot be started.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        count: int,
        *,
        workers: int,
        ahead: int,
        patience: float,
        describe: Callable[[int], Sequence[str]],
    ) -> None:
        self._count, self._ahead, self._patience, self._describe = count, ahead, patience, describe
        self._workers: list[_Worker] = []
        self._end = multiprocessing.util.Finalize(self, _end, args=(self._workers,), exitpriority=10)
        context = multiprocessing.get_context()
        try:
            for first in range(workers):
                own, theirs = context.Pipe()
                _own_ends.add(own)
                with theirs, _block_signals(context.get_start_method()):
                    process = context.Process(
                        target=_work, args=(make, range(first, count, workers), theirs), daemon=True
                    )
                    process.start()
                self._workers.append(_Worker(process, own, first))
                for _ in range(ahead):
                    self._allow_one(self._workers[-1])
        except OSError as error:
            self.close()
            raise UserError(
                f"process {len(self._workers) + 1} of {workers} that are to load images could not be started: "
                f"{error.strerror or error}. Lower runtime.workers, or raise the limit of open files, processes or "
                "memory (ulimit)."
            ) from error

    def values(self) -> Iterator[Any]:
        """Each value, in order.

        Raises:
            UserError: what `make` raised for a value; a worker has died, or takes too long.
            RuntimeError: any other exception of `make`, with its traceback.
        """
        for number in range(self._count):
            worker = self._workers[number % len(self._workers)]
            value = self._take(worker)
            worker.next = number + len(self._workers)
            self._allow_one(worker)
            if isinstance(value, _Failure):
                raise value.error
            yield value

    def close(self) -> None:
        """Ends the workers at once."""
        self._end()

    def _allow_one(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError):  # it has died (`_take` raises that), or is done
            worker.pipe.send_bytes(b"")

    def _take(self, worker: _Worker) -> Any:
        deadline = time.monotonic() + self._patience
        while True:
            running = self._running()
            left = deadline - time.monotonic()
            # No longer at once than the system's clocks count: a limit may be of months.
            ready = wait([worker.pipe, *(other.process.sentinel for other in running)], min(max(left, 0.0), 3600.0))
            if worker.pipe in ready:
                try:
                    return batch_pipe.receive(worker.pipe)
                except (EOFError, OSError):
                    worker.process.join(1.0)
                    self._running()
                    raise self._lost(worker) from None
            if not ready and left <= 0:
                raise self._overdue(worker)

    def _running(self) -> list[_Worker]:
        """The workers that are still running.

        Raises:
            UserError: one has died.
        """
        running = []
        for worker in self._workers:
            status = worker.process.exitcode  # read once: it may end at any moment
            if status:
                raise self._lost(worker)
            if status is None:
                running.append(worker)
        return running

    def _lost(self, worker: _Worker) -> UserError:
        status = worker.process.exitcode
        name = f"process {worker.process.pid}, one of {len(self._workers)} that load images,"
        if status is not None and status == -getattr(signal, "SIGKILL", 9):
            return UserError(f"{name} was killed (SIGKILL): usually by the system, when memory runs out. {_FEWER}")
        if status is None:
            how = "closed its pipe"
        else:
            how = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        return UserError(
            f"{name} {how} while it loaded {self._files(worker)}. See what it wrote above; if it is one of these files "
            "that a library cannot survive, take it out."
        )

    def _overdue(self, worker: _Worker) -> UserError:
        alive = [other for other in self._workers if other.process.is_alive()]  # the others are done
        return UserError(
            f"no batch came for {self._patience / 60:g} minutes (runtime.timeout_minutes) from process "
            f"{worker.process.pid}, which loads {self._files(worker)}. Of {len(self._workers)} processes that load "
            f"images, {len(alive)} are alive: {', '.join(str(other.process.pid) for other in alive)}. Usually the "
            "disk or the network that the images lie on does not answer."
        )

    def _files(self, worker: _Worker) -> str:
        """The files that a worker may be reading, in words."""
        numbers = range(worker.next, self._count, len(self._workers))[: self._ahead]
        files = list(dict.fromkeys(file for number in numbers for file in self._describe(number)))
        more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        return ("one of " if len(files) > 1 else "") + ", ".join(files[:_SHOWN]) + more


@dataclass
class _Failure:
    """What a worker sends in place of a value."""

    error: Exception


def _end(workers: list[_Worker]) -> None:
    """Kills the workers. Called by the process that started them, also at its exit, before multiprocessing joins."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(2.0)
        worker.pipe.close()


@contextlib.contextmanager
def _block_signals(start_method: str) -> Iterator[None]:
    """A process started within the block receives no signals until it has set its handlers and unblocks them. (A
    process of a fork server inherits the server's mask instead, which may serve others.)"""
    if start_method == "forkserver" or not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_THEIRS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(make: Callable[[int], Any], numbers: range, pipe: Connection) -> None:
    """Runs in a worker: makes and sends the values of `numbers`, each after a request."""
    for number in _NOT_THEIRS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_THEIRS)
    for end in list(_own_ends):
        end.close()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # one thread per worker: the workers run in parallel
    with contextlib.suppress(EOFError, OSError):  # the main process has ended or needs no more
        for number in numbers:
            pipe.recv_bytes()
            batch_pipe.send(pipe, _try_to_make(make, number))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)  # skips the interpreter's shutdown, which could fail


def _try_to_make(make: Callable[[int], Any], number: int) -> Any:
    try:
        return make(number)
    except UserError as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return _Failure(UserError(str(error)))
        return _Failure(error)
    except BaseException as error:
        if is_out_of_memory(error):
            return _Failure(UserError(f"a process that loads images is out of memory: {error}. {_FEWER}"))
        return _Failure(RuntimeError(f"a process that loads images failed:\n{traceback.format_exc()}"))


def _end_with_parent(parent: int) -> None:
    """Ends a worker after its main process has ended for any reason, even while it reads an image."""
    main = multiprocessing.parent_process()
    while os.getppid() == parent and (main is None or main.is_alive()):
        time.sleep(1.0)
    os._exit(1)
