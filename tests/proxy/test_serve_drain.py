"""SIGTERM: nobody new, everybody finishes, and what cannot is told so; the traces of all are there afterwards."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from http_rig import CHAT, Events, chat
from scripted_backend import ScriptedBackend, drips, says, stalls, until
from served import ServedProxy, serving, write_fleet


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    backend = ScriptedBackend()
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
def config(tmp_path: Path, backend: ScriptedBackend) -> Path:
    path = tmp_path / "fleet.yaml"
    write_fleet(path, backend, grace_s=4)
    return path


def outcomes(proxy: ServedProxy) -> dict[str, str]:
    return {name: json.loads(record).get("outcome", "answered") for name, record in proxy.traces()}


async def test_running_requests_finish_and_nobody_new_gets_in(config: Path, backend: ScriptedBackend) -> None:
    held = asyncio.Event()
    backend.will(says("one", when=held), says("two", when=held))
    async with serving(config) as proxy:
        whole = asyncio.create_task(proxy.ask(request_id="whole"))
        streamed = asyncio.create_task(proxy.ask(request_id="streamed", stream=True))
        await backend.generation(1)
        proxy.signal(signal.SIGTERM)
        await proxy.says("2 requests are running")
        with pytest.raises(httpx.ConnectError):
            await proxy.ask()
        held.set()
        first, second = await whole, await streamed
        assert first.status_code == second.status_code == 200
        assert first.headers["connection"] == "close", "the last answer on its connection says so"
        assert Events(second.text).done
        assert await proxy.exit_status() == 0
        assert outcomes(proxy) == {"whole": "answered", "streamed": "answered"}


async def test_during_the_delay_it_is_not_ready_but_serves(config: Path, backend: ScriptedBackend) -> None:
    write_fleet(config, backend, grace_s=8, drain_delay_s=1.5)
    async with serving(config) as proxy:
        async with httpx.AsyncClient(base_url=proxy.client.base_url, trust_env=False, verify=False) as kept:
            assert "connection" not in (await kept.post(CHAT, json=chat())).headers
            proxy.signal(signal.SIGTERM)
            await proxy.says("still serving")
            answer = await kept.post(CHAT, json=chat())
            assert answer.status_code == 200, "an idle connection carries one more"
            assert answer.headers["connection"] == "close"
        told = await proxy.client.get("/ready")
        assert told.status_code == 503 and told.json()["draining"] is True
        assert (await proxy.client.get("/health")).status_code == 200
        assert (await proxy.ask()).status_code == 200
        assert await proxy.exit_status() == 0


async def test_what_still_runs_at_the_end_of_the_grace_is_cut_and_told(config: Path, backend: ScriptedBackend) -> None:
    write_fleet(config, backend, grace_s=2)
    backend.will(stalls(), drips(0.05), says("\\boxed{7}"), stalls(), stalls(), drips(0.05), stalls(), stalls())
    vote = {"tts": {"strategy": "self-consistency", "n": 3, "stop": "all"}}
    async with serving(config) as proxy:
        asks = [
            asyncio.create_task(proxy.ask(request_id=name, **members))
            for name, members in {
                "whole": {},
                "stream": {"stream": True},
                "vote": vote,
                "streamed-vote": {**vote, "stream": True},
            }.items()
            if await _settled(backend)
        ]
        await until(lambda: len(backend.generations) == 8)
        began = time.monotonic()
        proxy.signal(signal.SIGTERM)
        whole, stream, voted, streamed = await asyncio.gather(*asks)
        assert await proxy.exit_status() == 0
        assert 1.4 < time.monotonic() - began < 4, "2 s, and what a busy machine adds"

        assert whole.status_code == 503
        assert whole.json()["error"]["code"] == "shutting_down"
        assert whole.headers["retry-after"] and whole.headers["connection"] == "close"
        *_, last = Events(stream.text).chunks
        assert last["error"]["code"] == "shutting_down"
        assert voted.status_code == 200, "a vote answers with what it has"
        assert voted.json()["usage"]["tts"]["completed"] == 1
        assert "shutting down" in voted.json()["usage"]["tts"]["note"]
        assert Events(streamed.text).finish_reasons == ["length"], "no finished branch: the longest unfinished one"

        found = outcomes(proxy)
        assert found == {"whole": "failed", "stream": "failed", "vote": "answered", "streamed-vote": "answered"}
        record = dict(proxy.traces())
        assert "shutting down" in record["whole"] and "shutting down" in record["vote"]


async def _settled(backend: ScriptedBackend) -> bool:
    """What was asked so far has reached the backend: the script is told in order."""
    seen = -1
    while seen != len(backend.generations):
        seen = len(backend.generations)
        await asyncio.sleep(0.3)
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(config: Path, backend: ScriptedBackend, number: signal.Signals) -> None:
    write_fleet(config, backend, grace_s=60)
    backend.otherwise = stalls()
    async with serving(config) as proxy:
        asking = asyncio.create_task(proxy.ask(request_id="cut"))
        await backend.generation(0)
        proxy.signal(signal.SIGTERM)
        await proxy.says("1 requests are running")
        proxy.signal(number)
        assert await proxy.exit_status(10) == 1
        assert (await asking).status_code == 503
        assert outcomes(proxy) == {"cut": "failed"}


async def test_an_idle_proxy_leaves_in_no_time(config: Path) -> None:
    async with serving(config) as proxy:
        began = time.monotonic()
        proxy.signal(signal.SIGINT)
        assert await proxy.exit_status() == 0
        assert time.monotonic() - began < 5
