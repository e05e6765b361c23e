"""The server on a real port, with the runtime's detector: answers, limits, token, end."""

from __future__ import annotations

import io
import json
import os
import signal
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

from tests.detection.serve.served import IMAGE, ROOT, WEIGHTS, Served, Slow, encoded, form  # isort: skip

from detection.data.images import decode_image
from detection.export.runtime import Detector
from detection.serve import batching
from detection.serve.answers import BatchDetections, TimedDetections
from detection.serve.requests import Limits


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


def test_a_decoding_counts_until_it_ends(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def decoded(*arguments: Any) -> np.ndarray:
        assert go.wait(20)
        return decode_image(*arguments)

    monkeypatch.setattr(batching, "decode_image", decoded)
    limits = Limits(body_bytes=len(IMAGE), total_bytes=2 * len(IMAGE) - 1, answer_seconds=0.5)
    with Served(detector, limits=limits) as running:
        assert running.ask("/detect", IMAGE)[0] == 503
        assert running.ask("/detect", IMAGE)[0] == 429
        go.set()
        while running.ask("/detect", IMAGE)[0] == 429:
            time.sleep(0.01)
        assert running.ask("/detect", IMAGE)[0] == 200


def test_a_client_that_goes_away_costs_no_computation(detector: Detector) -> None:
    slow = Slow(detector)
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)
    with Served(slow) as running:
        first = threading.Thread(target=running.ask, args=("/detect", IMAGE))
        first.start()
        while running.metric("detector_batch_images_count") < 1:
            time.sleep(0.01)
        with running.connect() as connection:
            connection.sendall(head + IMAGE)
            while running.metric("detector_requests_pending") < 2:
                time.sleep(0.01)
        while running.metric("detector_requests_pending") > 1:
            time.sleep(0.01)
        slow.go.set()
        first.join()
        assert running.ask("/detect", IMAGE)[0] == 200
        assert running.metric("detector_batch_images_sum") == 2
        assert running.metric('detector_requests_total{status="499"}') == 1


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


def test_answers_are_of_the_form_that_the_interface_describes(served: Served) -> None:
    paths = served.ask("/openapi.json")[1]["paths"]
    assert set(paths) == {"/detect", "/detect/batch", "/health", "/metrics"}
    assert "image/*" in paths["/detect"]["post"]["requestBody"]["content"]
    TimedDetections.model_validate(served.ask("/detect", IMAGE)[1], strict=True)
    found = BatchDetections.model_validate(served.ask("/detect/batch", *form(IMAGE, b"words"))[1], strict=True)
    assert [type(one).__name__ for one in found.results] == ["Detections", "UnusableImage"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_the_tool_serves_an_exported_file_without_torch_and_ends_by_a_signal(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    process = subprocess.Popen(
        [sys.executable, "tools/serve.py", "--weights", str(WEIGHTS), "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2].rstrip(";")
        with urllib.request.urlopen(f"{url}/detect", IMAGE, timeout=20) as answer:
            assert json.load(answer)["width"] == 128
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()
