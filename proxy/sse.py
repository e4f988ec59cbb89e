"""Server-sent events: split a byte stream into event payloads, and frame payloads as events."""

from __future__ import annotations

DONE = b"[DONE]"
KEEP_ALIVE = b": paretoproxy\n\n"
MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """An event that does not end within `MAX_EVENT_BYTES`."""


class EventSplitter:
    """Feeds on chunks cut anywhere; gives the `data` payload of every complete event (WHATWG HTML §9.2.6)."""

    __slots__ = ("_after_cr", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads completed by `data`, in order; comments and events without data give none. Raises EventTooLarge."""
        if self._after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        if self._rest:
            seam = len(self._rest) - 1
            self._rest += data
            if self._rest.find(b"\n\n", seam) < 0:  # search only what is new: a large event comes in many chunks
                self._limit()
                return []
            data = bytes(self._rest)
        if data.endswith(b"\n\n"):
            if self._rest:
                self._rest = bytearray()
            blocks = data[:-2].split(b"\n\n")
        else:
            *blocks, rest = data.split(b"\n\n")
            self._rest = bytearray(rest)
            self._limit()
        return [payload for block in blocks if (payload := _payload(block)) is not None]

    def _with_line_feeds(self, data: bytes) -> bytes:
        """All three line ends as LF. A CR ends its line at once; an LF that follows in the next chunk is dropped."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _limit(self) -> None:
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")


def _payload(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # every event that vLLM sends
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    """One event; `payload` has no newline (JSON never does)."""
    return b"data: %b\n\n" % payload
