"""Streamed answers (on uvloop, as `serve` runs): valid SSE from the first moment, the winner's deltas, [DONE]."""

import asyncio
from typing import Any

import pytest
from http_rig import Events, Fleet, chat, vote
from scripted_backend import PROMPT_TOKENS, begins, says, stalls, until

from proxy import scale_stream

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


async def test_a_vote_streams_the_winners_deltas(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FIVE), says(FOUR, tokens=3), says(FOUR, tokens=5))

    events = await proxy.stream(vote(3))

    assert (events.text, events.finish_reasons, events.done) == (FOUR, ["stop"], True)
    assert events.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in events.chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in events.chunks}) == 1
    assert len([chunk for chunk in events.chunks if chunk["choices"][0]["delta"].get("content")]) == 3


async def test_usage_comes_in_a_last_chunk_only_if_asked_for(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says(FOUR, tokens=4)

    silent = await proxy.stream(vote(3))
    telling = await proxy.stream({**vote(3), **STREAM})

    assert silent.usage is None
    assert telling.chunks[-1]["choices"] == [] and telling.usage == telling.chunks[-1]["usage"]
    usage: dict[str, Any] = telling.usage or {}
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3 * PROMPT_TOKENS, 3 * 4)
    assert (usage["tts"]["n"], usage["tts"]["completed"], usage["tts"]["agreement"]) == (3, 3, 1.0)


async def test_the_headers_and_a_comment_come_before_the_vote_is_decided(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    decided = asyncio.Event()
    backend.otherwise = says(FOUR, when=decided)

    async with await proxy.connect() as client:
        await client.post({**vote(2), "stream": True})
        head = await client.read_until(b"\r\n\r\n")
        first = await client.read_until(b"\n\n")
        decided.set()
        rest = await client.read_until(b"data: [DONE]\n\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"x-tts-n: 2" in head
    assert first.endswith(b": paretoproxy\n\n")
    assert FOUR[:3].replace("\\", "\\\\").encode() in rest


async def test_keep_alive_comments_while_undecided(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_stream, "KEEP_ALIVE_EVERY_S", 0.01)
    backend, proxy = await fleet.one()
    decided = asyncio.Event()
    backend.otherwise = says(FOUR, when=decided)

    async with proxy.client.stream("POST", "/v1/chat/completions", json={**vote(2), "stream": True}) as response:
        text = ""
        async for part in response.aiter_text():
            text += part
            if text.count(": paretoproxy") == 4:
                decided.set()

    events = Events(text)
    assert (len(events.comments) >= 4, events.text, events.done) == (True, FOUR, True)


@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
async def test_a_lone_branch_is_relayed_live(fleet: Fleet, greedy: bool) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says("0123456789", tokens=10, when=(finish := asyncio.Event()))

    async with await proxy.connect() as client:
        await client.post(
            {**chat(**STREAM), "slo": {"latency_ms": 60000}, "tts": {"strategy": "none", "greedy": greedy}}
        )
        early = await client.read_until(b'"content":"8"')
        assert b"data: [DONE]" not in early and not backend.generations[0].over.is_set()
        finish.set()
        rest = await client.read_until(b"data: [DONE]\n\n")

    assert b'"content":"9"' in rest and b'"usage":{' in rest
    assert b'"usage"' not in early, "the engine's running count is not the client's"


async def test_a_relayed_stream_is_live_too(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says("0123456789", tokens=10, when=(finish := asyncio.Event()))

    async with await proxy.connect() as client:
        await client.post(chat(stream=True))
        await client.read_until(b'"content": "8"')
        assert not backend.generations[0].over.is_set()
        finish.set()
        await client.read_until(b"data: [DONE]\n\n")


async def test_n_answers_stream_under_their_own_indices(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FOUR), says(FIVE), says(FOUR), says(FOUR))

    events = await proxy.stream({**vote(4), "n": 2})

    seen = [choice["index"] for chunk in events.chunks for choice in chunk["choices"]]
    assert seen == sorted(seen) and set(seen) == {0, 1}
    assert events.text == FOUR and events.finish_reasons == ["stop", "stop"]


async def test_completions_stream_text(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FOUR), says(FOUR), says(FIVE))
    body = {"model": "m@self-consistency:3", "prompt": "2 + 2 ="}

    events = await proxy.stream(body, "/v1/completions")

    assert (events.text, events.finish_reasons, events.done) == (FOUR, ["stop"], True)
    assert {chunk["object"] for chunk in events.chunks} == {"text_completion"}


async def test_a_streamed_vote_cancels_what_it_does_not_need(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FOUR), stalls(), begins(FIVE, after=2))

    events = await proxy.stream(chat(tts={"strategy": "first-finish", "n": 3, "m": 1}))

    assert events.text == FOUR
    await until(lambda: [r.cancelled for r in backend.generations].count(True) == 2)


def _reasoning(events: Events) -> list[str]:
    deltas = [chunk["choices"][0]["delta"] for chunk in events.chunks if chunk["choices"]]
    return [delta["reasoning"] for delta in deltas if "reasoning" in delta]


async def test_progress_tells_the_vote_so_far_as_reasoning_and_then_the_winner(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FIVE), says(FOUR), says(FOUR))

    events = await proxy.stream({**vote(3, progress=True), **STREAM})

    told = _reasoning(events)
    assert len(told) == 3
    assert told[-1] == "3 of 3 samples finished; 2 say 4\n"
    assert (events.text, events.finish_reasons, events.done) == (FOUR, ["stop"], True)
    assert len({chunk["id"] for chunk in events.chunks}) == 1
    assert events.usage is not None and events.usage["tts"]["agreement"] == pytest.approx(2 / 3)


async def test_progress_is_told_while_the_vote_is_still_open(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    late = asyncio.Event()
    backend.will(says(FOUR), says(FOUR, when=late))

    async with await proxy.connect() as client:
        await client.post({**vote(2, progress=True), "stream": True})
        await client.read_until(b"1 of 2 samples finished; 1 say 4")
        late.set()
        await client.read_until(b"data: [DONE]\n\n")


async def test_a_lone_branch_has_no_vote_to_tell_of(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    assert _reasoning(await proxy.stream(chat(tts={"strategy": "none", "progress": True, "max_tokens": 9}))) == []
