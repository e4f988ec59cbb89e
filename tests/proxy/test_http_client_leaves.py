"""A client that goes away takes its upstream connections with it, within 100 ms (on uvloop, as `serve` runs)."""

from typing import Any

import pytest
from http_rig import Fleet, chat, vote
from scripted_backend import Play, answers, begins, says, stalls, until

WITHIN_S = 0.1
FOUR = "\\boxed{4}"
SLO = {"slo": {"latency_ms": 60000}}


@pytest.mark.parametrize("started", [stalls(), begins(FOUR, after=2)], ids=["before a token", "mid-answer"])
@pytest.mark.parametrize(
    "body",
    [
        chat(),
        chat(stream=True),
        vote(3),
        {**vote(3), "stream": True},
        {**chat(tts={"strategy": "none"}), **SLO},
        {**chat(tts={"strategy": "none"}, stream=True), **SLO},
    ],
    ids=["relayed", "relayed stream", "vote", "streamed vote", "one branch", "one live branch"],
)
async def test_every_upstream_connection_closes(fleet: Fleet, body: dict[str, Any], started: Play) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = started
    branches = body.get("tts", {}).get("n", 1)

    async with await proxy.connect() as client:
        await client.post(body)
        await backend.generation(branches - 1)
        left_at = client.leave()
    await until(lambda: all(request.cancelled for request in backend.generations))

    delays_s = [request.left_at - left_at for request in backend.generations if request.left_at is not None]
    assert len(delays_s) == branches
    assert max(delays_s) < WITHIN_S
    trace = await proxy.trace()
    assert (trace["outcome"], trace["status"]) == ("client_gone", 499)
    assert [branch["outcome"] for branch in trace["branches"]] == ["cancelled"] * branches


async def test_it_is_noticed_while_a_settled_vote_waits_for_further_answers(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = stalls()
    backend.will(says(FOUR))

    async with await proxy.connect() as client:
        await client.post(chat(n=2, tts={"strategy": "first-finish", "n": 3, "m": 1}))
        await until(lambda: sum(request.over.is_set() for request in backend.generations) == 1)
        await until(lambda: len(backend.generations) == 3)
        client.leave()
    await until(lambda: all(request.over.is_set() for request in backend.generations))

    trace = await proxy.trace()
    assert (trace["outcome"], trace["status"]) == ("client_gone", 499)
    assert sorted(branch["outcome"] for branch in trace["branches"]) == ["cancelled", "cancelled", "completed"]


async def test_it_is_noticed_while_the_prompt_is_still_being_counted(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.tokenizer = stalls()

    async with await proxy.connect() as client:
        await client.post(vote(3))
        await until(lambda: any(request.path == "/tokenize" for request in backend.received))
        left_at = client.leave()
    counting = next(request for request in backend.received if request.path == "/tokenize")
    await until(lambda: counting.cancelled)

    assert (counting.left_at or 0) - left_at < WITHIN_S
    assert (await proxy.trace())["outcome"] == "client_gone"
    assert backend.generations == []


async def test_half_a_request_is_a_client_that_left(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    async with await proxy.connect() as client:
        client.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\ncontent-length: 100\r\n\r\n{")
        await client.writer.drain()
        await until(lambda: len(proxy.server_tasks) == 1)
        client.leave()

    assert (await proxy.trace())["outcome"] == "client_gone"
    assert backend.generations == []


async def test_the_tokens_of_a_client_that_left_are_paid_for(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = begins(FOUR, after=3)

    async with await proxy.connect() as client:
        await client.post({**chat(tts={"strategy": "none"}, stream=True), **SLO})
        await client.read_until(b'"content":"' + FOUR[6:9].encode())
        client.leave()

    trace = await proxy.trace()
    assert trace["completion_tokens"] == 3
    assert trace["ledgers"]["attributed"]["gpu_seconds"] > 0


async def test_a_client_that_stays_on_the_connection_is_served_again(fleet: Fleet) -> None:
    """Watching for a client's leaving must not swallow its next request."""
    backend, proxy = await fleet.one()
    backend.will(says("one", tokens=1), answers(200, b'{"two": 2}'))

    async with await proxy.connect() as client:
        await client.post({**chat(stream=True, tts={"strategy": "none"}), **SLO})
        await client.read_until(b"0\r\n\r\n")
        await client.post(chat())
        await client.read_until(b'{"two": 2}')
