"""One HTTP/1.1 connection to a backend, parsed by `httptools` and driven by callbacks.

Why not httpx or aiohttp on the data path: with 16 branches a request the client *is* the cost. This design has no task,
queue or coroutine per exchange: bytes go from the socket to the parser to the sink in one call. `make bench` measures
the whole path against nginx and vllm-router.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from proxy.upstream.errors import BadResponse, ConnectionLost, ReadTimeout, SinkFailed, UpstreamError

if TYPE_CHECKING:
    from proxy.upstream.pool import Pool

Headers = list[tuple[bytes, bytes]]
MAX_HEAD_BYTES = 64 * 1024

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Receives one response. Calls come in the order head, body*, then exactly one of end or error; none after a
    cancel. They run on the event loop inside the socket callback: they must be short and must not raise. Where
    `on_head` or `on_body` raises all the same, the connection is closed and `on_error` gets SinkFailed; what the others
    raise is only logged."""

    def on_head(self, status: int, headers: Headers) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_error(self, error: UpstreamError) -> None: ...


class _Nobody:
    """The sink of an exchange that is over."""

    def on_head(self, status: int, headers: Headers) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_error(self, error: UpstreamError) -> None: ...


NOBODY: Sink = _Nobody()


class Exchange:
    """One request under way. `cancel` closes its connection at once, which is how vLLM is told to abort.

    Once done it lets go of its sink, which mostly knows it: no cycle is left for the collector, whose pauses would
    show in every other request's latency.
    """

    __slots__ = ("connection", "done", "paused", "pool", "request", "resent", "sink")

    def __init__(self, pool: Pool, request: bytes, sink: Sink) -> None:
        self.pool = pool
        self.request = request
        self.sink: Sink = sink
        self.connection: Connection | None = None
        self.done = False
        self.resent = False
        self.paused = False

    def cancel(self) -> None:
        """Stop now; the sink hears nothing more. Safe to call twice or after the end."""
        if self.done:
            return
        self.done, self.sink = True, NOBODY
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()
        else:
            self.pool.forget(self)

    def pause(self) -> None:
        """Stop reading from the backend: the way back-pressure travels from a slow client.

        What was read already (at most one socket read, 256 KiB) is still delivered. Also before there is a connection.
        """
        self.paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        self.paused = False
        if self.connection is not None:
            self.connection.resume()

    # -- called by Connection and Pool; `connection` is cleared because it may carry another exchange at once --

    def end(self) -> None:
        if not self.done:
            self.done, self.connection = True, None
            sink, self.sink = self.sink, NOBODY
            try:
                sink.on_end()
            except Exception:
                _log.exception("a sink raised at the end of its answer")

    def fail(self, error: UpstreamError) -> None:
        if not self.done:
            self.done, self.connection = True, None
            sink, self.sink = self.sink, NOBODY
            try:
                sink.on_error(error)
            except Exception:
                _log.exception("a sink raised when told of: %s", error)


class Connection(asyncio.Protocol):
    """Keep-alive connection that carries one exchange at a time."""

    __slots__ = (
        "_close_delimited",
        "_complete",
        "_got_bytes",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_informational",
        "_keep_alive",
        "_loop",
        "_parser",
        "_pool",
        "_reading",
        "_transport",
        "_unparsed_bytes",
        "closed",
        "exchange",
        "last_activity",
        "served",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._head_done = False
        self._informational = False
        self._close_delimited = False
        self._complete = False
        self._keep_alive = False
        self._got_bytes = False
        self._reading = True
        self.exchange: Exchange | None = None
        self.served = 0
        self.closed = False
        self.last_activity = loop.time()

    # -- used by the pool --

    def begin(self, exchange: Exchange) -> None:
        """Write the request. The whole body is in memory already, so the write needs no back-pressure of its own."""
        assert self.exchange is None and self._transport is not None
        self.exchange = exchange
        exchange.connection = self
        self._got_bytes = self._head_done = self._complete = False
        self._unparsed_bytes = 0
        self.last_activity = self._loop.time()
        if not self._transport.is_closing():  # else `connection_lost` is on its way, and uvloop would raise here
            self._transport.write(exchange.request)
        if exchange.paused:
            self.pause()

    def abort(self) -> None:
        """Close without ceremony; whatever runs here is over."""
        self.exchange = None
        self._close()

    def fail(self, error: UpstreamError) -> None:
        exchange, self.exchange = self.exchange, None
        self._close()
        if exchange is not None:
            exchange.fail(error)

    def time_out(self, silent_s: float) -> None:
        message = f"the backend sent nothing for {silent_s:g} s"
        self.fail(ReadTimeout(message, sent_nothing_back=not self._got_bytes))

    def pause(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self.last_activity = self._loop.time()
            self._transport.resume_reading()

    @property
    def stalled_since(self) -> float | None:
        """Loop time of the last sign of life of a running exchange; None if idle, or paused on our side."""
        return self.last_activity if self.exchange is not None and self._reading else None

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._pool.dropped(self)
            if self._transport is not None:
                self._transport.abort()

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports do not inherit from asyncio's. Both loops set TCP_NODELAY.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:  # unasked-for bytes: this peer cannot be trusted with another request
            self._close()
            return
        self._got_bytes = True
        self.last_activity = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:
                self.fail(_explain(error))
                return
            self._keep_alive = False  # the answer is whole; bytes after it are nobody's
        if self._complete:
            # Only now, not in `on_message_complete`: the rest of `data` would be read as the next exchange's answer.
            self._finish(reusable=self._keep_alive)
        elif not self._head_done:
            self._limit_unfinished_head(len(data))

    def eof_received(self) -> bool | None:
        self._gone(None)  # at once: asyncio's own close would first wait until a half-closed peer has read our request
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(exc)
        self._pool.socket_closed(self)

    def _gone(self, exc: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            self._close()
        elif self._head_done and self._close_delimited and exc is None:
            self._finish(reusable=False)
        elif self._was_stale(exchange):
            self.exchange = exchange.connection = None
            exchange.resent = True
            self._pool.resend(exchange)
            self._close()  # after `resend`, which has put the exchange first in line for the place that this frees
        else:
            self.fail(
                ConnectionLost(
                    f"the backend closed the connection{f' ({exc})' if exc else ''}",
                    sent_nothing_back=not self._got_bytes,
                )
            )

    def _was_stale(self, exchange: Exchange) -> bool:
        """Whether the peer closed just before we wrote, so that nothing was processed. A close long after the request
        says something else: that the request may be what broke the backend."""
        if self._got_bytes or self.served == 0 or exchange.resent:
            return False
        return self._loop.time() - self.last_activity < self._pool.limits.stale_within_s

    def _limit_unfinished_head(self, n_bytes: int) -> None:
        """`on_header` sees whole headers; this bounds one that does not end, and informational heads without end."""
        self._unparsed_bytes += n_bytes
        if self._unparsed_bytes > 2 * MAX_HEAD_BYTES:
            self.fail(BadResponse(f"the backend's response head is over {MAX_HEAD_BYTES} bytes"))

    # -- httptools callbacks; what they raise arrives at `feed_data` as the context of its error --

    def on_message_begin(self) -> None:
        if self._complete:
            raise BadResponse("the backend sent more than the answer")
        self._headers = []
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadResponse(f"the backend's response head is over {MAX_HEAD_BYTES} bytes")
        if not self._head_done:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._informational = 100 <= status < 200
        if status == 101:
            raise BadResponse("the backend switched protocols")
        if self._informational or self.exchange is None:
            return
        self._close_delimited = _ends_with_connection(status, self._headers)
        self._head_done = True
        self.exchange.sink.on_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.sink.on_body(data)

    def on_message_complete(self) -> None:
        if not self._informational:
            self._complete = True
            self._keep_alive = bool(self._parser.should_keep_alive())

    def _finish(self, *, reusable: bool) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:  # cancelled from inside the sink, and closed with that
            return
        assert self._transport is not None
        exchange.connection = None  # before `release`, from which another exchange may begin here
        self.served += 1
        if reusable and not self._transport.is_closing() and self._transport.get_write_buffer_size() == 0:
            self.resume()
            self.last_activity = self._loop.time()
            self._pool.release(self)
        else:
            self._close()
        exchange.end()


def _ends_with_connection(status: int, headers: Headers) -> bool:
    """RFC 9112 §6.3. Raises BadResponse for a transfer coding other than chunked, which nobody here could decode."""
    framed = status in (204, 304)
    for name, value in headers:
        if name == b"content-length":
            framed = True
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadResponse("the backend uses a transfer coding other than chunked")
            framed = True
    return not framed


def _explain(error: httptools.HttpParserError) -> UpstreamError:
    cause = error.__context__
    if isinstance(cause, UpstreamError):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError):
        _log.error("a sink raised while its answer arrived", exc_info=cause)
        return SinkFailed(f"the receiver of the answer failed: {cause!r}")
    return BadResponse(f"the backend's answer is not HTTP: {error}")
