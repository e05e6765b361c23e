"""The batcher with the runtime's detector, with images that cannot be used, and with callers that give up."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.common.errors import UserError
from detection.data.images import ImageError
from detection.serve import batching
from detection.serve.batching import Batcher

FILES = Path(__file__).parents[1] / "export" / "files"


def encoded(height: int = 4, width: int = 6, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


class Recorder:
    """A detector that records the sizes of its batches and answers with the images' heights."""

    def __init__(self, fails_at: int = 0) -> None:
        self.batches: list[int] = []
        self._fails_at = fails_at

    def __call__(self, images: Any, *, batch_size: int = 1) -> Any:
        if isinstance(images, np.ndarray):
            return self([images])[0]
        self.batches.append(len(images))
        if self._fails_at in [len(image) for image in images]:
            raise UserError("out of memory")
        return [len(image) for image in images]


def test_answers_are_those_of_the_detector() -> None:
    pytest.importorskip("onnxruntime", reason="ONNXRUNTIME MISSING: exported files were not run")
    from detection.export.runtime import Detector

    detector = Detector.load(FILES / "batch.onnx", "cpu", threads=1)
    files = [encoded(96, 128), encoded(70, 50), encoded(97, 128)]

    async def detect() -> list[Any]:
        async with Batcher(detector, batch_size=3, wait=0.05) as batcher:
            return await asyncio.gather(*(batcher.detect(file, "image") for file in files))

    answers = asyncio.run(detect())
    assert [(answer.height, answer.width) for answer in answers] == [(96, 128), (70, 50), (97, 128)]
    for file, answer in zip(files, answers, strict=True):
        expected = detector(Image.open(io.BytesIO(file)))
        np.testing.assert_allclose(answer.detections.boxes, expected.boxes, atol=1e-2)
        np.testing.assert_allclose(answer.detections.scores, expected.scores, atol=1e-4)
    assert sum(len(answer.detections) for answer in answers) > 0


@pytest.mark.parametrize(("size", "wait", "most"), [(1, 0.0, 1), (4, 0.2, 4)])
def test_images_are_collected_up_to_the_batch_size(size: int, wait: float, most: int) -> None:
    detector = Recorder()

    async def detect() -> list[Any]:
        async with Batcher(detector, batch_size=size, wait=wait) as batcher:
            return await asyncio.gather(*(batcher.detect(encoded(height), "image") for height in range(1, 9)))

    assert [answer.detections for answer in asyncio.run(detect())] == list(range(1, 9))
    assert detector.batches == [most] * (8 // most)


def test_one_that_fails_does_not_fail_the_others_of_its_batch() -> None:
    files = [encoded(1), b"", b"words", encoded(2)[:-20], encoded(3), encoded(50, 50), encoded(5)]

    async def detect() -> list[Any]:
        async with Batcher(Recorder(fails_at=3), batch_size=7, wait=0.2, pixel_limit=100) as batcher:
            calls = (batcher.detect(file, f"image {number}") for number, file in enumerate(files))
            return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(detect())
    assert [getattr(outcome, "detections", None) for outcome in outcomes] == [1, None, None, None, None, None, 5]
    assert [type(outcomes[place]) for place in (1, 2, 3, 4, 5)] == [ImageError] * 3 + [UserError, ImageError]
    assert "image 3: the PNG is cut short" in str(outcomes[3])
    assert "claims 50×50 pixels, more than the 100 accepted" in str(outcomes[5])


def test_a_caller_that_gave_up_costs_no_computation_and_the_rest_is_answered_at_the_end() -> None:
    detector = Recorder()

    async def detect() -> Any:
        async with Batcher(detector) as batcher:
            given_up = asyncio.create_task(batcher.detect(encoded(1), "image"))
            kept = asyncio.create_task(batcher.detect(encoded(2), "image"))
            await asyncio.sleep(0)
            given_up.cancel()
        return kept.result()

    assert asyncio.run(detect()).detections == 2
    assert detector.batches == [1]


class Body(bytes):
    """Bytes that count those of them that are in memory."""

    held = 0

    def __new__(cls, data: bytes) -> Body:
        Body.held += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Body.held -= 1


def test_what_callers_gave_up_is_not_held_or_counted_until_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def decoded(data: bytes, *_: Any) -> np.ndarray:
        begun.set()
        assert go.wait(20)
        return np.zeros((len(data), 1, 3), dtype=np.uint8)

    monkeypatch.setattr(batching, "decode_image", decoded)

    async def detect() -> None:
        async with Batcher(Recorder()) as batcher:
            calls = [asyncio.create_task(batcher.detect(Body(bytes(100)), "image")) for _ in range(10)]
            while not begun.is_set():
                await asyncio.sleep(0.001)
            assert (Body.held, batcher.abandoned_bytes()) == (10, 0)
            for call in calls[:9]:
                call.cancel()
            await asyncio.wait(calls[:9])
            held, counted = Body.held, batcher.abandoned_bytes()
            go.set()
            assert (await calls[9]).detections == 100
            assert (held, counted) == (2, 100)  # the one that was decoded, and the one that still waited
            assert batcher.abandoned_bytes() == 0

    asyncio.run(detect())
    assert Body.held == 0


def test_the_bytes_of_images_that_cannot_be_used_are_not_kept_by_their_errors() -> None:
    async def detect() -> None:
        async with Batcher(Recorder(), pixel_limit=100) as batcher:
            for kind in (b"words", encoded(2)[:-20], encoded(50, 50)):
                with pytest.raises(ImageError):
                    await batcher.detect(Body(kind), "image")
            assert Body.held == 0

    gc.disable()
    try:
        asyncio.run(detect())
    finally:
        gc.enable()


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"wait": -1}, {"pixel_limit": 0}])
def test_settings_without_meaning_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Batcher(Recorder(), **setting)
