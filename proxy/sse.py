"""Server-sent events: split a byte stream into event payloads, and frame payloads as events."""

from __future__ import annotations

DONE = b"[DONE]"
KEEP_ALIVE = b": paretoproxy\n\n"
MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """An event that does not end within `MAX_EVENT_BYTES`."""


class EventSplitter:
    """Feeds on chunks cut anywhere; gives the `data` payload of every complete event (WHATWG HTML §9.2.6)."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads completed by `data`, in order; comments and empty events give none."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = _normalise_newlines(data)
        if data.endswith(b"\n\n"):
            self._rest = b""
            blocks = data[:-2].split(b"\n\n")
        else:
            *blocks, self._rest = data.split(b"\n\n")
            if len(self._rest) > MAX_EVENT_BYTES:
                raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return [payload for block in blocks if (payload := _payload(block)) is not None]


def _normalise_newlines(data: bytes) -> bytes:
    held = b"\r" if data.endswith(b"\r") else b""  # its \n may be in the next chunk
    body = data[: len(data) - len(held)]
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held


def _payload(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # every event that vLLM sends
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    """One event; `payload` has no newline (JSON never does)."""
    return b"data: %b\n\n" % payload
