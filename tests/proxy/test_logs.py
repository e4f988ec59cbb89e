"""Log lines: text or JSON, with the request's trace id, off the loop, and without what an exception of one says."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_rig import Fleet, chat, vote
from scripted_backend import until

from proxy import access_log, logs
from proxy.config import load, with_server
from proxy.current import current_trace
from proxy.trace import Trace

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


class Gate(io.StringIO):
    """A pipe whose reader has stopped until `opened`."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def write(self, text: str) -> int:
        self.opened.wait(5)
        return super().write(text)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the whole process logs meanwhile, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, before = logs.LogHandler(stream, logs.JsonFormatter()), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)
    handler.close()


def record(message: str, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("paretoproxy", logging.WARNING, __file__, 1, message, None, None)
    made.__dict__.update(more)
    return made


def raised(text: str) -> Any:
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            raise ValueError(text) from cause
    except ValueError:
        return sys.exc_info()


def test_a_json_line_is_one_object_whatever_is_in_the_message() -> None:
    line = logs.JsonFormatter().format(record('two\nlines, "quoted"', trace_id=TRACE_ID))
    told = json.loads(line)
    assert "\n" not in line and told.pop("time").endswith("Z")
    assert told == {
        "level": "warning",
        "logger": "paretoproxy",
        "message": 'two\nlines, "quoted"',
        "trace_id": TRACE_ID,
    }


def test_a_text_line_stays_one_line_and_can_be_split_again() -> None:
    line = logs.TextFormatter().format(record("one\ntwo", trace_id=TRACE_ID, fields={"a": "b c", "n": 3, "x": None}))
    assert line.endswith(f'WARNING paretoproxy: one\\ntwo trace_id={TRACE_ID} a="b c" n=3 x=None')


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
def test_an_exception_of_a_request_is_told_by_class_and_place_only(formatter: logging.Formatter) -> None:
    line = formatter.format(record("failed", trace_id=TRACE_ID, exc_info=raised("CANARY")))
    assert "CANARY" not in line and "ValueError" in line and "KeyError" in line and "test_logs.py" in line
    assert "CANARY" in formatter.format(record("failed", exc_info=raised("CANARY")))


def test_a_reader_that_stops_stops_nobody_and_what_was_dropped_is_told() -> None:
    stream = Gate()
    handler = logs.LogHandler(stream, logs.TextFormatter(), size=10)
    for number in range(100):
        handler.emit(record(f"line {number}"))
    assert handler.dropped >= 90 - 64
    stream.opened.set()
    handler.flush()
    handler.emit(record("the next"))
    handler.close()
    assert "log lines were dropped" in stream.getvalue() and "the next" in stream.getvalue()


def test_records_of_a_request_have_its_trace_id(stream: io.StringIO) -> None:
    token = current_trace.set(TRACE_ID)
    logging.getLogger("paretoproxy").info("inside")
    current_trace.reset(token)
    logging.getLogger("paretoproxy").info("outside")
    for handler in logging.getLogger().handlers:
        handler.flush()
    inside, outside = [line for line in lines(stream) if line["logger"] == "paretoproxy"]
    assert inside["trace_id"] == TRACE_ID and "trace_id" not in outside


async def test_the_access_log_has_a_line_per_request(fleet: Fleet, stream: io.StringIO) -> None:
    _, proxy = await fleet.one(server={"access_log": True})
    answer = await proxy.ask(vote(2), traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
    await proxy.ask(chat(model="no such\nmodel"))

    def access() -> list[dict[str, Any]]:
        return [line for line in lines(stream) if line["logger"] == "paretoproxy.access"]

    await until(lambda: len(access()) == 2)
    voted, refused = access()
    assert voted["trace_id"] == TRACE_ID and voted["message"] == "/v1/chat/completions"
    assert (voted["status"], voted["outcome"], voted["strategy"], voted["n"]) == (
        200,
        "answered",
        "self-consistency",
        2,
    )
    assert voted["completion_tokens"] == answer.json()["usage"]["completion_tokens"] and voted["latency_ms"] > 0
    assert voted["cost_usd"] == pytest.approx(float(answer.headers["x-cost-usd"]), abs=1e-9)
    assert (refused["status"], refused["model"], refused["error_code"]) == (404, "unknown", "model_not_found")


async def test_no_access_log_unless_it_is_asked_for(fleet: Fleet, stream: io.StringIO) -> None:
    _, proxy = await fleet.one()
    await proxy.ask(chat())
    await proxy.trace()
    assert not [line for line in lines(stream) if line["logger"] == "paretoproxy.access"]


def test_the_access_log_tells_nothing_that_the_client_wrote() -> None:
    trace = Trace(TRACE_ID, 0.0, "/v1/completions", request_id="CANARY", model="CANARY", prompt="CANARY")
    assert "CANARY" not in str(access_log.fields(trace, "unknown"))


def test_serve_sends_all_loggers_through_one_handler(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configured = logs.configure("json", "info")
    try:
        logging.getLogger("some.package").warning("Started")
        logging.getLogger("httpx").info("chatter")
        configured.flush()
        (line,) = capfd.readouterr().err.splitlines()
        assert json.loads(line)["logger"] == "some.package"
    finally:
        root.removeHandler(configured)
        configured.close()
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)


def test_the_command_line_overrides_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("server: {access_log: true}\nmodels: [{name: m, backends: [{name: a, url: http://a}]}]")
    config = load(path, environ={})
    assert with_server(config, {}).server == config.server
    changed = with_server(config, {"log_format": "json", "access_log": False}).server
    assert (changed.log_format, changed.access_log) == ("json", False)
