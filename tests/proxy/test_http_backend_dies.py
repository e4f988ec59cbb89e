"""A backend that breaks in the middle of an answer (on uvloop, as `serve` runs)."""

import asyncio

import httpx
import pytest
from http_rig import Fleet, RunningProxy, chat, vote
from scripted_backend import Play, ScriptedBackend, answers, closes, cuts, dies, resets, says, sends, tells, until

HALF_A_BODY = sends(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"half": ')


@pytest.mark.parametrize(
    "death", [dies("0123456789", after=2), dies("0123456789", after=2, how=closes())], ids=["reset", "close"]
)
async def test_a_relayed_stream_that_breaks_is_broken_for_the_client_too(fleet: Fleet, death: Play) -> None:
    backend, proxy = await fleet.one()
    backend.will(death)

    with pytest.raises(httpx.RemoteProtocolError):
        await proxy.ask(chat(stream=True))

    trace = await proxy.trace()
    assert (trace["outcome"], trace["branches"][0]["outcome"]) == ("failed", "failed")
    assert "closed the connection" in trace["error"]


async def test_half_a_body_is_not_passed_off_as_a_whole_one(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(HALF_A_BODY)

    with pytest.raises(httpx.RemoteProtocolError):
        await proxy.ask()


async def two_where_a_is_cheaper(fleet: Fleet) -> tuple[ScriptedBackend, ScriptedBackend, RunningProxy]:
    a, b = await fleet.backend("a"), await fleet.backend("b")
    b.usd_per_hour = 10 * a.usd_per_hour
    return a, b, await fleet.proxy()


FAILURES = {
    "close before the first byte": closes(),
    "reset before the first byte": resets(),
    "500": answers(500, b'{"error":{"message":"boom"}}'),
    "503": answers(503, b"busy", kind="text/plain"),
    "reset mid-stream": dies("\\boxed{9}", after=2),
    "close mid-stream": dies("\\boxed{9}", after=2, how=closes()),
    "stream cut short": cuts("\\boxed{9}", after=2),
    "an event that is no JSON": tells(b"garbage"),
    "an event that is no chunk": tells(b'{"choices": 7}'),
    "an error event": tells(b'{"error":{"message":"out of memory","code":500}}'),
    "no HTTP at all": sends(b"\x00\x01 garbage\r\n\r\n"),
    "no event stream": answers(200, b"<html>login</html>", kind="text/html"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_a_vote_goes_on_without_a_branch_that_fails(fleet: Fleet, failure: Play) -> None:
    backend, proxy = await fleet.one()
    backend.will(failure)

    answer = await proxy.ask(vote(3))

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "\\boxed{4}"
    told = answer.json()["usage"]["tts"]
    assert (told["completed"], told["failed"], told["agreement"]) == (2, 1, 1.0)
    trace = await proxy.trace()
    assert [branch["error"] is not None for branch in trace["branches"]].count(True) == 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_where_all_branches_fail_another_backend_answers(fleet: Fleet, failure: Play) -> None:
    a, b, proxy = await two_where_a_is_cheaper(fleet)
    a.otherwise = failure

    answer = await proxy.ask(vote(2))

    assert (answer.status_code, answer.headers["x-tts-backend"]) == (200, "b")
    assert len(a.generations) == len(b.generations) == 2
    trace = await proxy.trace()
    assert [plan["backend"] for plan in trace["earlier_plans"]] == ["a"]
    assert [branch["outcome"] for branch in trace["branches"]] == ["failed", "failed", "completed", "completed"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_where_all_backends_fail_the_client_is_told(fleet: Fleet, stream: bool) -> None:
    a, b, proxy = await fleet.two()
    a.otherwise = b.otherwise = dies("\\boxed{4}", after=1)

    if stream:  # the status line is gone: OpenAI's clients raise what an event `error` says
        events = await proxy.stream(vote(2))
        assert events.chunks[-1]["error"]["code"] == "upstream_failed"
    else:
        answer = await proxy.ask(vote(2))
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    trace = await proxy.trace()
    assert (trace["outcome"], len(trace["branches"])) == ("failed", 4)


async def test_a_live_stream_whose_backend_dies_before_a_token_starts_over_elsewhere(fleet: Fleet) -> None:
    a, b, proxy = await two_where_a_is_cheaper(fleet)
    a.otherwise = resets()
    b.will(says("from b"))

    events = await proxy.stream(chat(), x_tts_strategy="none", x_slo_latency_ms="60000")

    assert (events.text, events.finish_reasons, events.done) == ("from b", ["stop"], True)


async def test_a_live_stream_whose_backend_dies_after_a_token_ends_in_an_error(fleet: Fleet) -> None:
    """Another backend's answer would not go on from these words."""
    a, b, proxy = await fleet.two()
    a.otherwise = b.otherwise = dies("half an answer", after=2, how=closes())

    events = await proxy.stream(chat(), x_tts_strategy="none", x_slo_latency_ms="60000")

    assert events.text == "half an "
    assert events.chunks[-1]["error"]["code"] == "upstream_failed"
    assert len(a.generations) + len(b.generations) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_the_backend_refuses_is_the_clients_to_read(fleet: Fleet, stream: bool) -> None:
    a, b, proxy = await fleet.two()
    refusal = b'{"error": {"message": "max_tokens is too large", "type": "BadRequestError",\n "code": 400}}'
    a.otherwise = b.otherwise = answers(400, refusal)

    if stream:
        events = await proxy.stream(vote(2))
        assert events.chunks[-1]["error"]["message"] == "max_tokens is too large"
    else:
        answer = await proxy.ask(vote(2))
        assert (answer.status_code, answer.content) == (400, refusal)
    assert len(a.generations) + len(b.generations) == 2, "another backend would refuse it too"
    trace = await proxy.trace()
    assert [branch["outcome"] for branch in trace["branches"]] == ["failed", "failed"]


async def test_a_branch_whose_end_is_lost_after_its_finish_reason_counts(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    chunk = b'{"choices":[{"index":0,"delta":{"content":"\\\\boxed{4}"},"finish_reason":"stop"}]}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    backend.will(sends(head, b"data: " + chunk + b"\n\n"))

    answer = await proxy.ask(vote(1))

    assert answer.json()["choices"][0]["message"]["content"] == "\\boxed{4}"


async def test_a_backend_that_dies_during_the_vote_leaves_the_votes_it_gave(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    die = asyncio.Event()

    async def later(peer, request):  # type: ignore[no-untyped-def]
        await die.wait()
        peer.reset()

    backend.will(says("\\boxed{4}"), *[dies("\\boxed{9}", after=2, how=later)] * 2)
    asking = asyncio.create_task(proxy.ask(vote(3)))
    await backend.generation(2)
    await until(lambda: backend.generations[0].over.is_set())
    die.set()

    answer = await asking
    assert answer.json()["choices"][0]["message"]["content"] == "\\boxed{4}"
    assert answer.json()["usage"]["tts"]["failed"] == 2
