"""Log probabilities for a strategy: it reads them, and the client gets those that it asked for itself, no others."""

from typing import Any

import pytest
from http_rig import Fleet
from own_strategies import NAME, pinned, ranked, strategy
from scripted_backend import says

from strategies.base import TOP_LOGPROBS, Context, Generation, Outcome

FOUR = "\\boxed{4}"
TOPS = [[-0.5, -1.5, -4.0], [-1.0, -9999.0], [-0.25, -2.25]]
PER_TOKEN = [2.0, 1.0, 1.25]  # minus their means; what is not known is left out


async def run(fleet: Fleet, body: dict[str, Any], path: str, *, stream: bool) -> tuple[Any, Any, list[Any]]:
    """(what the backend was asked, the client's choices or chunks, the confidences that the strategy saw)."""
    seen: list[list[float]] = []

    async def confident(context: Context) -> Outcome:
        async with context.sample([Generation(confidence=True)]) as arrivals:
            branches = [branch async for branch in arrivals]
        seen.append(list(branches[0].confidence))
        return ranked(branches)

    backend, proxy = await fleet.one(strategy(confident, branches=1, waves=1))
    backend.will(says(FOUR, tops=TOPS))
    if stream:
        events = await proxy.stream(body, path)
        assert events.text == FOUR
        told: Any = [choice["logprobs"] for chunk in events.chunks for choice in chunk["choices"]]
    else:
        answer = await proxy.ask(body, path)
        assert answer.status_code == 200, answer.text
        told = answer.json()["choices"][0]["logprobs"]
    return backend.generations[0].json, told, seen


whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@whole_or_streamed
async def test_a_client_that_did_not_ask_sees_none(fleet: Fleet, stream: bool) -> None:
    asked, told, seen = await run(fleet, pinned(), CHAT, stream=stream)

    assert (asked["logprobs"], asked["top_logprobs"]) == (True, TOP_LOGPROBS)
    assert seen == [pytest.approx(PER_TOKEN)]
    assert not any(told) if stream else told is None


@whole_or_streamed
@pytest.mark.parametrize("top", [0, 2])
async def test_one_that_asked_sees_as_many_as_it_asked_for(fleet: Fleet, stream: bool, top: int) -> None:
    asked, told, _ = await run(fleet, pinned(logprobs=True, top_logprobs=top), CHAT, stream=stream)

    assert asked["top_logprobs"] == TOP_LOGPROBS
    tokens = [token for part in told if part for token in part["content"]] if stream else told["content"]
    assert [token["logprob"] for token in tokens] == [tops[0] for tops in TOPS]
    assert [len(token["top_logprobs"]) for token in tokens] == [min(top, len(tops)) for tops in TOPS]


@whole_or_streamed
async def test_a_text_completion_has_its_own_shape_of_them(fleet: Fleet, stream: bool) -> None:
    body = {"model": "m", "prompt": "2 + 2 =", "logprobs": 1, "tts": {"strategy": NAME}}

    asked, told, seen = await run(fleet, body, TEXT, stream=stream)

    assert asked["logprobs"] == TOP_LOGPROBS
    assert seen == [pytest.approx(PER_TOKEN)]
    tops = [top for part in told if part for top in part["top_logprobs"]] if stream else told["top_logprobs"]
    assert tops == [{"t0": best[0]} for best in TOPS]


async def test_a_client_that_asks_for_more_than_the_strategy_gets_them(fleet: Fleet) -> None:
    asked, _, _ = await run(fleet, pinned(logprobs=True, top_logprobs=TOP_LOGPROBS + 5), CHAT, stream=False)

    assert asked["top_logprobs"] == TOP_LOGPROBS + 5
