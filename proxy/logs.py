"""Log lines as text or JSON, each with the trace id of the request that it belongs to, written off the event loop.

A record of a request never shows what an exception says, only its class and where it came from: the text may quote a
prompt, an answer or a key. The proxy's own messages quote none.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Literal, TextIO

import msgspec

from proxy.current import current_trace
from proxy.outbox import Outbox

QUEUE_SIZE = 10_000
FLUSH_S = 2.0
LogFormat = Literal["text", "json"]
_WITHHELD = "(text withheld: it may quote the request)"


def configure(log_format: LogFormat, level: str) -> LogHandler:
    """All loggers of this process write through one handler, to stderr; uvicorn's too, if it is started with
    `log_config=None`. Close it at the end."""
    handler = LogHandler(sys.stderr, JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Of each batch that fails; `Telemetry` says it once, and /metrics counts.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return handler


class LogHandler(logging.Handler):
    """Hands records to a thread that formats and writes them: a pipe that nobody reads must not stop the loop. Beyond
    `QUEUE_SIZE` they are dropped, and the next line that is written says how many."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter, size: int = QUEUE_SIZE) -> None:
        super().__init__()
        self._stream = stream
        self._told_dropped = 0
        self.setFormatter(formatter)
        self._outbox: Outbox[logging.LogRecord] = Outbox("logs", self._write, size=size, batch=64)

    @property
    def dropped(self) -> int:
        return self._outbox.dropped

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock: the queue needs none."""
        if self.filter(record):
            self.emit(record)
            return True
        return False

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "trace_id"):
            record.trace_id = current_trace.get()
        self._outbox.put(record)

    def flush(self) -> None:
        self._outbox.flush(FLUSH_S)

    def close(self) -> None:
        self._outbox.close(FLUSH_S)
        super().close()

    def _write(self, records: list[logging.LogRecord]) -> None:
        lines = [self._line(record) for record in records]
        if (dropped := self.dropped) > self._told_dropped:
            told = logging.LogRecord("paretoproxy.logs", logging.ERROR, "", 0, "%d log lines were dropped", None, None)
            told.args = (dropped - self._told_dropped,)
            self._told_dropped = dropped
            lines.append(self._line(told))
        self._stream.write("".join(lines))
        self._stream.flush()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + "\n"
        except Exception as error:  # a bad record costs its line, not the others
            return f"a log record of {record.name} cannot be written: {type(error).__name__}\n"


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO paretoproxy: message trace_id=…`; the access log's fields follow as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        for name, value in _fields(record).items():
            line += f" {name}={value if not isinstance(value, str) or value.isalnum() else quoted(value)}"
        line = line.replace("\n", "\\n").replace("\r", "\\r")
        return "\n".join([line, *_exception(record)])


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, trace_id, exception, and the access log's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if exception := list(_exception(record)):
            line["exception"] = "\n".join(exception)
        return msgspec.json.encode(line).decode()


def quoted(value: str) -> str:
    """Quoted where it has to be, so that a line can be split again."""
    plain = value.isascii() and value.isprintable() and not any(char in value for char in ' "=\\')
    return value if plain and value else msgspec.json.encode(value).decode()


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The trace id, then those that a line was given as `extra={"fields": {…}}`."""
    trace_id = getattr(record, "trace_id", None)
    fields: dict[str, Any] = {"trace_id": trace_id} if trace_id is not None else {}
    fields.update(getattr(record, "fields", {}))
    return fields


def _exception(record: logging.LogRecord) -> Iterator[str]:
    if not record.exc_info or record.exc_info[1] is None:
        return
    told = traceback.TracebackException.from_exception(record.exc_info[1])
    if getattr(record, "trace_id", None) is not None:
        _withhold(told)
    yield from "".join(told.format()).rstrip("\n").split("\n")


def _withhold(told: traceback.TracebackException) -> None:
    """Leave the classes and places of an exception and of those that it came from."""
    pending, seen = [told], set[int]()
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each._str = _WITHHELD  # type: ignore[attr-defined]  # the only way to leave out the text
        each.__notes__ = None
        pending += [next_ for next_ in (each.__cause__, each.__context__) if next_ is not None]
        pending += each.exceptions or ()
