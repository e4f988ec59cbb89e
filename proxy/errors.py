"""Every error that a client can be given, as a tree; `envelope` is the one place where it becomes OpenAI's JSON.

ProxyError
├── InvalidRequest (400)
│   └── InvalidControl (400, names the control)
├── Unauthorized (401)
├── Forbidden (403)
├── NotFound (404)
│   └── UnknownModel (404)
├── MethodNotAllowed (405)
├── ClientTimeout (408)
├── BodyTooLarge (413)
├── LimitExceeded (429, names the limit)
├── HeadersTooLarge (431)
├── UpstreamFailed (502)
├── Unavailable (503)
│   ├── Overloaded (503, before anything was spent)
│   ├── SloInfeasible (503, before anything was spent)
│   └── ShuttingDown (503, cut at the end of the grace)
├── DeadlineExceeded (504)
└── UpstreamRefused (the backend's own status and body, relayed)
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class ProxyError(Exception):
    """An error with its HTTP form. `param` names the field or header at fault; `retry_after_s` becomes a header.

    `code` is one of those in this package: metrics count by it. `safe`: the message without what a backend said, for
    logs and traces.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.safe = message

    @property
    def http_status(self) -> int:
        return self.status

    def body(self) -> bytes:
        return msgspec.json.encode(envelope(self))

    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", str(self.retry_after_s).encode())]


class InvalidRequest(ProxyError):
    status = 400
    type = "invalid_request_error"


class InvalidControl(InvalidRequest):
    """A control (header, `tts`/`slo` member, or model suffix) that is malformed or unknown."""

    def __init__(self, control: str, problem: str) -> None:
        super().__init__(f"{control}: {problem}", param=control, code="invalid_control")


class Unauthorized(ProxyError):
    status = 401
    type = "authentication_error"


class Forbidden(ProxyError):
    """The API key is known, but does not allow this."""

    status = 403
    type = "permission_error"


class LimitExceeded(ProxyError):
    """A limit of the API key. `limit`: its name in the file of keys."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, limit: str, retry_after_s: int) -> None:
        super().__init__(message, param=limit, code="limit_exceeded", retry_after_s=retry_after_s)
        self.limit = limit


class NotFound(ProxyError):
    status = 404
    type = "invalid_request_error"


class UnknownModel(NotFound):
    def __init__(self, model: str, known: list[str]) -> None:
        super().__init__(
            f"The model `{model}` does not exist. This proxy serves: {', '.join(known) or 'none'}.",
            param="model",
            code="model_not_found",
        )


class MethodNotAllowed(ProxyError):
    status = 405
    type = "invalid_request_error"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed on {path}; use {allowed}.", code="method_not_allowed")
        self.allowed = allowed

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", self.allowed.encode())]


class ClientTimeout(ProxyError):
    status = 408
    type = "invalid_request_error"

    def __init__(self, limit_s: float, part: str = "body") -> None:
        super().__init__(f"The request {part} did not arrive within {limit_s:g} s.", code="request_timeout")


class BodyTooLarge(ProxyError):
    status = 413
    type = "invalid_request_error"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request body is larger than {limit_bytes} bytes (server.max_body_bytes).",
            code="body_too_large",
        )


class HeadersTooLarge(ProxyError):
    status = 431
    type = "invalid_request_error"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request's headers are too many, or larger than {limit_bytes} bytes (server.max_header_bytes).",
            code="headers_too_large",
        )


class Unavailable(ProxyError):
    status = 503
    type = "server_error"

    def __init__(self, message: str, *, code: str = "no_backend", retry_after_s: int = 1) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)


class SloInfeasible(Unavailable):
    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, code="slo_infeasible", retry_after_s=retry_after_s)


class Overloaded(Unavailable):
    """The proxy has as much to do as it may take on."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, code="overloaded", retry_after_s=retry_after_s)


class ShuttingDown(Unavailable):
    def __init__(self) -> None:
        super().__init__("The proxy is shutting down and could not finish the request.", code="shutting_down")


class UpstreamFailed(ProxyError):
    status = 502
    type = "server_error"

    def __init__(self, message: str, *, safe: str | None = None) -> None:
        super().__init__(message, code="upstream_failed")
        self.safe = safe or message


class UpstreamRefused(ProxyError):
    """The backend answered with an error of its own; its status and body are relayed as they came."""

    type = "upstream_error"

    def __init__(self, upstream_status: int, upstream_body: bytes) -> None:
        super().__init__(f"The backend answered {upstream_status}.", code="upstream_error")
        self.upstream_status = upstream_status
        self.upstream_body = upstream_body

    @property
    def http_status(self) -> int:
        return self.upstream_status

    def body(self) -> bytes:
        try:
            msgspec.json.decode(self.upstream_body)
        except msgspec.DecodeError:
            return super().body()
        return self.upstream_body


class DeadlineExceeded(ProxyError):
    status = 504
    type = "server_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, code="deadline_exceeded")


class ClientGone(Exception):
    """The client closed its connection: nothing is sent, everything upstream is cancelled. Never shown to anyone."""


def envelope(error: ProxyError) -> dict[str, Any]:
    """OpenAI's error object: {"error": {message, type, param, code}}."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
