"""The HTTP interface of a detector, and its pages, as a FastAPI application.

Nothing that a client sends is opened as a path or a URL: an image is the bytes of the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from backbones.common.errors import UserError
from detection.data.images import ImageError
from detection.serve.answers import REFUSALS, BatchDetections, TimedDetections, as_json
from detection.serve.batching import Answer, Batcher
from detection.serve.pages import front_page, interface_page
from detection.serve.requests import BodyMemory, Limits, read_images, require_token

_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _body(form: dict[str, Any], raw: bool) -> dict[str, Any]:
    """The description of a request's body for the OpenAPI page."""
    content: dict[str, Any] = {"multipart/form-data": {"schema": {"type": "object", "properties": form}}}
    if raw:
        content = {"image/*": _BINARY, **content}
    return {"requestBody": {"required": True, "content": content}}


def create_application(
    detector: Callable[..., Any],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    batch_size: int = 1,
    wait: float = 0.0,
) -> FastAPI:
    """The application that serves a `Detector`, of PyTorch or of the runtime of exported files.

    Args:
        token: the bearer token that `/detect`, `/detect/batch` and `/metrics` need; None: none.
        batch_size, wait: see `Batcher`.
    """
    limits = limits or Limits()
    registry = CollectorRegistry()
    answered = Counter("detector_requests_total", "Requests for detections, by status.", ["status"], registry=registry)
    seconds = Histogram("detector_request_seconds", "From a request's head to its answer.", registry=registry)
    images = Histogram("detector_batch_images", "Images of a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=registry)
    pending = Gauge("detector_requests_pending", "Requests accepted and not yet answered.", registry=registry)
    batcher = Batcher(detector, batch_size=batch_size, wait=wait, pixel_limit=limits.pixels, on_batch=images.observe)
    memory = BodyMemory(limits.total_bytes, batcher.abandoned_bytes)
    under_way = 0

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    @contextlib.contextmanager
    def accepted() -> Iterator[None]:
        """Context of one request: refuses it if too many are under way, and counts it."""
        nonlocal under_way
        if under_way >= limits.requests:
            raise HTTPException(
                429, f"{under_way} requests wait already; try again later", {"Retry-After": "1", "Connection": "close"}
            )
        under_way += 1
        pending.set(under_way)
        try:
            yield
        finally:
            under_way -= 1
            pending.set(under_way)

    async def detections(request: Request, most: int) -> tuple[list[Answer | BaseException], float]:
        """The outcome of each image of a request, and the seconds that they took."""
        begin = time.perf_counter()
        status = 500
        try:
            require_token(request, token)
            with accepted(), memory.of_one() as add_bytes:
                files = await read_images(request, limits, most, add_bytes)
                calls = asyncio.gather(*(batcher.detect(data, name) for name, data in files), return_exceptions=True)
                outcomes = await _results(calls, request, limits.answer_seconds)
            for outcome in outcomes:
                if isinstance(outcome, BaseException) and not isinstance(outcome, ImageError):
                    raise HTTPException(503, str(outcome)) if isinstance(outcome, UserError) else outcome
            status = 200
            if most == 1 and isinstance(outcomes[0], ImageError):
                raise HTTPException(422, str(outcomes[0]))
            return outcomes, time.perf_counter() - begin
        except StarletteHTTPException as error:  # ours, and those of a form's parser
            status = error.status_code
            raise
        finally:
            answered.labels(status).inc()
            seconds.observe(time.perf_counter() - begin)

    # FastAPI's own page of the interface would load its scripts from the internet.
    application = FastAPI(title="Object detection", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    # It puts the token into the schema; `require_token` is what asks for it.
    secured = [Depends(HTTPBearer(auto_error=False, description="the server's token"))] if token else []
    refusals = REFUSALS if token else {status: one for status, one in REFUSALS.items() if status != 401}

    @application.post(
        "/detect",
        openapi_extra=_body({"image": _BINARY["schema"]}, raw=True),
        responses={200: {"model": TimedDetections, "description": "the detections"}, **refusals},
        dependencies=secured,
    )
    async def detect(request: Request) -> JSONResponse:
        """Detections in one image, sent as the body or as the file of a form."""
        outcomes, took = await detections(request, 1)
        assert isinstance(outcomes[0], Answer)
        return JSONResponse({**as_json(outcomes[0]), "seconds": round(took, 4)})

    @application.post(
        "/detect/batch",
        openapi_extra=_body({"images": {"type": "array", "items": _BINARY["schema"]}}, raw=False),
        responses={
            200: {"model": BatchDetections, "description": "the detections"},
            **{status: one for status, one in refusals.items() if status != 422},
        },
        dependencies=secured,
    )
    async def detect_batch(request: Request) -> JSONResponse:
        """Detections in each file of a form, in their order; an image that cannot be used has "error" instead."""
        outcomes, took = await detections(request, limits.files)
        results = [as_json(one) if isinstance(one, Answer) else {"error": str(one)} for one in outcomes]
        return JSONResponse({"results": results, "seconds": round(took, 4)})

    @application.get("/health", response_description="the server runs")
    async def health() -> dict[str, Any]:
        """Whether the server runs."""
        return {"status": "ok"}

    @application.get(
        "/metrics", response_class=PlainTextResponse, response_description="the figures", dependencies=secured
    )
    async def metrics(request: Request) -> Response:
        """The server's figures for Prometheus."""
        require_token(request, token)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @application.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return front_page(needs_token=token is not None, body_bytes=limits.body_bytes)

    @application.get("/docs", include_in_schema=False)
    async def interface() -> HTMLResponse:
        return interface_page(application.openapi())

    return application


async def _results(
    calls: asyncio.Future[list[Answer | BaseException]], request: Request, seconds: float
) -> list[Answer | BaseException]:
    """What the calls for a request return; they are cancelled if that takes too long, or if the client goes away.

    Raises:
        HTTPException: 503, or 499, which nobody receives.
    """
    gone = asyncio.ensure_future(request.receive())  # what comes after the body is the connection's end
    done, _ = await asyncio.wait((calls, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if calls in done:
        return calls.result()
    calls.cancel()
    if gone in done:
        raise HTTPException(499, "the client closed the connection before its answer")
    raise HTTPException(503, f"there was no answer within {seconds:g} s", {"Retry-After": "5"})
