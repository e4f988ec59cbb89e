"""What can go wrong between the proxy and one backend, as types."""

from __future__ import annotations


class UpstreamError(Exception):
    """The root. `sent_nothing_back` is true where no byte of an answer had arrived.

    `quoted`: what the backend said, which may repeat a prompt or an answer: the client may read it (`str`), a log,
    trace or span may not (`safe`).
    """

    def __init__(self, message: str, *, sent_nothing_back: bool = False, quoted: str = "") -> None:
        super().__init__(f"{message}: {quoted}" if quoted else message)
        self.sent_nothing_back = sent_nothing_back
        self.safe = message


class ConnectFailed(UpstreamError):
    """No connection within the connect time limit, or it was refused."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent_nothing_back=True)


class ConnectionLost(UpstreamError):
    """The peer closed or reset the connection before the answer was whole."""


class ReadTimeout(UpstreamError):
    """The peer sent nothing for longer than the read time limit."""


class BadResponse(UpstreamError):
    """Bytes that are not HTTP/1.1, or a head or event over the limits."""


class SinkFailed(UpstreamError):
    """The receiver of the answer raised (the cause is in the log); the connection was closed."""


class PoolClosed(UpstreamError):
    """The pool was closed while the request waited or ran."""
