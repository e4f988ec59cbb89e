"""At the deadline the proxy answers with what it has, and in time."""

import asyncio
import time

import pytest
from http_rig import Fleet, RunningProxy, vote
from scripted_backend import ScriptedBackend, begins, says, stalls, until

from proxy.service import FinishTime

DEADLINE_MS = 400
FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"


async def unhurried(fleet: Fleet) -> tuple[ScriptedBackend, RunningProxy]:
    """A proxy that has measured 200 ms for finishing an answer: these tests do not hang on this machine's speed."""
    backend, proxy = await fleet.one()
    proxy.service.finish_time = FinishTime(mean_s=0.2, deviation_s=0.0)
    return backend, proxy


async def asked(proxy: RunningProxy, n: int, stream: bool) -> tuple[str | None, list[str], dict[str, object]]:
    """(text, finish reasons, usage.tts) of the answer, which must have come in time."""
    body = {**vote(n), "stream": stream, "stream_options": {"include_usage": True}}
    began = time.monotonic()
    if stream:
        events = await proxy.stream(body, x_slo_latency_ms=str(DEADLINE_MS))
        told = events.text, events.finish_reasons, (events.usage or {}).get("tts", {})
    else:
        answer = await proxy.ask(body, x_slo_latency_ms=str(DEADLINE_MS))
        assert answer.status_code == 200, answer.text
        choices = answer.json()["choices"]
        told = choices[0]["message"]["content"], [choices[0]["finish_reason"]], answer.json()["usage"]["tts"]
    assert (time.monotonic() - began) * 1e3 < DEADLINE_MS, "the answer is sent before the deadline"
    return told


streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@streamed_or_not
async def test_the_finished_branches_decide(fleet: Fleet, stream: bool) -> None:
    backend, proxy = await unhurried(fleet)
    backend.will(says(FIVE), says(FOUR), says(FOUR), begins(FIVE, after=2), stalls())

    text, finish, told = await asked(proxy, 5, stream)

    assert (text, finish) == (FOUR, ["stop"])
    assert (told["completed"], told["cancelled"], told["agreement"]) == (3, 2, 2 / 3)
    assert told["slo_status"] == "degraded"
    await until(lambda: [r.cancelled for r in backend.generations].count(True) == 2)


@streamed_or_not
async def test_a_single_finished_branch_is_the_answer(fleet: Fleet, stream: bool) -> None:
    backend, proxy = await unhurried(fleet)
    backend.will(stalls(), says(FOUR), begins(FIVE, tokens=50, after=40))

    text, finish, told = await asked(proxy, 3, stream)

    assert (text, finish, told["completed"]) == (FOUR, ["stop"], 1)


@streamed_or_not
async def test_with_none_finished_the_longest_answers(fleet: Fleet, stream: bool) -> None:
    backend, proxy = await unhurried(fleet)
    text = "a long thought about two and two"
    backend.will(begins(text, tokens=8, after=2), begins(text, tokens=8, after=5), stalls())

    said, finish, told = await asked(proxy, 3, stream)

    assert (said, finish) == (text[: 5 * 4], ["length"])
    assert (told["completed"], told["cancelled"], told["agreement"]) == (0, 3, None)
    assert told["slo_status"] == "degraded"


async def test_504_where_no_token_has_come(fleet: Fleet) -> None:
    backend, proxy = await unhurried(fleet)
    backend.otherwise = stalls()

    answer = await proxy.ask(vote(2), x_slo_latency_ms=str(DEADLINE_MS))

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    trace = await proxy.trace()
    assert (trace["outcome"], [b["outcome"] for b in trace["branches"]]) == ("failed", ["cancelled", "cancelled"])
    assert trace["slo_status"] == "missed"


async def test_in_a_stream_the_same_error_comes_as_an_event(fleet: Fleet) -> None:
    backend, proxy = await unhurried(fleet)
    backend.otherwise = stalls()

    events = await proxy.stream(vote(2), x_slo_latency_ms=str(DEADLINE_MS))

    assert events.chunks[-1]["error"]["code"] == "deadline_exceeded"
    assert events.done


async def test_a_lone_live_branch_is_cut_with_finish_reason_length(fleet: Fleet) -> None:
    backend, proxy = await unhurried(fleet)
    backend.otherwise = begins("0123456789", tokens=10, after=6)

    events = await proxy.stream({**vote(1), "tts": {"strategy": "none"}}, x_slo_latency_ms=str(DEADLINE_MS))

    assert (events.text, events.finish_reasons, events.done) == ("012345", ["length"], True)


async def test_counting_the_prompt_takes_no_more_than_the_deadline(fleet: Fleet) -> None:
    """A backend that does not answer /tokenize is no reason to be late: the length is guessed then."""
    backend, proxy = await unhurried(fleet)
    backend.tokenizer = stalls()

    text, _, _ = await asked(proxy, 1, False)

    assert text == FOUR
    assert "length was guessed" in (await proxy.trace())["plan"]["note"]


async def test_a_deadline_that_is_over_at_once_is_an_error_not_a_hang(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = stalls()

    async with asyncio.timeout(2):
        answer = await proxy.ask(vote(2), x_slo_latency_ms="1")

    assert answer.status_code == 504
