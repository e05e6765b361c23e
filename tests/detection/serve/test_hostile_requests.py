"""What clients send by mistake or on purpose → an answer in words, and a server that goes on."""

from __future__ import annotations

import gzip
import http.server
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.detection.serve.served import IMAGE, WEIGHTS, Served, Slow, encoded, form, received  # isort: skip

from detection.detector_interface import ImageDetections
from detection.export.runtime import Detector
from detection.serve.requests import Limits

SECONDS = 0.5  # for heads and bodies to arrive


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(WEIGHTS, "cpu", threads=1)


@pytest.fixture(scope="module")
def served(detector: Detector) -> Iterator[Served]:
    limits = Limits(body_bytes=1 << 18, pixels=200_000, files=3, body_seconds=SECONDS)
    with Served(detector, SECONDS, limits=limits) as running:
        yield running
        assert running.metric("detector_requests_pending") == 0
        assert running.metric('detector_requests_total{status="500"}') == 0
        assert running.ask("/detect", IMAGE)[0] == 200


def bomb() -> bytes:
    """A PNG of 2 kB and 1,000,000 pixels."""
    file = io.BytesIO()
    Image.new("1", (1000, 1000)).save(file, "PNG")
    return file.getvalue()


def text_bomb() -> bytes:
    """A small PNG with a text of 20 MB, compressed to 20 kB."""
    content = b"Comment\0\0" + zlib.compress(bytes(20 << 20), 9)
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    return IMAGE[:33] + chunk + IMAGE[33:]  # behind the header


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "no image"),
        (b"words, not pixels", {}, 422, "is no image"),
        (b"https://example.com/street.jpg", {}, 422, "is no image"),
        (b"/etc/passwd", {"Content-Type": "text/plain"}, 422, "is no image"),
        (b'{"url": "file:///etc/passwd"}', {"Content-Type": "application/json"}, 422, "is no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"Content-Type": "image/svg+xml"}, 422, "SVG"),
        (b"%PDF-1.7\n", {"Content-Type": "image/png"}, 422, "PDF"),
        (IMAGE[:-40], {}, 422, "cut short"),
        (IMAGE[:20], {}, 422, ""),
        (encoded(1, 200_001)[:200], {}, 422, "more than the 200000 accepted"),
        (bomb(), {}, 422, "1000×1000 pixels, more than the 200000 accepted"),
        (text_bomb(), {}, 422, "is no image"),
        (gzip.compress(IMAGE), {"Content-Encoding": "gzip"}, 415, "compressed (gzip)"),
        (bytes(1 << 19), {}, 413, "larger than the 262144 bytes"),
        (b"no form", {"Content-Type": "multipart/form-data; boundary=edge"}, 400, ""),
        (b"no form", {"Content-Type": "multipart/form-data"}, 400, ""),
        (form(IMAGE)[0][:-60], form()[1], 400, ""),
        (*form(IMAGE, IMAGE), 413, "more than the 1 image"),
        (*form(*[b"x"] * 20), 413, "more than the 1 image"),
        (*form(*[b"x"] * 1000), 400, "Too many files"),
        (*form(), 400, "no image"),
        (*form(b""), 400, "no image"),
    ],
)
def test_hostile_bodies_are_answered_in_words(
    served: Served, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    got, answer, _ = served.ask("/detect", body, headers)
    assert (got, words in answer["detail"]) == (status, True), answer
    assert len(answer["detail"]) > 10
    assert served.ask("/health")[0] == 200


def test_a_path_or_a_url_is_never_opened(served: Served, tmp_path: Path) -> None:
    asked: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(IMAGE)

    (tmp_path / "street.png").write_bytes(IMAGE)
    with http.server.HTTPServer(("127.0.0.1", 0), Recorder) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        for place in (
            str(tmp_path / "street.png"),
            (tmp_path / "street.png").as_uri(),
            f"http://127.0.0.1:{other.server_port}/street.png",
        ):
            field = f'--edge\r\nContent-Disposition: form-data; name="image"\r\n\r\n{place}\r\n'.encode()
            named = field.replace(b'name="image"', f'name="image"; filename="{place}"'.encode())
            assert served.ask("/detect", place.encode())[0] == 422
            assert served.ask(f"/detect?image={place}&url={place}", b"")[0] == 400
            assert served.ask("/detect", *form(more=field))[0] == 400  # a field that is no file
            assert served.ask("/detect", *form(more=named))[0] == 422  # a file that holds the path
        other.shutdown()
    assert not asked


HEAD = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def test_bodies_that_are_not_of_the_stated_length(served: Served) -> None:
    assert b"the body did not arrive within 0.5 s" in served.send(HEAD % 1000 + IMAGE[:500])  # the rest never comes
    served.send(HEAD % len(IMAGE) + IMAGE[: len(IMAGE) // 2], close=True)  # half a body
    assert b"larger than the 262144 bytes" in served.send(HEAD % (1 << 40))
    chunks = b"POST /detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n" + bytes(1 << 19)
    assert b"larger than the 262144 bytes" in served.send(chunks)
    for stated in (b"-5", b"words", b"99999999999999999999999", b"5\r\nContent-Length: 7"):
        assert b" 400 " in served.send((HEAD % 5).replace(b" 5\r", b" " + stated + b"\r") + b"bytes")
    assert b" 400 " in served.send(b"\x16\x03\x01 no HTTP\r\n\r\n")


def test_a_large_body_is_refused_in_words_while_it_is_sent(served: Served) -> None:
    """Not by a reset of the connection, which clients report in place of the answer."""
    status, answer, headers = served.ask("/detect", bytes(40 << 20))
    assert (status, headers["Connection"]) == (413, "close")
    assert "larger than" in answer["detail"]


def test_slow_clients_are_ended_and_hold_nobody_up(served: Served) -> None:
    begin = time.monotonic()
    with served.connect() as body, served.connect() as head, served.connect() as silent, served.connect() as used:
        body.sendall(HEAD % len(IMAGE))
        used.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in used.recv(1 << 16)
        for place in range(5):  # a byte at a time
            body.sendall(IMAGE[place : place + 1])
            head.sendall(b"POST "[place : place + 1])
            used.sendall(b"POST "[place : place + 1])  # on a connection that has had an answer
            assert served.ask("/detect", IMAGE)[0] == 200
            time.sleep(0.02)
        assert b"the body did not arrive within 0.5 s" in received(body)
        assert all(b"the request's head did not arrive within 0.5 s" in received(one) for one in (head, silent, used))
    assert SECONDS <= time.monotonic() - begin < 5 * SECONDS


def ends_while_sending(client: socket.socket) -> bool:
    """Whether the server ends a connection on which bytes go on arriving, within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            client.sendall(b"x")
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_body_without_end_is_not_read_without_end_after_its_answer(served: Served) -> None:
    with served.connect() as client:
        client.sendall((HEAD % (1 << 40)).replace(b"/detect", b"/other"))
        assert b" 404 " in client.recv(1 << 16)
        assert ends_while_sending(client)


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"x" * (1 << 17), b"\r\n".join(b"X-%d: x" % number for number in range(20_000))],
    ids=["long", "many"],
)
def test_floods_of_headers(served: Served, head: bytes) -> None:
    assert b" 400 " in served.send(b"GET /health HTTP/1.1\r\n" + head)


def test_other_paths_and_methods(served: Served) -> None:
    assert served.ask("/../../etc/passwd")[0] == 404
    assert served.ask("/static/page.js")[0] == 404
    assert served.ask("/detect")[0] == 405
    upgrade = b"GET /detect HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(upgrade)
        assert b" 405 " in connection.recv(1 << 16)


def test_the_bytes_of_all_requests_are_bounded(detector: Detector) -> None:
    slow = Slow(detector)
    body, answers = IMAGE + bytes(60_000), []
    with Served(slow, limits=Limits(body_bytes=1 << 17, total_bytes=250_000)) as running:
        callers = [threading.Thread(target=lambda: answers.append(running.ask("/detect", body)[0])) for _ in range(2)]
        for caller in callers:
            caller.start()
        while running.metric("detector_requests_pending") < 2:
            time.sleep(0.01)
        time.sleep(0.05)  # until their bodies are there
        status, answer, headers = running.ask("/detect", body)
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "have 250000 bytes already" in answer["detail"]
        slow.go.set()
        for caller in callers:
            caller.join()
        assert answers == [200, 200]
        assert running.ask("/detect", body)[0] == 200  # what is answered is freed


def test_a_client_that_does_not_read_its_answer_is_ended() -> None:
    count = 60_000
    boxes = np.full((count, 4), 1234.56, dtype=np.float32)
    labels = np.ones(count, dtype=np.int64)
    many = ImageDetections(boxes, np.ones(count, dtype=np.float32), labels, ["thing"] * count, labels)

    def stand_in(images: Any, **settings: Any) -> list[ImageDetections]:
        return [many for _ in images]

    body, headers = form(*[IMAGE] * 3)
    with Served(stand_in, SECONDS) as running, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", running.port))
        head = f"POST /detect/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {headers['Content-Type']}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        connections = running.server.server_state.connections
        end = time.monotonic() + 10
        while not connections:
            assert time.monotonic() < end
            time.sleep(0.01)
        while connections:
            assert time.monotonic() < end, "the connection stays open"
            time.sleep(0.05)
        assert running.ask("/health")[0] == 200
