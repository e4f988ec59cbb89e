"""Every strategy on real engines: whole and streamed, cut short by a deadline, with a branch that fails, and with a
client that leaves; nothing runs on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from conftest import WITH_A_RERANKER, running_on, serving, until_idle
from cutting_relay import CuttingRelay
from every_setting import EVERY_SETTING, EVERY_STRATEGY, FIRSTS, tts_of
from openai import OpenAI

from proxy.config import Config

MESSAGES: Any = [{"role": "user", "content": "Start with 37. Then multiply by 4, subtract 48. What is the result?"}]
MODEL = "tinymath-s"
CHAT = "/v1/chat/completions"
LOOSE = {"x-slo-latency-ms": "60000"}
LOOSEST = {"x-slo-latency-ms": "600000"}  # a search that was never measured is predicted to take a minute
ENDLESS = {"min_tokens": 1200, "max_tokens": 1500}  # seconds of decoding, whatever the machine
SEARCHES = ("beam-search", "dvts", "rebase", "particle-filter")  # between two steps rewards are asked, nothing decodes
AUTO = "auto"
EVERY_STRATEGY_AND_AUTO = pytest.mark.parametrize("setting", [*FIRSTS, AUTO])
SLACK_S = 1.0  # two shared cores, with six engines and the test beside the proxy


def endless(setting: str, **members: Any) -> dict[str, Any]:
    """It decodes for seconds."""
    body = body_of(setting, **ENDLESS, **members)
    if setting == "budget-forcing":  # whose parts are as long as it says
        body["tts"] |= {"waits": 8, "max_tokens": 1500}
    return body


def body_of(setting: str, **members: Any) -> dict[str, Any]:
    tts = {"strategy": AUTO} if setting == AUTO else tts_of(setting)
    return {"model": MODEL, "messages": MESSAGES, "tts": tts, **members}


@pytest.fixture(scope="session")
def relay(config: Config) -> Iterator[CuttingRelay]:
    """In front of the engine that every pinned request here goes to."""
    target = urlsplit(next(backend.url for backend in config.backends() if backend.name == "s-tp1"))
    with CuttingRelay(str(target.hostname), target.port or 80) as relay:
        yield relay


@pytest.fixture(scope="session")
def relayed_url(fleet: Path, config: Config, relay: CuttingRelay) -> Iterator[str]:
    """A second proxy, which reaches that engine through the relay, and, dearer, directly: where a lone branch fails
    there is somewhere else to go."""
    relayed = yaml.safe_load(fleet.read_text())
    relayed["server"]["port"] = 8220
    relayed["traces"]["path"] = str(fleet.with_name("relayed.db"))
    model = next(model for model in relayed["models"] if model["name"] == MODEL)
    through = next(backend for backend in model["backends"] if backend["name"] == "s-tp1")
    direct = {**through, "name": "s-direct", "gpu_hour_usd": 100.0}
    through["url"] = f"http://127.0.0.1:{relay.port}"
    model["backends"] = [through, direct]
    relayed["reliability"] = {"breaker": None, "outliers": None}  # it fails often here, and is to be asked every time
    path = fleet.with_name("relayed.yaml")
    path.write_text(yaml.safe_dump(relayed))
    with serving(path, "http://127.0.0.1:8220") as url:
        yield url


@EVERY_SETTING
def test_whole_and_streamed(proxy_url: str, setting: str) -> None:
    if setting == "best-of-n by reranker" and not WITH_A_RERANKER:
        pytest.skip("RERANKER=1 starts a sixth engine for it")
    answer = httpx.post(f"{proxy_url}{CHAT}", json=body_of(setting), headers=LOOSE, timeout=60)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["usage"]["tts"]["strategy"] == setting.split()[0]
    assert told["choices"][0]["message"]["content"]
    assert told["usage"]["completion_tokens"] > 0 and told["usage"]["tts"]["cost_usd"] > 0

    client = OpenAI(base_url=f"{proxy_url}/v1", api_key="unused", max_retries=0)
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        stream=True,
        extra_headers=LOOSE,
        extra_body={"tts": tts_of(setting)},
    )
    text, finish = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            text, finish = text + (choice.delta.content or ""), choice.finish_reason or finish
    assert text and finish in ("stop", "length")


@EVERY_STRATEGY_AND_AUTO
async def test_a_deadline_cuts_it_short(proxy_url: str, config: Config, setting: str) -> None:
    """Whole and streamed, both at once: answered in time with what is there, something was cut, and nothing decodes
    on."""
    early = setting.split()[0] in (*SEARCHES, "probe-consensus")  # a quick machine is through, or agreed, within 0.5 s
    limit_s = 0.2 if early else 0.7

    async def cut(client: httpx.AsyncClient, *, stream: bool) -> None:
        trace_id = uuid.uuid4().hex
        headers = {"x-slo-latency-ms": f"{limit_s * 1e3:g}", "traceparent": f"00-{trace_id}-{trace_id[:16]}-01"}
        began = time.monotonic()
        answer = await client.post(CHAT, json=endless(setting, stream=stream), headers=headers)
        assert time.monotonic() - began < limit_s + SLACK_S
        assert answer.status_code in (200, 504), answer.text
        if stream and answer.status_code == 200:
            assert answer.text.endswith("data: [DONE]\n\n")
        trace = await _trace(client, trace_id)
        assert "cancelled" in [branch["outcome"] for branch in trace["branches"]] or setting in SEARCHES
        assert trace["slo_status"] in ("degraded", "missed")
        told = trace["latency_ms"], trace["selection"]
        assert answer.status_code == 504 or trace["selection"]["cut_by_deadline"], told

    async with httpx.AsyncClient(base_url=proxy_url, timeout=60) as client:
        await asyncio.gather(cut(client, stream=False), cut(client, stream=True))
    await _all_idle(config)


@EVERY_STRATEGY
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_branch_that_fails_is_no_failed_request(
    relayed_url: str, relay: CuttingRelay, config: Config, setting: str, stream: bool
) -> None:
    before = relay.cuts
    relay.cut_next()
    async with httpx.AsyncClient(base_url=relayed_url, timeout=60) as client:
        answer = await client.post(CHAT, json=body_of(setting, stream=stream), headers=LOOSEST)
    assert answer.status_code == 200, answer.text
    assert relay.cuts == before + 1
    if stream:
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        assert not any("error" in chunk for chunk in chunks), chunks
        choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
        assert any(choice.get("finish_reason") for choice in choices)
        assert any(choice["delta"].get("content") for choice in choices)
    else:
        assert answer.json()["choices"][0]["message"]["content"]
    await _all_idle(config)


@EVERY_STRATEGY_AND_AUTO
async def test_a_client_that_leaves_takes_everything_with_it(proxy_url: str, config: Config, setting: str) -> None:
    """Whole and streamed, both at once."""

    async def leave(client: httpx.AsyncClient, *, stream: bool) -> None:
        trace_id = uuid.uuid4().hex
        headers = {"traceparent": f"00-{trace_id}-{trace_id[:16]}-01"}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.post(CHAT, json=endless(setting, stream=stream), headers=headers)
        trace = await _trace(client, trace_id)
        assert trace["outcome"] == "client_gone"
        assert "cancelled" in [branch["outcome"] for branch in trace["branches"]] or setting in SEARCHES

    async with httpx.AsyncClient(base_url=proxy_url, timeout=60) as client:
        await asyncio.gather(leave(client, stream=False), leave(client, stream=True))
    await _all_idle(config)


async def _trace(client: httpx.AsyncClient, trace_id: str) -> dict[str, Any]:
    """Of that id, once it is written."""
    async with asyncio.timeout(5):
        while (answer := await client.get(f"/v1/traces/{trace_id}")).status_code != 200:
            await asyncio.sleep(0.05)
    trace: dict[str, Any] = answer.json()
    return trace


async def _all_idle(config: Config) -> None:
    """Those that answer and those that score."""
    scorers = [reward.url for model in config.models for reward in model.reward_model]
    for url in {*scorers, *(backend.url for backend in config.backends() if backend.name in ("s-tp1", "m-tp1"))}:
        if await running_on(url):
            await until_idle(url, 3.0)
