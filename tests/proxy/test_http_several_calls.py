"""Strategies of several calls over HTTP: what backends are asked, and that only answers reach the client."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from http_rig import QUESTION, Fleet, chat
from raw_server import Peer
from scripted_backend import Received, answers, says, until

from strategies.mixture_of_agents import MixtureOfAgents
from strategies.registry import Registry
from strategies.self_refine import CRITIQUE, REVISE, SelfRefine
from strategies.strategy_uniform import SOLVE, StrategyUniform

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an older installation of this package has registered."""
    ours = (MixtureOfAgents, SelfRefine, StrategyUniform)
    known = {strategy.name: strategy for strategy in (*Registry.installed(), *ours)}
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: cls(known)))


def _by(strategy: str, **params: Any) -> dict[str, Any]:
    return chat(tts={"strategy": strategy, **params})


async def test_a_client_is_streamed_the_revision_and_nothing_of_the_steps_before(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(f"<think>hm</think>{FIVE}"), says("5 is wrong"), says(f"so {FOUR}"))

    events = await proxy.stream(_by("self-refine"))

    assert (events.text, events.finish_reasons) == (f"so {FOUR}", ["stop"])
    asked = [request.json["messages"] for request in backend.generations]
    review = [*QUESTION, {"role": "assistant", "content": FIVE}, {"role": "user", "content": CRITIQUE}]
    revise = [{"role": "assistant", "content": "5 is wrong"}, {"role": "user", "content": REVISE}]
    assert asked == [QUESTION, review, review + revise]


async def test_a_refused_critique_leaves_the_draft(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FIVE), answers(400, b'{"error": {"message": "too long"}}'))

    answer = await proxy.ask(_by("self-refine", rounds=2))

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == FIVE
    assert "round 1 of 2: no critique (it failed)" in answer.json()["usage"]["tts"]["note"]


async def test_ways_are_sampled_while_the_plain_sample_still_runs(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    never = asyncio.Event()

    async def plays(peer: Peer, request: Received) -> None:
        last = request.json["messages"][-1]["content"]
        plain, naming = last == QUESTION[0]["content"], last.startswith("Question:")
        play = says(FIVE, when=never) if plain else says("1. Count\n2. Add") if naming else says(FOUR)
        await play(peer, request)

    backend.otherwise = plays

    answer = await proxy.ask(_by("strategy-uniform", n=5, ways=2))

    assert answer.json()["choices"][0]["message"]["content"] == FOUR
    assert answer.json()["usage"]["tts"]["cancelled"] == 1
    asked = Counter(request.json["messages"][-1]["content"] for request in backend.generations)
    assert [asked[SOLVE.format(way=way)] for way in ("Count", "Add")] == [2, 2]
    await until(lambda: any(request.cancelled for request in backend.generations[:2]))


async def test_at_the_deadline_the_proposals_answer_without_an_aggregation(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FIVE), says(FOUR), says(FOUR), says("late", when=asyncio.Event()))

    answer = await proxy.ask(_by("mixture-of-agents", n=3), x_slo_latency_ms="1000")

    assert answer.json()["choices"][0]["message"]["content"] == FOUR
    assert "no aggregation (the deadline came)" in answer.json()["usage"]["tts"]["note"]
    await until(lambda: backend.generations[3].cancelled)
