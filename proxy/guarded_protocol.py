"""The server's protocol with bounds on what a client may send and how long it may take: no head, trailer or chunk
extension without end, no connection that never sends a whole request.

The body is bounded where it is read (`asgi.read_body`), and the whole request by `time_limit.py`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.errors import ClientTimeout, HeadersTooLarge, InvalidRequest, ProxyError
from proxy.server_protocol import ServerProtocol

MAX_HEADERS = 128
_LEN_OF_TE = len(b"transfer-encoding")
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
LINGER_S = 5.0  # for the rest of a body that was answered before it had come


@dataclass(frozen=True, slots=True)
class WireLimits:
    """`head_bytes`: of request line and headers together; `head_timeout_s`: from the first byte to the last of them."""

    head_bytes: int = 65_536
    head_timeout_s: float = 15.0


class GuardedProtocol(ServerProtocol):
    """Give it to uvicorn as `http`, with its limits bound by `functools.partial`."""

    def __init__(self, *args: Any, limits: WireLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._refusal: ProxyError | None = None
        self._head_open = False
        self._message_open = False
        self._head_bytes = 0
        self._head_count = 0
        self._silent_bytes = 0  # that have told nothing: of an endless header, trailer or chunk extension
        self._head_since: float | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    # -- bounds in bytes --

    def data_received(self, data: bytes) -> None:
        self._silent_bytes += len(data)
        if not (self._head_open or self._message_open) and b"pgrade" in data:
            data = _without_upgrade(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not (self._head_open or self._message_open):
            self._silent_bytes = 0
            answered = self.cycle is None or self.cycle.response_complete
        else:
            answered = False
            if self._silent_bytes > 2 * self._limits.head_bytes + len(data):
                self._refuse(HeadersTooLarge(self._limits.head_bytes))
                return
        if (self._head_open or answered) and self._head_since is None:  # `answered`: empty lines before a head
            self._head_since = self.loop.time()
            self._await_head(self._limits.head_timeout_s)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open, self._head_bytes, self._head_count = True, 0, 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_open:  # a trailer: nothing here reads any, and it must not pass for a header
            return
        self._head_count += 1
        self._count_head(len(name) + len(value))
        # Others may agree on "gzip, chunked", or on HTTP/1.0, about where the body ends, or not.
        if (
            len(name) == _LEN_OF_TE
            and name.lower() == b"transfer-encoding"
            and (value.strip().lower() != b"chunked" or self.parser.get_http_version() != "1.1")
        ):
            raise InvalidRequest("transfer-encoding: only `chunked` is understood", code="invalid_http")
        super().on_header(name, value)

    def _count_head(self, n_bytes: int) -> None:
        """What is raised here ends as `send_400_response`."""
        self._head_bytes += n_bytes
        if self._head_bytes > self._limits.head_bytes or self._head_count > MAX_HEADERS:
            self._refusal = HeadersTooLarge(self._limits.head_bytes)
            raise self._refusal

    def on_headers_complete(self) -> None:
        self._head_open, self._message_open, self._silent_bytes = False, True, 0
        self._head_since = None
        if not self.headers and self.parser.get_http_version() == "0.9":
            raise InvalidRequest("HTTP/0.9 is not spoken here", code="invalid_http")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._message_open = False
        super().on_message_complete()
        if self._linger_timer is not None:  # the rest of a body that nobody waited for: idle from now on
            self._linger_timer.cancel()
            self._linger_timer = None
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    # -- bounds in time --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._await_head(self._limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _await_head(self, seconds: float) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(seconds, self._look_at_head)

    def _look_at_head(self) -> None:
        self._head_timer = None
        if self._head_since is None or self.transport.is_closing():
            return
        left_s = self._head_since + self._limits.head_timeout_s - self.loop.time()
        if left_s > 1e-3:
            self._await_head(left_s)
        elif self._head_open:
            self._refuse(ClientTimeout(self._limits.head_timeout_s, "head"))
        else:  # not a byte came: nobody to tell
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._message_open and self._linger_timer is None and not self.pipeline:
            self._linger_timer = self.loop.call_later(LINGER_S, self._stop_lingering)

    def _stop_lingering(self) -> None:
        self._linger_timer = None
        if self._message_open:
            self.transport.close()

    # -- refusals before there is a request --

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, for what is not HTTP: in OpenAI's envelope, and never into the middle of another answer."""
        self._refuse(self._refusal or InvalidRequest("The request is not valid HTTP/1.1.", code="invalid_http"))

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that `_without_upgrade` did not see (its head came in parts): the parser takes what follows for
        another protocol, and the next request for what it likes."""
        self.transport.close()

    def _refuse(self, error: ProxyError) -> None:
        cycle = self.cycle
        unanswered = self._message_open and not self.pipeline and cycle is not None and not cycle.response_started
        if cycle is None or cycle.response_complete or unanswered:
            body = error.body()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.http_status] + head + body)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """An offer to change the protocol is ignored, as RFC 9110 §7.8 allows. The parser would not: it would take the
    request's body for the other protocol, and Java's HTTP client offers h2c with every first request."""
    end = data.find(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-offer", data[:end]) + data[end:] if end > 0 else data
