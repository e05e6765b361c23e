"""Encoded images of many requests → their detections, a few images at a time, in one thread.

Images wait encoded and are decoded when their turn comes, so that the memory of those that wait is that of their files.
An image's bytes are held until it is decoded, or until its caller gives up before that began.
This module does not import PyTorch or a web framework.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from backbones.common.errors import UserError
from detection.data.images import PIXEL_LIMIT, ImageError, decode_image
from detection.detector_interface import ImageDetections


@dataclass(frozen=True)
class Answer:
    """The detections in an image, and the image's size in pixels."""

    detections: ImageDetections
    width: int
    height: int


@dataclass(eq=False)
class _Job:
    data: bytes  # b"" once they are not needed any more
    name: str
    answer: asyncio.Future[Answer]


class Batcher:
    """Collects images up to a number or a time, and runs the detector on them; an async context manager.

    On leaving the context, the images that wait are still processed.

    Args:
        detector: a `Detector`, of PyTorch or of the runtime of exported files.
        batch_size: at most this many images are decoded and given to the detector at once.
        wait: seconds that the first image of a batch waits for others; 0 takes what is there.
        pixel_limit: an image of more pixels is refused.
        on_batch: is told the number of images of each batch.
    """

    def __init__(
        self,
        detector: Callable[..., Any],
        *,
        batch_size: int = 1,
        wait: float = 0.0,
        pixel_limit: int = PIXEL_LIMIT,
        on_batch: Callable[[int], object] = lambda images: None,
    ) -> None:
        if batch_size < 1 or wait < 0 or pixel_limit < 1:
            raise UserError("the batch size and the limit of pixels are at least 1, and the wait at least 0")
        self._detector, self._size, self._wait = detector, batch_size, wait
        self._pixel_limit, self._on_batch = pixel_limit, on_batch
        self._thread = ThreadPoolExecutor(1, "detector")
        self._running: list[_Job] = []

    async def __aenter__(self) -> Batcher:
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._jobs.put_nowait(None)
        await self._task
        self._thread.shutdown()

    async def detect(self, data: bytes, name: str) -> Answer:
        """The detections in one encoded image; a caller that is cancelled before its turn costs no computation.

        Raises:
            ImageError: the image cannot be used.
            UserError: out of memory.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = _Job(data, name, answer)
        del data  # this frame is kept by the traceback of an error
        answer.add_done_callback(lambda _: self._drop(job))
        self._jobs.put_nowait(job)
        return await answer

    def abandoned_bytes(self) -> int:
        """The bytes that are still held of images whose callers have given up: of those that were to be decoded when
        they did."""
        return sum(len(job.data) for job in self._running if job.answer.done())

    def _drop(self, job: _Job) -> None:
        if job not in self._running:
            job.data = b""

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        ends = False
        while not ends:
            first = await self._jobs.get()
            if first is None:
                return
            batch = [first]
            end = loop.time() + self._wait
            while len(batch) < self._size:
                try:
                    job = await self._next(end - loop.time())
                except (asyncio.QueueEmpty, asyncio.TimeoutError):
                    break
                if job is None:
                    ends = True
                    break
                batch.append(job)
            self._running = [job for job in batch if not job.answer.done()]
            if self._running:
                outcomes = await loop.run_in_executor(self._thread, self._run, self._running)
                for job, outcome in zip(self._running, outcomes, strict=True):
                    if job.answer.done():  # its caller has given up meanwhile
                        continue
                    if isinstance(outcome, Answer):
                        job.answer.set_result(outcome)
                    else:
                        job.answer.set_exception(outcome)

    async def _next(self, seconds: float) -> _Job | None:
        with contextlib.suppress(asyncio.QueueEmpty):
            return self._jobs.get_nowait()
        if seconds <= 0:
            raise asyncio.QueueEmpty
        return await asyncio.wait_for(self._jobs.get(), seconds)

    def _run(self, jobs: Sequence[_Job]) -> list[Answer | Exception]:
        outcomes: list[Answer | Exception | None] = [None] * len(jobs)
        images = {}
        for place, job in enumerate(jobs):
            try:
                images[place] = decode_image(job.data, job.name, self._pixel_limit)
            except ImageError as error:
                outcomes[place] = ImageError(str(error))  # without the frames, which hold the image's bytes
            except Exception as error:
                outcomes[place] = error
            finally:
                job.data = b""
        if images:
            self._on_batch(len(images))
            try:
                found: list[Any] = self._detector(list(images.values()), batch_size=self._size)
            except Exception as error:
                found = [error] if len(images) == 1 else [self._alone(image) for image in images.values()]
            for (place, image), one in zip(images.items(), found, strict=True):
                outcomes[place] = one if isinstance(one, Exception) else Answer(one, image.shape[1], image.shape[0])
        return [outcome or RuntimeError("no outcome") for outcome in outcomes]

    def _alone(self, image: Any) -> Any:
        """The detections in one image of a batch that failed, or its own error."""
        try:
            return self._detector(image)
        except Exception as error:
            return error
