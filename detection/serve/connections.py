"""The server's connections: limits of time that uvicorn does not have, and answers that reach clients which still send.

- A request's head must arrive within a time, and an answer must be read within a time; otherwise a client could keep
  connections open without end.
- Where an answer comes before the end of the request's body (as 413 does), what still arrives is read and discarded for
  a while before the connection is closed. Closing at once resets the connection, and most clients then report that in
  place of the answer (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER_SECONDS = 5.0


class Server(uvicorn.Server):
    """Serves an application until it is told to end; `run` returns then.

    Args:
        port: 0: a free one.
        seconds: for the head of a request to arrive, and for a client to read an answer.
        on_start: is told the URL once connections are accepted.
    """

    def __init__(
        self,
        application: FastAPI,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seconds: float = 30.0,
        on_start: Callable[[str], object] = lambda url: None,
        log_level: str = "warning",
    ) -> None:
        class Connection(_Connection):
            seconds_allowed = seconds

        super().__init__(
            uvicorn.Config(
                application, host=host, port=port, http=Connection, ws="none", log_level=log_level, server_header=False
            )
        )
        self._on_start = on_start

    @property
    def url(self) -> str:
        """Where it listens."""
        port = self.servers[0].sockets[0].getsockname()[1]
        host = self.config.host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start(self.url)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises anew after the end
            super().run(sockets)


class _Connection(H11Protocol):
    seconds_allowed: float
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport = _LingeringTransport(transport, self)  # type: ignore[assignment]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head_timer, self._answer_timer, self.transport.end_timer):  # type: ignore[attr-defined]
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if not self.transport.lingers:  # type: ignore[attr-defined]
            super().data_received(data)

    def on_response_complete(self) -> None:
        self._wait_for_head()  # of the next request
        super().on_response_complete()

    def shutdown(self) -> None:
        if self.transport.lingers:  # type: ignore[attr-defined]
            self.transport.abort()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_timer = self.loop.call_later(self.seconds_allowed, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer_timer is not None:
            self._answer_timer.cancel()

    def _wait_for_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.seconds_allowed, self._end_without_head, self.cycle)

    def _end_without_head(self, last: Any) -> None:
        if self.cycle is not last or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:  # otherwise the body of the last request still arrives, after its answer
            text = f"the request's head did not arrive within {self.seconds_allowed:g} s".encode()
            head = [("Content-Type", "text/plain"), ("Content-Length", str(len(text))), ("Connection", "close")]
            answer = h11.Response(status_code=408, headers=head, reason=b"Request Timeout")
            for event in (answer, h11.Data(data=text), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _LingeringTransport:
    """A transport that `close` closes at once only if the client has sent all of its request."""

    def __init__(self, transport: Any, connection: _Connection) -> None:
        self._transport, self._connection = transport, connection
        self.lingers = False
        self.end_timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        client = self._connection.conn.their_state
        if client not in (h11.SEND_BODY, h11.ERROR) or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        seconds = min(_LINGER_SECONDS, self._connection.seconds_allowed)
        self.end_timer = self._connection.loop.call_later(seconds, self._transport.abort)
