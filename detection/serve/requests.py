"""A request's body → encoded images, read within limits of bytes and time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from backbones.common.text import printable

_FIELDS = 8  # text fields of a form, which are ignored
_MORE_FILES = 100  # of a form, beyond those accepted, that are told from a damaged form


@dataclass(frozen=True)
class Limits:
    """What the server accepts.

    Attributes:
        body_bytes: of one request.
        total_bytes: of all requests under way; a request whose body exceeds it gets the status 429.
        pixels: of one image.
        files: in one request of `/detect/batch`.
        requests: accepted and not yet answered; more get the status 429.
        body_seconds: for the head of a request to arrive, for its body, and for the client to read the answer.
        answer_seconds: from the body's end to the answer.
    """

    body_bytes: int = 32 << 20
    total_bytes: int = 256 << 20
    pixels: int = 50_000_000
    files: int = 32
    requests: int = 64
    body_seconds: float = 30.0
    answer_seconds: float = 60.0


class BodyMemory:
    """The bytes of bodies that are in memory, of all requests together, within `limit`.

    abandoned: the bytes that are in memory though their requests have ended.
    """

    def __init__(self, limit: int, abandoned: Callable[[], int]) -> None:
        self._limit, self._held, self._abandoned = limit, 0, abandoned

    @contextlib.contextmanager
    def of_one(self) -> Iterator[Callable[[int], None]]:
        """Context of one request: its bytes are added by the function that it gives, and freed at its end.

        Raises:
            HTTPException: 429 the bytes added exceed the limit.
        """
        own = 0

        def add(count: int) -> None:
            nonlocal own
            if self._held + self._abandoned() + count > self._limit:
                raise HTTPException(
                    429,
                    f"the requests under way have {self._limit} bytes already; try again later",
                    {"Retry-After": "1", "Connection": "close"},
                )
            own += count
            self._held += count

        try:
            yield add
        finally:
            self._held -= own


def require_token(request: Request, token: str | None) -> None:
    """Raises 401 unless the request has the bearer token; the comparison takes the same time for any wrong one."""
    if token is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        raise HTTPException(401, "this server needs its token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})


async def read_images(
    request: Request, limits: Limits, most: int, add_bytes: Callable[[int], None]
) -> list[tuple[str, bytes]]:
    """(name in messages, content) of each image of a request: the files of a multipart form, or the whole body.

    Args:
        most: images that the request may have.
        add_bytes: of `BodyMemory`.

    Raises:
        HTTPException: 400 no image, or a damaged form; 408 the body did not arrive in time; 413 it is too large, or has
            more images; 415 it is compressed; 429 too many bytes of other requests are in memory.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(
            415,
            f"the body is compressed ({printable(encoding)[:40]}); send the image file as it is",
            {"Connection": "close"},
        )
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > limits.body_bytes:
        raise _too_large(limits)
    bounded = Request(request.scope, _bounded(request.receive, limits, add_bytes))
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        reading = _form_files(bounded, most) if is_form else _whole_body(bounded)
        images = await asyncio.wait_for(reading, limits.body_seconds)
    except asyncio.TimeoutError:
        raise HTTPException(
            408, f"the body did not arrive within {limits.body_seconds:g} s", {"Connection": "close"}
        ) from None
    except FormParserError as error:
        raise HTTPException(400, f"the form is damaged: {error}") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the body did") from None
    if not images or not all(data for _, data in images):
        raise HTTPException(
            400, "there is no image: send its bytes as the body, or as a file of a form (multipart/form-data)"
        )
    return images


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(
        413, f"the body is larger than the {limits.body_bytes} bytes accepted", {"Connection": "close"}
    )


def _bounded(receive: Receive, limits: Limits, add_bytes: Callable[[int], None]) -> Receive:
    """A source of the body's parts that ends with 413 after the limit, whatever Content-Length states."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message: Message = await receive()
        count = len(message.get("body", b""))
        received += count
        if received > limits.body_bytes:
            raise _too_large(limits)
        add_bytes(count)
        return message

    return bounded


async def _whole_body(request: Request) -> list[tuple[str, bytes]]:
    return [("the image", await request.body())]


async def _form_files(request: Request, most: int) -> list[tuple[str, bytes]]:
    async with request.form(max_files=most + _MORE_FILES, max_fields=_FIELDS) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > most:
            raise HTTPException(413, f"there are more than the {most} image(s) accepted here")
        return [(f"image {number}", await file.read()) for number, file in enumerate(files)]
