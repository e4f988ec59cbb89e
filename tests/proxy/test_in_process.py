"""The whole real proxy in virtual time: the same answers, deadlines, failures and accounts as over sockets."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import msgspec
import pytest
from simulation_rig import QUESTIONS, STEP, chat, make_profile, served, write_config
from virtual_world import World, live

from profiler import profile_file
from profiler.simulation.clock import LoopClock
from profiler.simulation.faults import Fault
from profiler.simulation.loop import VirtualLoop, run_virtually
from profiler.steptime import StepTime
from proxy.branch import BranchStream
from proxy.config import ConfigError, load
from proxy.in_process import InProcessPool
from proxy.in_process_client import Answer
from proxy.simulated_fleet import Simulation, simulated_backends
from proxy.upstream.fetch import fetch
from proxy.upstream.pool import Limits, Origin
from strategies.answers.extract import extract

VOTE = {"tts": {"strategy": "self-consistency", "n": 8, "stop": "all"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path, "a", "b")


@pytest.mark.parametrize("few", [False, True])
def test_a_vote_is_answered_priced_and_traced(path: Path, few: bool) -> None:
    async def story(world: World) -> None:
        answer = await world.ask(**VOTE, slo={"latency_ms": 5000})
        assert answer.status == 200
        told = answer.json()["usage"]["tts"]
        assert (told["n"], told["completed"], told["slo_status"]) == (8, 8, "met")
        assert extract(answer.json()["choices"][0]["message"]["content"])
        [trace] = world.traces
        assert trace.latency_ms == pytest.approx(answer.latency_s * 1e3, abs=0.01)
        longest = max(branch.completion_tokens for branch in trace.branches)
        assert answer.latency_s == pytest.approx(STEP.p0_s + longest * 1.2e-3, rel=0.3)
        firsts = [branch.first_token_ms for branch in trace.branches]
        assert all(first is not None and 4 < first < 30 for first in firsts)

    live(path, story, few=few)


@pytest.mark.parametrize("few", [False, True])
def test_a_deadline_cuts_and_cut_branches_keep_what_they_had(path: Path, few: bool) -> None:
    async def story(world: World) -> list[int]:
        answer = await world.ask(**VOTE, slo={"latency_ms": 120})
        assert answer.latency_s == pytest.approx(0.12, abs=0.03) and answer.latency_s <= 0.12
        [trace] = world.traces
        cut = [branch for branch in trace.branches if branch.outcome == "cancelled"]
        assert cut and all(60 < branch.completion_tokens < 130 for branch in cut)
        return [branch.completion_tokens for branch in cut]

    live(path, story, few=few)


def test_few_chunks_change_nothing_but_the_chunks(path: Path) -> None:
    async def story(world: World) -> list[tuple[float, int]]:
        answers = await asyncio.gather(*(world.ask(question=q.question, **VOTE) for q in QUESTIONS[:6]))
        return [(round(a.latency_s, 9), a.json()["usage"]["completion_tokens"]) for a in answers]

    assert live(path, story) == live(path, story, few=True)


def test_progress_is_seen_although_chunks_are_few(path: Path) -> None:
    """What watches its branches gets their chunks, whatever the pool saves elsewhere."""

    async def story(world: World) -> None:
        heard = []
        backend = world.service.catalog.backends[0]
        over = asyncio.Event()
        branch = BranchStream(0, backend, world.service.clock, lambda branch: over.set())
        branch.tell_progress(16, lambda branch: heard.append(branch.completion_tokens))
        body = {**chat(temperature=0), "stream": True, "stream_interval": 16}
        body |= {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        request = backend.head("/v1/chat/completions").with_body(msgspec.json.encode(body))
        branch.exchange = backend.pool.send(request, branch)
        await over.wait()
        assert len(heard) >= QUESTIONS[0].greedy.tokens // 16
        assert backend.capabilities is not None and backend.capabilities.able["continuation"]

    live(path, story, few=True)


def test_streams_and_pass_through(path: Path) -> None:
    async def story(world: World) -> None:
        plain = await world.ask(temperature=0)
        assert plain.json()["usage"]["completion_tokens"] == QUESTIONS[0].greedy.tokens
        streamed = await world.ask(temperature=0, stream=True)
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        assert streamed.first_byte_at is not None and streamed.ended_at is not None
        assert streamed.first_byte_at < streamed.ended_at - 0.05
        voted = await world.ask(stream=True, **VOTE)
        assert voted.body.startswith(b": ") and voted.body.endswith(b"data: [DONE]\n\n")

    live(path, story)


def test_a_client_that_leaves_takes_its_branches_along(path: Path) -> None:
    async def story(world: World) -> None:
        loop = asyncio.get_running_loop()
        answer = await world.ask(**VOTE, on_client=lambda client: loop.call_later(0.05, client.leave))
        assert answer.left and not answer.parts
        assert world.traces[0].outcome == "client_gone"
        assert answer.latency_s == pytest.approx(0.05, abs=0.01)

    live(path, story)


def test_a_dead_backend_is_left_out_and_comes_back(path: Path) -> None:
    async def story(world: World) -> None:
        world.fleet["a"].inflict(Fault("die"))
        answers = [await world.ask(**VOTE) for _ in range(4)]
        assert {answer.header("x-tts-backend") for answer in answers} == {"b"}
        await asyncio.sleep(3)
        assert [backend.health.serving for backend in world.service.catalog.backends] == [False, True]
        world.fleet["a"].inflict(Fault("revive"))
        await asyncio.sleep(3)
        assert all(backend.health.serving for backend in world.service.catalog.backends)

    live(path, story)


def test_branches_lost_midway_are_no_lost_request(path: Path) -> None:
    async def story(world: World) -> None:
        async def kill() -> None:
            await asyncio.sleep(0.03)
            busy = next(backend for backend in world.fleet.values() if backend.engine.running)
            busy.inflict(Fault("die"))

        answer, _ = await asyncio.gather(world.ask(**VOTE), kill())
        assert answer.status == 200
        outcomes = [branch.outcome for branch in world.traces[0].branches]
        assert outcomes.count("failed") == 8 and outcomes.count("completed") == 8

    live(path, story)


def test_a_stalled_backend_ends_by_the_read_timeout(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await asyncio.sleep(1)  # the probes of what it can are over
        world.fleet["a"].inflict(Fault("stall"))
        began = asyncio.get_running_loop().time()
        answer = await world.ask(**VOTE)
        assert answer.status == 502
        assert asyncio.get_running_loop().time() - began == pytest.approx(Limits().read_timeout_s, abs=1)

    live(write_config(tmp_path, "a"), story)


def test_the_same_seed_gives_the_same_minute_of_traffic(path: Path) -> None:
    async def story(world: World) -> list[tuple[str | None, float, int]]:
        random, answers = Random(1), list[Answer]()

        async def one() -> None:
            question = random.choice(QUESTIONS).question
            answers.append(await world.ask(question=question, slo={"latency_ms": 600}))

        async with asyncio.TaskGroup() as group:
            for _ in range(120):
                await asyncio.sleep(random.expovariate(20))
                group.create_task(one())
        return [(a.header("x-tts-backend"), a.latency_s, a.status) for a in answers]

    first, again = (live(path, story, few=True, seed=3) for _ in range(2))
    other = live(path, story, few=True, seed=4)
    assert first == again != other
    assert {backend for backend, _, _ in first} == {"a", "b"}


def test_no_more_exchanges_than_the_pool_allows(path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fleet = simulated_backends(load(path, {}), LoopClock(loop), Simulation(noise=False))
        pool = InProcessPool(Origin.parse("http://a:1"), fleet["a"], Limits(max_connections=2))
        body = msgspec.json.encode({"model": "m", "prompt": "x", "max_tokens": 50, "ignore_eos": True})
        request = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n\r\n" + body
        asking = [asyncio.create_task(fetch(pool, request, 60)) for _ in range(5)]
        await asyncio.sleep(0.02)
        assert (pool.busy_connections, fleet["a"].engine.running) == (2, 2)
        asking[4].cancel()
        answers = await asyncio.gather(*asking[:4])
        assert [status for status, _ in answers] == [200] * 4
        await pool.aclose()
        assert pool.busy_connections == 0

    run_virtually(main())


def test_models_that_are_not_simulated_are_told(path: Path) -> None:
    text = path.read_text().replace(
        "- backends:", "- embedding_model: {name: e, url: http://x:1, kind: embedding}\n  backends:"
    )
    path.write_text(text)

    async def story(world: World) -> None: ...

    with pytest.raises(ConfigError, match="e: reward and embedding models are not simulated"):
        live(path, story)


def test_closing_a_pool_fails_what_runs(path: Path) -> None:
    async def main() -> None:
        fleet = simulated_backends(load(path, {}), LoopClock(asyncio.get_running_loop()))
        pool = InProcessPool(Origin.parse("http://a:1"), fleet["a"])
        request = b'POST /v1/completions HTTP/1.1\r\n\r\n{"model":"m","prompt":"x","max_tokens":50}'
        asking = asyncio.create_task(fetch(pool, request, 60))
        await asyncio.sleep(0.01)
        await pool.aclose()
        with pytest.raises(Exception, match="the pool is closed"):
            await asking
        assert fleet["a"].engine.queued == 0

    run_virtually(main())


# -- both clocks --

SLOW = StepTime.linear(c0_s=8e-3, c_tok_s=2e-4, c_kv_s=1e-8, p0_s=0.03, p_tok_s=1e-4)
ARRIVALS = [(0.06 * k, 40 + 17 * k % 130) for k in range(16)]


async def _latencies(post: Callable[[dict[str, Any]], Awaitable[Any]]) -> list[float]:
    """Of requests that come at set times and so overlap in set ways."""
    loop = asyncio.get_running_loop()

    async def one(at_s: float, tokens: int) -> float:
        await asyncio.sleep(at_s)
        began = loop.time()
        body = {"model": "m", "prompt": [tokens + 300] * 64, "max_tokens": tokens, "ignore_eos": True}
        await post(body)
        return loop.time() - began

    return await asyncio.gather(*(one(at_s, tokens) for at_s, tokens in ARRIVALS))


def test_wall_time_over_http_and_virtual_time_agree(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    profile_file.write(make_profile(step_time=SLOW), tmp_path / "a.json")

    async def over_http() -> list[float]:
        async with served(path) as sim:
            return await _latencies(lambda body: sim.client.post("/v1/completions", json=body))

    async def in_process() -> list[float]:
        fleet = simulated_backends(load(path, {}), LoopClock(asyncio.get_running_loop()), Simulation(noise=False))
        pool = InProcessPool(Origin.parse("http://a:1"), fleet["a"])

        async def post(body: dict[str, Any]) -> None:
            status, _ = await fetch(
                pool, b"POST /v1/completions HTTP/1.1\r\n\r\n" + msgspec.json.encode(body), timeout_s=60
            )
            assert status == 200

        try:
            return await _latencies(post)
        finally:
            await pool.aclose()

    virtual = run_virtually(in_process())
    wall = asyncio.run(over_http())
    assert median(w / v for w, v in zip(wall, virtual, strict=True)) == pytest.approx(1.0, abs=0.03)


def test_a_virtual_loop_is_what_these_tests_run_on(path: Path) -> None:
    async def story(world: World) -> None:
        assert isinstance(asyncio.get_running_loop(), VirtualLoop)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(600)  # the probes look 1,200 times meanwhile
        assert asyncio.get_running_loop().time() - began == pytest.approx(600)

    live(path, story)
