"""What benchmarks.serve loads a server with: its process, clients in threads, and what they and the server report.

It imports neither PyTorch nor a library for HTTP, so that the clients take little of the machine from the server.
"""

from __future__ import annotations

import http.client
import itertools
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from backbones.common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 86400.0  # seconds that a client waits for an answer: other work of the machine may stop the server


@dataclass(frozen=True)
class Request:
    """What a client posts, and the status of the answer that is right."""

    path: str
    body: bytes
    status: int = 200
    content_type: str = "image/jpeg"


@dataclass
class Outcome:
    """What clients got.

    Attributes:
        latencies: seconds of each answer.
        statuses: answers by status.
        wrong: answers of another status than the right one, and requests without an answer, by what came instead.
        seconds: from the first request to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """The seconds within which `percent` of 100 answers came."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


def load(port: int, requests: Sequence[Request], clients: int, goes_on: Callable[[int], bool]) -> Outcome:
    """Clients, each with a connection of its own, that post requests one after the other.

    Args:
        requests: taken in turns.
        goes_on: whether the request of this number, from 0 on, is made.
    """
    outcome, lock, numbers = Outcome(), threading.Lock(), itertools.count()

    def client() -> None:
        own = Outcome()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        while goes_on(number := next(numbers)):
            request = requests[number % len(requests)]
            begin = time.perf_counter()
            try:
                connection.request("POST", request.path, request.body, {"Content-Type": request.content_type})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                own.wrong[type(error).__name__] += 1
                connection.close()
                continue
            own.latencies.append(time.perf_counter() - begin)
            own.statuses[answer.status] += 1
            if answer.status != request.status:
                own.wrong[f"{answer.status} in place of {request.status}"] += 1
        connection.close()
        with lock:
            outcome.latencies += own.latencies
            outcome.statuses += own.statuses
            outcome.wrong += own.wrong

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome.seconds = time.perf_counter() - begin
    return outcome


class ServerProcess:
    """A server in a process of its own, which prints its URL once it listens; a context manager.

    Args:
        arguments: of Python.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r":(\d+)\b", self._process.stdout.readline())
        if found is None:
            raise UserError("the server did not start; its message is above")
        self.port = int(found[1])

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(60)
        if error is None and status not in (0, -signal.SIGTERM):
            raise UserError(f"the server ended with the status {status}")

    def memory(self) -> float:
        """MB that the process holds (Linux)."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6

    def metrics(self) -> dict[str, float]:
        """The figures of /metrics by name and labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def answers_counted(metrics: dict[str, float]) -> Counter[int]:
    """The answers to requests for detections that a server has counted, by status."""
    found = ((re.fullmatch(r'detector_requests_total\{status="(\d+)"\}', name), one) for name, one in metrics.items())
    return Counter({int(match[1]): int(value) for match, value in found if match})
