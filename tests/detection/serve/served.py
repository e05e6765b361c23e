"""An application on a free port, and what tests send to it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "onnxruntime"):
    pytest.importorskip(package, reason="PACKAGES OF THE EXTRA serve MISSING: the server was not tried")

from detection.serve.application import create_application  # noqa: E402
from detection.serve.connections import Server  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = ROOT / "tests" / "detection" / "export" / "files" / "detector.onnx"


def encoded(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGE = encoded(96, 128)


class Served:
    """An application, served by a thread; a context manager.

    Args:
        seconds: of `Server`.
        settings: of `create_application`.
    """

    def __init__(self, detector: Any, seconds: float = 30.0, **settings: Any) -> None:
        self.server = Server(create_application(detector, **settings), seconds=seconds, log_level="critical")
        self._thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> Served:
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = int(self.server.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
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

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, data: bytes, *, close: bool = False) -> bytes:
        """The answer to raw bytes, up to the connection's end; with `close`, ends it without reading."""
        with self.connect() as connection:
            connection.sendall(data)
            return b"" if close else received(connection)

    def metric(self, name: str) -> float:
        """One of the figures of /metrics; 0 if it is not there."""
        lines = self.ask("/metrics")[1].splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def received(connection: socket.socket) -> bytes:
    """All that arrives until the connection's end."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def form(*files: bytes, more: bytes = b"") -> tuple[bytes, dict[str, str]]:
    head = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="../../etc/passwd"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + more + b"--edge--\r\n", {
        "Content-Type": "multipart/form-data; boundary=edge"
    }


class Slow:
    """A detector that waits until it is let go."""

    def __init__(self, detector: Any) -> None:
        self._detector, self.go = detector, threading.Event()

    def __call__(self, images: Any, **settings: Any) -> Any:
        self.go.wait(20)
        return self._detector(images, **settings)
