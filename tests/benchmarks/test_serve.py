"""The load test: with a stand-in nothing is lost, and answers that are wrong or missing are noticed."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serve
from benchmarks.http_load import Outcome, Request, load

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from Linux's /proc")


def test_a_server_with_a_stand_in_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(package, reason="PACKAGES OF THE EXTRA serve MISSING: the load test was not tried")
    output = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["serve", "--stand-in", "--requests", "50", "--output", str(output)])
    assert serve.main() == 0
    result = json.loads(output.read_text(encoding="utf-8"))
    memory, throughput, lost = result["tables"]
    assert memory["rows"][0][0] == "the start"
    assert all(one["mb"] > 20 for one in result["memory"])
    assert sum(int(part.split(": ")[1]) for part in throughput["rows"][0][-1].split(", ")) == 50
    assert {part.split(": ")[0] for part in throughput["rows"][0][-1].split(", ")} == {"200", "400", "413", "422"}
    assert lost["rows"] == [["none of 50", "0"]]


@pytest.fixture
def faulty() -> Iterator[int]:
    """A server that answers 500 to every second request and nothing to every fourth."""
    count = iter(range(100))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            number = next(count)
            self.rfile.read(int(self.headers["Content-Length"]))
            if number % 4 == 3:
                self.close_connection = True
                return
            self.send_response(500 if number % 2 else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_wrong_and_missing_answers_are_counted(faulty: int) -> None:
    outcome = load(faulty, [Request("/detect", b"x")], 1, lambda number: number < 20)
    assert outcome.statuses == {200: 10, 500: 5}
    assert outcome.wrong == {"500 in place of 200": 5, "RemoteDisconnected": 5}
    assert len(outcome.latencies) == 15


def test_answers_that_only_the_server_or_the_clients_have_are_counted() -> None:
    outcome = Outcome(statuses=Counter({200: 5, 422: 1}))
    names = ['detector_requests_total{status="200"}', 'detector_requests_total{status="422"}']
    before = {names[0]: 3.0, "detector_requests_pending": 0.0}
    assert serve.lost_requests(outcome, before, {**before, names[0]: 8.0, names[1]: 1.0}) == {}
    after = {names[0]: 9.0, names[1]: 1.0, "detector_requests_pending": 2.0}
    assert serve.lost_requests(outcome, before, after) == {
        "200: counted by the server, not by clients": 1,
        "pending at the end": 2,
    }


def test_the_slope_is_that_of_the_second_half() -> None:
    grows_at_first = [(float(second), 100.0 + min(second, 10), 0.0) for second in range(40)]
    assert serve.slope(grows_at_first) == pytest.approx(0)
    assert serve.slope(
        [(second, megabytes + second / 36, 0) for second, megabytes, _ in grows_at_first]
    ) == pytest.approx(100)


def test_the_weights_or_the_stand_in_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serve"])
    with pytest.raises(serve.UserError, match="--weights and --images"):
        serve.main()
