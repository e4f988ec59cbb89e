"""Every strategy on real engines: whole and streamed, cut short by a deadline, with a branch that fails, and with a
client that leaves; nothing runs on afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from conftest import running_on, serving, until_idle
from cutting_relay import CuttingRelay
from openai import OpenAI

from proxy.config import Config
from strategies.registry import Registry

MESSAGES: Any = [{"role": "user", "content": "Start with 37. Then multiply by 4, subtract 48. What is the result?"}]
MODEL = "tinymath-s"
LOOSE = {"x-slo-latency-ms": "60000"}
ENDLESS = {"min_tokens": 1200, "max_tokens": 1500}  # seconds of decoding, whatever the machine
SLACK_S = 1.0  # two shared cores, with six engines and the test beside the proxy

SMALL: dict[str, dict[str, Any]] = {
    "none": {},
    "self-consistency": {"n": 4},
    "self-consistency in windows": {"n": 4, "stop": "esc", "window": 2},
    "weighted-vote by confidence": {"n": 4, "weight": "confidence", "window": 32},
    "weighted-vote by reward": {"n": 4, "weight": "reward"},
    "weighted-vote by steps": {"n": 4, "weight": "process-reward"},
    "first-finish": {"n": 4, "m": 2},
    "best-of-n": {"n": 4, "scorer": "reward"},
    "best-of-n by steps": {"n": 4, "scorer": "process-reward"},
    "best-of-n by certainty": {"n": 4, "scorer": "self-certainty"},
    "best-of-n by judge": {"n": 2, "scorer": "judge", "judge_tokens": 32},
    "universal-consistency": {"n": 3, "choice_tokens": 32, "answer_chars": 200},
    "beam-search": {"n": 4, "expand": 2, "max_steps": 12},
    "dvts": {"n": 4, "expand": 2, "max_steps": 12},
    "rebase": {"n": 4, "max_steps": 12},
    "particle-filter": {"n": 4, "max_steps": 12},
    "budget-forcing": {"waits": 1, "max_tokens": 400, "answer_tokens": 32},
    "deep-confidence": {"n": 6, "warmup": 2, "window": 32},
    "probe-consensus": {"n": 4, "every_tokens": 48},
    "slim-consistency": {"n": 4, "every_tokens": 32, "delimiter": "\n", "warmup_tokens": 32},
    "strategy-uniform": {"n": 4, "ways": 2, "naming_tokens": 32},
    "self-refine": {"rounds": 1, "critique_tokens": 32, "answer_chars": 200},
    "mixture-of-agents": {"n": 3, "answer_chars": 200},
    "recursive-aggregation": {"n": 3, "k": 2, "rounds": 1, "answer_chars": 200},
    "cascade": {"n": 3},
}
FIRSTS = {setting.split()[0]: setting for setting in reversed(SMALL)}.values()
EVERY_SETTING = pytest.mark.parametrize("setting", SMALL)
EVERY_STRATEGY = pytest.mark.parametrize("setting", FIRSTS)


def body_of(setting: str, **members: Any) -> dict[str, Any]:
    strategy = setting.split()[0]
    return {"model": MODEL, "messages": MESSAGES, "tts": {"strategy": strategy, **SMALL[setting]}, **members}


def test_no_installed_strategy_is_left_out() -> None:
    assert {setting.split()[0] for setting in SMALL} == set(Registry.installed().names)


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
    answer = httpx.post(f"{proxy_url}/v1/chat/completions", json=body_of(setting), headers=LOOSE, timeout=60)
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
        extra_body={"tts": body_of(setting)["tts"]},
    )
    text, finish = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            text, finish = text + (choice.delta.content or ""), choice.finish_reason or finish
    assert text and finish in ("stop", "length")


@EVERY_STRATEGY
def test_a_deadline_cuts_it_short(proxy_url: str, config: Config, setting: str) -> None:
    """Answered with what is there, in time, and nothing decodes on."""
    began = time.monotonic()
    headers = {"x-slo-latency-ms": "700"}
    answer = httpx.post(
        f"{proxy_url}/v1/chat/completions", json=body_of(setting, **ENDLESS), headers=headers, timeout=60
    )
    assert time.monotonic() - began < 0.7 + SLACK_S
    assert answer.status_code in (200, 504), answer.text
    if answer.status_code == 200:
        assert answer.json()["usage"]["tts"]["slo_status"] in ("degraded", "missed", "met")
    _all_idle(config)


@EVERY_STRATEGY
def test_a_branch_that_fails_is_no_failed_request(relayed_url: str, relay: CuttingRelay, setting: str) -> None:
    before = relay.cuts
    relay.cut_next()
    answer = httpx.post(f"{relayed_url}/v1/chat/completions", json=body_of(setting), headers=LOOSE, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert relay.cuts == before + 1


@EVERY_STRATEGY
def test_a_client_that_leaves_takes_everything_with_it(proxy_url: str, config: Config, setting: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{proxy_url}/v1/chat/completions", json=body_of(setting, **ENDLESS), timeout=httpx.Timeout(5, read=0.3)
        )
    _all_idle(config)


def _all_idle(config: Config) -> None:
    import asyncio

    urls = [backend.url for backend in config.backends() if backend.name in ("s-tp1", "m-tp1")]

    async def idle() -> None:
        for url in urls:
            if await running_on(url):
                await until_idle(url, 3.0)

    asyncio.run(idle())
