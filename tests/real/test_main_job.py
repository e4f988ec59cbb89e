"""The main job on real engines: an unmodified OpenAI client, a deadline in a header, an answer sampled several
times, and its cost."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from conftest import until_idle
from openai import AsyncOpenAI, OpenAI

from proxy.config import Config

MESSAGES: Any = [{"role": "user", "content": "Start with 37. Then multiply by 4, subtract 48. What is the result?"}]
LOOSE = {"x-slo-latency-ms": "20000"}


@pytest.fixture
def client(proxy_url: str) -> OpenAI:
    return OpenAI(base_url=f"{proxy_url}/v1", api_key="unused", max_retries=0)


def test_a_plain_client_with_a_deadline_gets_a_voted_answer_and_its_cost(client: OpenAI, proxy_url: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tinymath", messages=MESSAGES, extra_headers=LOOSE)
    answer, tts = raw.parse(), raw.parse().usage.tts  # type: ignore[union-attr]
    assert answer.choices[0].message.content and "boxed" in answer.choices[0].message.content
    assert int(raw.headers["x-tts-n"]) > 1
    assert tts["n"] == int(raw.headers["x-tts-n"]) and tts["completed"] >= 1
    assert tts["slo_status"] == "met" and tts["cost_usd"] > 0
    record = _trace(proxy_url, tts["trace_id"])
    assert len(record["branches"]) == tts["n"]
    assert record["completion_tokens"] == answer.usage.completion_tokens  # type: ignore[union-attr]
    assert sum(branch["gpu_seconds"] for branch in record["branches"]) == pytest.approx(tts["gpu_seconds"])


def test_streamed_with_usage(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tinymath",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"slo": {"latency_ms": 20000}},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "boxed" in text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.tts["n"] >= 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("suffix", ["none", "self-consistency:5", "first-finish:4"])
def test_each_strategy_runs_streamed_and_not(client: OpenAI, suffix: str, stream: bool) -> None:
    answer = client.chat.completions.create(
        model=f"tinymath-s@{suffix}", messages=MESSAGES, stream=stream, extra_headers=LOOSE
    )
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        if stream
        else answer.choices[0].message.content
    )
    assert text and "boxed" in text


def test_a_deadline_in_the_middle_answers_with_what_is_there(client: OpenAI) -> None:
    """No branch may end before the deadline: the longest unfinished one answers, in time."""
    endless = {"min_tokens": 1500, "max_tokens": 1600}  # seconds of decoding, whatever the machine
    began = time.monotonic()
    raw = client.chat.completions.with_raw_response.create(
        model="tinymath-s@self-consistency:4",
        messages=MESSAGES,
        extra_headers={"x-slo-latency-ms": "600"},
        extra_body=endless,
    )
    assert time.monotonic() - began < 1.0
    answer = raw.parse()
    assert answer.choices[0].finish_reason == "length"
    assert raw.headers["x-slo-status"] == "degraded"


async def test_losers_and_left_clients_stop_in_the_engine(proxy_url: str, config: Config) -> None:
    """vLLM itself says that nothing runs any more: after an early stop, and after the client has gone."""
    engine = next(backend.url for backend in config.backends() if backend.name == "s-tp1")
    client = AsyncOpenAI(base_url=f"{proxy_url}/v1", api_key="unused", max_retries=0)
    pinned = "tinymath-s@first-finish:8"
    await client.chat.completions.create(model=pinned, messages=MESSAGES, extra_headers=LOOSE)
    await until_idle(engine, 2.0)
    endless: Any = {"model": pinned, "messages": MESSAGES, "min_tokens": 1500, "max_tokens": 1600}
    async with httpx.AsyncClient(timeout=1.0) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            await impatient.post(f"{proxy_url}/v1/chat/completions", json=endless)
    await until_idle(engine, 2.0)


def test_greedy_requests_may_use_the_speculative_engine_and_sampled_ones_never(proxy_url: str) -> None:
    def usable(temperature: float | None) -> set[tuple[str, str]]:
        body = {"model": "tinymath-s", "messages": MESSAGES, "temperature": temperature}
        view = httpx.post(f"{proxy_url}/v1/plan", json=body, headers=LOOSE).json()
        return {(row["backend"], row["strategy"]) for row in view["candidates"]}

    assert usable(0) == {("s-tp1", "none"), ("s-ngram", "none")}
    assert {backend for backend, _ in usable(1.0)} == {"s-tp1"}
    # Of one that says nothing of sampling, the plan that asks at temperature 0 alone.
    assert {strategy for backend, strategy in usable(None) if backend == "s-ngram"} == {"none"}


def test_pass_through_is_upstreams_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tinymath-m", messages=MESSAGES, temperature=0)
    assert answer.usage is not None and not hasattr(answer.usage, "tts")
    assert "100" in (answer.choices[0].message.content or "")


def _trace(proxy_url: str, trace_id: str) -> dict[str, Any]:
    for _ in range(30):
        response = httpx.get(f"{proxy_url}/v1/traces/{trace_id}")
        if response.status_code == 200:
            found: dict[str, Any] = response.json()
            return found
        time.sleep(0.1)
    pytest.fail("the trace was not stored within 3 s")
