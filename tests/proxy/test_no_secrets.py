"""What a client asks, what it is answered, and every key: in no log line, span, metric or trace, also where a backend
repeats them in its errors.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import yaml
from collector import HttpCollector
from http_rig import CHAT, Fleet, RunningProxy
from own_strategies import strategy
from scripted_backend import Play, answers, begins, dies, says, sends, tells, until

from proxy import logs
from strategies.base import Context, Outcome

PROMPT, ANSWER, THOUGHT = "CANARY-prompt-7141", "CANARY-answer-2718", "CANARY-thought-1618"
CLIENT_KEY, UPSTREAM_KEY, OTHER_KEY = "CANARY-client-key", "CANARY-upstream-key", "CANARY-wrong-key"
ECHO = f"{PROMPT} {ANSWER} {UPSTREAM_KEY} {CLIENT_KEY}"
CANARY = b"CANARY"


@pytest.fixture(autouse=True)
def upstream_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", UPSTREAM_KEY)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that the process logs, in debug."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, before = logs.LogHandler(stream, logs.JsonFormatter()), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    # A test's own client and collector are no part of the proxy.
    for name in ("httpx", "httpcore", "urllib3", "asyncio", "hpack"):
        logging.getLogger(name).setLevel(logging.WARNING)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)
    handler.close()


async def proxied(fleet: Fleet, collector: HttpCollector, *own: Any, **sections: Any) -> RunningProxy:
    """With a client's key, a backend's key, a collector, and the access log."""
    keys = fleet._folder / "keys.yaml"
    keys.write_text(yaml.safe_dump([CLIENT_KEY]))
    proxy = await fleet.proxy(
        *own,
        server={"api_keys": str(keys), "access_log": True},
        **{"traces": {"path": "traces.db", "otlp_endpoint": collector.url}, **sections},
    )
    proxy.client.headers["authorization"] = f"Bearer {CLIENT_KEY}"
    for served in proxy.service.catalog.backends:
        served.heads.clear()
        served.api_key = UPSTREAM_KEY
    return proxy


def asked(**members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"{PROMPT}: 2 + 2?"}], **members}


VOTE = {"strategy": "self-consistency", "n": 2, "stop": "all"}
BODY = json.dumps({"error": {"message": ECHO, "type": "BadRequestError", "code": 400}}).encode()
EVENT = json.dumps({"error": {"message": ECHO, "type": "InternalServerError", "code": 500}}).encode()
SAYS = says(f"<think>{THOUGHT}</think>{ANSWER} \\boxed{{{ANSWER}}}")
PLAYS: dict[str, Play] = {
    "answers": SAYS,
    "refuses with an echo": answers(400, BODY),
    "breaks with an echo": answers(500, ECHO.encode(), kind="text/plain"),
    "an echo in an event": tells(EVENT),
    "an event that is no chunk": tells(f'{{"choices": "{ECHO}"}}'.encode()),
    "an event that is no JSON": tells(f"{{{ECHO}".encode()),
    "no HTTP": sends(f"{ECHO}\r\n\r\n".encode()),
    "an unknown transfer coding": sends(f"HTTP/1.1 200 OK\r\ntransfer-encoding: {ECHO}\r\n\r\n".encode()),
    "dies": dies(f"{ANSWER} \\boxed{{{ANSWER}}}", after=2),
    "never ends": begins(f"{ANSWER} \\boxed{{{ANSWER}}}", after=3),
}


async def everything(fleet: Fleet, proxy: RunningProxy, collector: HttpCollector, logged: io.StringIO) -> bytes:
    """All that is told of what has happened: the page of metrics, the stored traces, spans, logs."""
    page = (await proxy.client.get("/metrics")).content
    stored = (await proxy.client.get("/v1/traces?limit=1000")).content
    await proxy.service.aclose()
    for handler in logging.getLogger().handlers:
        handler.flush()
    assert collector.received.spans and collector.received.metrics and "paretoproxy.access" in logged.getvalue()
    database = b"".join(path.read_bytes() for path in fleet._folder.glob("traces.db*"))
    return b"\n".join([page, stored, database, *collector.received.raw, logged.getvalue().encode()])


def assert_no_canary(told: bytes) -> None:
    at = told.find(CANARY)
    assert at < 0, told[max(0, at - 300) : at + 100]


async def test_on_every_path_nothing_is_told(collector: HttpCollector, fleet: Fleet, logged: io.StringIO) -> None:
    backend = await fleet.backend()
    proxy = await proxied(fleet, collector)
    requests = 0
    for play in PLAYS.values():
        backend.otherwise = play
        for body in (asked(), asked(stream=True), asked(tts=VOTE), asked(tts=VOTE, stream=True)):
            slo = {"x-slo-latency-ms": "400"} if "tts" in body else {}
            with suppress(httpx.HTTPError):  # a cut answer, or one that never ends: the client leaves
                await proxy.client.post(CHAT, json=body, headers=slo, timeout=1)
            requests += 1
    backend.otherwise = SAYS
    await proxy.client.post(CHAT, content=f'{{"model": "m", "messages": "{PROMPT}'.encode())
    await proxy.client.post(CHAT, json={"model": "m", "messages": PROMPT, "n": PROMPT})
    await proxy.client.post(CHAT, json=asked(tts=VOTE), headers={"authorization": f"Bearer {OTHER_KEY}"})
    await proxy.client.post("/v1/embeddings", json={"model": "m", "input": PROMPT})
    requests += 4
    assert backend.generations[0].header("authorization") == f"Bearer {UPSTREAM_KEY}"
    await until(lambda: proxy.service.traces.written == requests, 10)
    assert_no_canary(await everything(fleet, proxy, collector, logged))


async def test_a_fault_of_our_own_is_told_without_the_request(
    collector: HttpCollector, fleet: Fleet, logged: io.StringIO
) -> None:
    async def breaks(context: Context) -> Outcome:
        raise RuntimeError(f"no rule for {context.question}")

    await fleet.backend()
    proxy = await proxied(fleet, collector, strategy(breaks))
    answer = await proxy.ask(asked(tts={"strategy": "own"}))
    assert answer.status_code == 502
    await until(lambda: proxy.service.traces.written == 1, 10)
    told = await everything(fleet, proxy, collector, logged)
    assert b"RuntimeError" in told and b"test_no_secrets.py" in told, "the operator learns what and where"
    assert_no_canary(told)


async def test_a_reward_model_that_echoes(collector: HttpCollector, fleet: Fleet, logged: io.StringIO) -> None:
    backend = await fleet.backend()
    backend.otherwise = SAYS
    reward = await fleet.pooled("outcome")
    reward.plays["/classify"] = answers(400, BODY)
    proxy = await proxied(fleet, collector)
    await proxy.ask(asked(tts={"strategy": "best-of-n", "n": 2, "scorer": "reward"}))
    await until(lambda: proxy.service.traces.written == 1, 10)
    assert_no_canary(await everything(fleet, proxy, collector, logged))


async def test_an_operator_who_wants_them_stored_has_them_there_alone(
    collector: HttpCollector, fleet: Fleet, logged: io.StringIO
) -> None:
    backend = await fleet.backend()
    backend.otherwise = SAYS
    traces = {"path": "traces.db", "otlp_endpoint": collector.url, "store_prompts": True}
    proxy = await proxied(fleet, collector, traces=traces)
    await proxy.ask(asked(tts=VOTE))
    trace = await proxy.trace()
    assert PROMPT in str(trace["prompt"]) and ANSWER in trace["answer"]
    await everything(fleet, proxy, collector, logged)
    assert_no_canary(b"\n".join([*collector.received.raw, logged.getvalue().encode()]))
