"""The server on a real port, with the runtime's detector: answers, hostile bodies, limits, token, end."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "onnxruntime"):
    pytest.importorskip(package, reason="PACKAGES OF THE EXTRA serve MISSING: the server was not tried")

import uvicorn  # noqa: E402

from detection.export.runtime import Detector  # noqa: E402
from detection.serve.application import create_application  # noqa: E402
from detection.serve.requests import Limits  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = ROOT / "tests" / "detection" / "export" / "files" / "detector.onnx"


def encoded(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGE = encoded(96, 128)


class Served:
    """An application on a free port, served by a thread; a context manager."""

    def __init__(self, detector: Any, **settings: Any) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(create_application(detector, **settings), port=0, log_level="critical")
        )
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Served:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(text) if is_json else text.decode(), response.headers

    def send(self, data: bytes, *, close: bool = False) -> bytes:
        """The first bytes of the answer to raw bytes; with `close`, ends the connection without reading."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            return b"" if close else connection.recv(4096)


def form(*files: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="../../etc/passwd"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--edge--\r\n", {
        "Content-Type": "multipart/form-data; boundary=edge"
    }


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(WEIGHTS, "cpu", threads=1)


@pytest.fixture(scope="module")
def served(detector: Detector) -> Iterator[Served]:
    limits = Limits(body_bytes=1 << 18, pixels=200_000, files=3, body_seconds=0.5)
    with Served(detector, limits=limits) as running:
        yield running


def test_an_image_as_body_or_form_is_answered_as_by_the_detector(served: Served, detector: Detector) -> None:
    expected = detector(Image.open(io.BytesIO(IMAGE)))
    assert len(expected)
    for body, headers in ((IMAGE, {}), form(IMAGE)):
        status, found, _ = served.ask("/detect", body, headers)
        assert status == 200
        assert (found["width"], found["height"]) == (128, 96)
        np.testing.assert_allclose(found["boxes"], expected.boxes, atol=0.01)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
        assert found["labels"] == expected.labels.tolist()
        assert found["names"] == expected.names


def test_a_batch_keeps_its_order_and_names_the_images_that_cannot_be_used(served: Served) -> None:
    status, found, _ = served.ask("/detect/batch", *form(encoded(20, 30), IMAGE[:-50], encoded(40, 50)))
    assert status == 200
    first, cut, last = found["results"]
    assert (first["height"], last["height"]) == (20, 40)
    assert "image 1: the PNG is cut short" in cut["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "no image"),
        (b"words, not pixels", {}, 422, "is no image"),
        (b"https://example.com/street.jpg", {}, 422, "is no image"),
        (b"/etc/passwd", {"Content-Type": "text/plain"}, 422, "is no image"),
        (b'{"url": "file:///etc/passwd"}', {"Content-Type": "application/json"}, 422, "is no image"),
        (IMAGE[:-40], {}, 422, "cut short"),
        (encoded(1, 200_001)[:200], {}, 422, "more than the 200000 accepted"),
        (bytes(1 << 19), {}, 413, "larger than the 262144 bytes"),
        (b"no form", {"Content-Type": "multipart/form-data; boundary=edge"}, 400, ""),
        (b"no form", {"Content-Type": "multipart/form-data"}, 400, ""),
        (*form(IMAGE, IMAGE), 413, "more than the 1 image"),
        (*form(), 400, "no image"),
    ],
)
def test_hostile_bodies_are_answered_in_words(
    served: Served, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    got, answer, _ = served.ask("/detect", body, headers)
    assert (got, words in answer["detail"]) == (status, True), answer
    assert served.ask("/health")[0] == 200


def test_bodies_that_are_not_of_the_stated_length(served: Served) -> None:
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    assert b" 408 " in served.send(head % 1000 + IMAGE[:500])  # the rest never comes
    served.send(head % len(IMAGE) + IMAGE[: len(IMAGE) // 2], close=True)  # half a body
    assert b" 413 " in served.send(head % (1 << 40))
    chunks = b"POST /detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n" + bytes(1 << 19)
    assert b" 413 " in served.send(chunks)
    assert b" 400 " in served.send(b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert served.ask("/detect", IMAGE)[0] == 200
    assert "detector_requests_pending 0.0" in served.ask("/metrics")[1]


class Slow:
    """A detector that waits until it is let go."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self.go = detector, threading.Event()

    def __call__(self, images: Any, **settings: Any) -> Any:
        self.go.wait(20)
        return self._detector(images, **settings)


def test_too_many_requests_get_429_and_the_accepted_ones_are_answered_at_the_end(detector: Detector) -> None:
    slow = Slow(detector)
    answers: list[int] = []
    with Served(slow, limits=Limits(requests=2)) as running:
        callers = [threading.Thread(target=lambda: answers.append(running.ask("/detect", IMAGE)[0])) for _ in range(2)]
        for caller in callers:
            caller.start()
        while "detector_requests_pending 2.0" not in running.ask("/metrics")[1]:
            time.sleep(0.01)
        status, answer, headers = running.ask("/detect", IMAGE)
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "2 requests wait already" in answer["detail"]
        threading.Timer(0.2, slow.go.set).start()  # after the server was told to end
    for caller in callers:
        caller.join()
    assert answers == [200, 200]


def test_an_answer_that_takes_too_long(detector: Detector) -> None:
    slow = Slow(detector)
    with Served(slow, limits=Limits(answer_seconds=0.1)) as running:
        status, _, headers = running.ask("/detect", IMAGE)
        assert (status, headers["Retry-After"]) == (503, "5")
        slow.go.set()
        assert "detector_requests_pending 0.0" in running.ask("/metrics")[1]


def test_the_token_is_needed_for_detections_and_metrics(detector: Detector) -> None:
    with Served(detector, token="sésame") as running:
        for given in (None, "Bearer wrong", "Basic sésame"):
            headers = {} if given is None else {"Authorization": given.encode().decode("latin-1")}
            status, _, answered = running.ask("/detect", IMAGE, headers)
            assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
            assert running.ask("/metrics", None, headers)[0] == 401
        right = {"Authorization": "Bearer sésame".encode().decode("latin-1")}
        assert running.ask("/detect", IMAGE, right)[0] == 200
        assert running.ask("/health")[0] == 200


def test_the_interface_is_described(served: Served) -> None:
    paths = served.ask("/openapi.json")[1]["paths"]
    assert set(paths) == {"/detect", "/detect/batch", "/health", "/metrics"}
    assert "image/*" in paths["/detect"]["post"]["requestBody"]["content"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_the_tool_serves_an_exported_file_without_torch_and_ends_by_a_signal(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "tools/serve.py", "--weights", str(WEIGHTS), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    try:
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/detect", IMAGE, timeout=20) as answer:
                    assert json.load(answer)["width"] == 128
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
