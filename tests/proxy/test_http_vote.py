"""Self-consistency over HTTP: n branches on one backend, their vote, and what the answer says of it."""

import asyncio
import json
from typing import Any

import pytest
from http_rig import CHAT, Fleet, RunningProxy, chat, vote
from scripted_backend import PROMPT_TOKENS, begins, says, stalls, until

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"


async def test_the_most_frequent_answer_wins(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(f"so {FIVE}"), says(f"hence {FOUR}"), says(f"thus {FOUR}", tokens=3))

    answer = await proxy.ask(vote(3))

    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": f"thus {FOUR}"}, "the shorter of the two that won"
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert answer.json()["usage"]["tts"]["agreement"] == 2 / 3


async def test_usage_counts_winners_and_losers(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FIVE, tokens=9), says(FOUR, tokens=3), says(FOUR, tokens=5))

    usage = (await proxy.ask(vote(3))).json()["usage"]

    assert usage["completion_tokens"] == 9 + 3 + 5
    assert usage["prompt_tokens"] == 3 * PROMPT_TOKENS
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_usage_tts_says_what_was_run(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(vote(3), x_slo_latency_ms="60000")

    told = answer.json()["usage"]["tts"]
    assert told.pop("gpu_seconds") > 0
    assert told.pop("cost_usd") == pytest.approx(float(answer.headers["x-cost-usd"]), abs=1e-9)
    assert told == {
        "strategy": "self-consistency",
        "n": 3,
        "completed": 3,
        "cancelled": 0,
        "failed": 0,
        "agreement": 1.0,
        "backend": "a",
        "trace_id": (await proxy.trace())["id"],
        "slo_status": "met",
    }


async def test_the_headers_say_it_before_the_body(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    headers = (await proxy.ask(vote(3), x_request_id="mine")).headers

    assert headers["content-type"] == "application/json"
    assert (headers["x-request-id"], headers["x-tts-strategy"], headers["x-tts-n"]) == ("mine", "self-consistency", "3")
    assert (headers["x-tts-backend"], headers["x-slo-status"]) == ("a", "none")
    assert int(headers["x-slo-predicted-latency-ms"]) > 0


async def test_a_decided_vote_cancels_the_rest(fleet: Fleet) -> None:
    """Four equal answers settle eight votes at 95 %; the other four branches end at once, and their tokens count."""
    backend, proxy = await fleet.one()
    enough = asyncio.Event()
    backend.will(*[says(FOUR, tokens=3, when=enough)] * 4, *[begins(FOUR, after=2)] * 4)

    asking = asyncio.create_task(proxy.ask(vote(8, stop="beta")))
    await until(lambda: sum(request.sent_events for request in backend.generations) == 8 * 3)
    enough.set()
    usage = (await asking).json()["usage"]

    await until(lambda: [r.cancelled for r in backend.generations].count(True) == 4)
    assert (usage["tts"]["completed"], usage["tts"]["cancelled"]) == (4, 4)
    assert usage["completion_tokens"] == 4 * 3 + 4 * 2


async def test_first_finish_does_not_wait_for_stragglers(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(stalls(), says(FOUR), stalls(), stalls())

    answer = await proxy.ask(chat(tts={"strategy": "first-finish", "n": 4, "m": 1}))

    assert answer.json()["choices"][0]["message"]["content"] == FOUR
    assert answer.headers["x-tts-strategy"] == "first-finish"
    await until(lambda: [r.cancelled for r in backend.generations].count(True) == 3)


async def test_n_answers_are_the_best_n_of_the_vote(fleet: Fleet) -> None:
    """OpenAI's `n`: how many answers come back, not how many samples are drawn."""
    backend, proxy = await fleet.one()
    backend.will(says(FOUR), says(FIVE), says(FOUR), says(FOUR))

    choices = (await proxy.ask({**vote(4), "n": 2})).json()["choices"]

    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, FOUR), (1, FIVE)]
    assert all("n" not in request.json for request in backend.generations)


async def test_more_answers_than_branches_is_the_clients_error(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    by_default = await proxy.ask(chat(n=9, tts={"strategy": "self-consistency"}))
    as_told = await proxy.ask({**vote(2), "n": 3})

    assert (by_default.status_code, by_default.json()["error"]["param"]) == (400, "n")
    assert (as_told.status_code, as_told.json()["error"]["param"]) == (400, "x-tts-n")
    assert backend.generations == []


@pytest.mark.parametrize(
    ("tts", "n"),
    [
        ({"strategy": "self-consistency", "n": 8}, 6),
        ({"strategy": "self-consistency", "n": 4}, 4),
        ({"strategy": "self-consistency", "n": 8, "window": 3, "confidence": 0.8}, 3),
        ({"strategy": "first-finish", "n": 8, "m": 1}, 3),
    ],
)
async def test_as_many_answers_as_were_asked_for_where_the_vote_is_settled_sooner(
    fleet: Fleet, tts: dict[str, Any], n: int
) -> None:
    _, proxy = await fleet.one()

    answer = (await proxy.ask(chat(n=n, tts=tts))).json()

    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    assert answer["usage"]["tts"]["completed"] >= n


async def test_answers_beyond_a_window_are_the_clients_error(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(chat(n=4, tts={"strategy": "self-consistency", "n": 8, "window": 3}))

    assert answer.status_code == 400 and "raise window" in answer.json()["error"]["message"]


async def test_branches_under_a_seed_get_different_ones(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    await proxy.ask({**vote(4), "seed": 100})

    assert sorted(request.json["seed"] for request in backend.generations) == [100, 101, 102, 103]


async def test_all_else_reaches_every_branch_byte_for_byte(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    image = '{"type":"image_url", "image_url":{"url":"data:image/png;base64,AA=="}}'
    rest = f'"messages":[{{"role":"user","content":[{image}]}}], "temperature":1.10, "logprobs":true'
    unknown = '"x_unknown": {"b":[1, 2.50], "a":null}'
    body = f'{{"model":"m@self-consistency:2", {rest}, {unknown}, "slo":{{"latency_ms":60000}}}}'

    await proxy.client.post(CHAT, content=body)

    assert len(backend.generations) == 2
    for request in backend.generations:
        assert image.encode() in request.body
        assert b'{"b":[1, 2.50], "a":null}' in request.body and b"1.10" in request.body
        assert not request.json.keys() & {"slo", "tts"}
        assert request.json["model"] == "m"


async def test_completions_are_voted_on_too(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says(FIVE), says(FOUR), says(FOUR))
    body = {"model": "m", "prompt": "2 + 2 =", "tts": {"strategy": "self-consistency", "n": 3}}

    answer = (await proxy.ask(body, "/v1/completions")).json()

    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", FOUR)
    assert answer["id"].startswith("cmpl-")


async def test_several_prompts_at_once_are_refused_a_vote(fleet: Fleet) -> None:
    """Their choices would be mixed up: each prompt is a question of its own."""
    backend, proxy = await fleet.one()
    body = {"model": "m@self-consistency:3", "prompt": ["2 + 2 =", "3 + 3 ="]}

    answer = await proxy.ask(body, "/v1/completions")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert backend.generations == []


async def test_json_answers_are_compared_as_values(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(task=None)
    backend.will(says('{"a": 1, "b": 2}'), says('{"b": 2.0, "a": 1}'), says('{"a": 9, "b": 2}'))

    answer = await proxy.ask({**vote(3), "response_format": {"type": "json_object"}})

    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"a": 1, "b": 2}
    assert answer.json()["usage"]["tts"]["agreement"] == 2 / 3


async def answered_by(proxy: RunningProxy, body: dict[str, object], **headers: str) -> tuple[str, str]:
    answer = await proxy.ask(body, **headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tts-strategy"], answer.headers["x-tts-n"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (chat(model="m@self-consistency:4"), {}),
        (chat(tts={"strategy": "self-consistency", "n": 4}), {}),
        (chat(), {"x_tts_strategy": "self-consistency", "x_tts_n": "4"}),
        (chat(model="m@first-finish:2", tts={"strategy": "self-consistency"}), {"x_tts_n": "4"}),
    ],
    ids=["model suffix", "body", "headers", "header over body over suffix"],
)
async def test_three_spellings_of_one_thing(fleet: Fleet, body: dict[str, object], headers: dict[str, str]) -> None:
    backend, proxy = await fleet.one()

    assert await answered_by(proxy, body, **headers) == ("self-consistency", "4")
    assert len(backend.generations) == 4


async def test_max_tokens_of_the_control_bounds_every_branch(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    await proxy.ask({**vote(2, max_tokens=50), "max_completion_tokens": 80})
    await proxy.ask({**vote(2, max_tokens=90), "max_completion_tokens": 80})

    assert [request.json["max_completion_tokens"] for request in backend.generations] == [50, 50, 80, 80]
