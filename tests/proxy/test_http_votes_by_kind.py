"""Votes over what is no number: calls of tools, JSON under a schema, free text that a model compares."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from http_rig import Fleet, RunningProxy, vote
from scripted_backend import PROMPT_TOKENS, Play, answers, says, stalls

from proxy.service import FinishTime

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def calls(*told: tuple[str, str], tokens: int = 1) -> Play:
    """An answer that calls functions: (name, arguments as written)."""
    parts = [
        {"index": index, "id": f"c{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(told)
    ]
    return says("", tokens=tokens, extra={"tool_calls": parts}, finish="tool_calls")


async def voted(proxy: RunningProxy, body: dict[str, Any], *, stream: bool = False) -> tuple[Any, dict[str, Any]]:
    """(the message's calls or text, usage.tts)."""
    if not stream:
        answer = await proxy.ask(body)
        assert answer.status_code == 200, answer.text
        message = answer.json()["choices"][0]["message"]
        told = [call["function"] for call in message.get("tool_calls", ())] or message["content"]
        return told, answer.json()["usage"]["tts"]
    events = await proxy.stream({**body, "stream_options": {"include_usage": True}})
    deltas = [choice["delta"] for chunk in events.chunks for choice in chunk["choices"]]
    functions = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    return functions or events.text, (events.usage or {})["tts"]


@whole_or_streamed
async def test_calls_are_compared_by_name_and_arguments_whatever_their_spelling(fleet: Fleet, stream: bool) -> None:
    backend, proxy = await fleet.one()
    backend.will(
        calls(("add", '{"a": 3, "b": 2}')),
        calls(("add", '{"a": 2, "b": 2}'), tokens=4),
        calls(("add", '{"b":2,"a":2.0}'), tokens=3),
    )

    told, tts = await voted(proxy, {**vote(3), "tools": TOOLS}, stream=stream)

    assert told == [{"name": "add", "arguments": '{"b":2,"a":2.0}'}], "the shorter of the two, as it was written"
    assert tts["agreement"] == 2 / 3


async def test_other_names_other_orders_and_more_calls_are_other_answers(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    two = ("add", "{}"), ("mul", "{}")
    backend.will(calls(("add", "{}")), calls(("mul", "{}")), calls(*two), calls(*reversed(two)), calls(*two))

    told, tts = await voted(proxy, {**vote(5), "tools": TOOLS})

    assert [call["name"] for call in told] == ["add", "mul"]
    assert tts["agreement"] == 2 / 5


async def test_an_answer_without_calls_votes_as_text(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says("Which numbers?"), calls(("add", "{}")), says("which  numbers?", tokens=3))

    told, tts = await voted(proxy, {**vote(3), "tools": TOOLS})

    assert (told, tts["agreement"]) == ("which  numbers?", 2 / 3)


async def test_arguments_that_are_no_json_are_compared_as_written(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(calls(("add", "{oops")), calls(("add", "{oops")), calls(("add", "")))

    told, tts = await voted(proxy, {**vote(3), "tools": TOOLS})

    assert (told[0]["arguments"], tts["agreement"]) == ("{oops", 2 / 3)


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "unit": {"type": "string", "default": "km"},
        "tags": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
        "path": {"type": "array"},
    },
}


def typed(n: int) -> dict[str, Any]:
    return {**vote(n), "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (['{"name": "a"}', '{"unit": "km", "name": "a"}'], '{"name": "a", "unit": "m"}'),
        (['{"name": "a", "tags": [1, 2]}', '{"tags": [2, 1], "name": "a"}'], '{"name": "a", "tags": [1]}'),
    ],
    ids=["a default left out", "a set in another order"],
)
@whole_or_streamed
async def test_json_that_means_the_same_under_its_schema(
    fleet: Fleet, same: list[str], other: str, stream: bool
) -> None:
    backend, proxy = await fleet.one(task=None)
    backend.will(says(other), *map(says, same))

    told, tts = await voted(proxy, typed(3), stream=stream)

    assert told in same
    assert tts["agreement"] == 2 / 3


async def test_lists_that_are_no_sets_keep_their_order(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(task=None)
    backend.will(says('{"name": "a", "path": [1, 2]}'), says('{"name": "a", "path": [2, 1]}'))

    assert (await voted(proxy, typed(2)))[1]["agreement"] == 1 / 2


async def test_what_breaks_the_schema_abstains(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(task=None)
    backend.will(*[says(text) for text in ('{"unit": "m"}', '{"name": 7}', '{"unit": "m"}', '{"name": "a"}')])

    told, tts = await voted(proxy, typed(4))

    assert (told, tts["agreement"]) == ('{"name": "a"}', 1.0)
    assert (await proxy.trace())["selection"]["votes"] == 1


@pytest.mark.parametrize("schema", [{"required": 5, "type": {}, "enum": 1}, {"$ref": "#/x"}, {"type": [7]}, []])
async def test_a_schema_that_is_none_breaks_no_vote(fleet: Fleet, schema: object) -> None:
    """Whether it is one is the engine's to say."""
    backend, proxy = await fleet.one(task=None)
    backend.otherwise = says('{"a": 1}')
    body = {**vote(2), "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}

    assert (await voted(proxy, body))[0] == '{"a": 1}'


# -- free text --

FREE = {"task": None, "answers": "text"}


async def test_texts_that_embeddings_find_alike_are_one_answer(fleet: Fleet) -> None:
    embeddings = await fleet.pooled("embedding")
    embeddings.vector = lambda text: [1.0, 0.1] if "four" in text else [0.1, 1.0]
    backend, proxy = await fleet.one(**FREE, first_model={"compare_text": "embeddings"})
    backend.will(says("It is five."), says("It is four."), says("The sum is four.", tokens=3))

    told, tts = await voted(proxy, vote(3))

    assert (told, tts["agreement"]) == ("The sum is four.", 2 / 3)
    rows = [row for row in (await proxy.trace())["branches"] if row["role"] == "score"]
    assert {row["backend"] for row in rows} == {"embedding"}
    assert len(rows) == len(embeddings.at("/v1/embeddings")) > 0


async def judged(fleet: Fleet, judge_says: Play, n: int = 3) -> tuple[Any, dict[str, Any], Any, RunningProxy]:
    own, judge = await fleet.backend("a", "m"), await fleet.backend("j", "judge")
    judge.otherwise = judge_says
    proxy = await fleet.proxy(**FREE, first_model={"judge": "judge", "compare_text": "judge"})
    own.will(says("five"), says("four"), says("It is four.", tokens=3))
    told, tts = await voted(proxy, vote(n))
    return told, tts, judge, proxy


async def test_the_judge_is_asked_whether_two_texts_say_the_same(fleet: Fleet) -> None:
    told, tts, judge, proxy = await judged(fleet, says("<think>no, or</think>Yes.", tokens=5))

    assert tts["agreement"] == 1.0
    asked = judge.generations[0].json
    prompt = asked["messages"][0]["content"]
    assert "What is 2 + 2?" in prompt and "Answer A:\n" in prompt and "Answer B:\n" in prompt
    assert (asked["model"], asked["temperature"]) == ("judge", 0)
    trace = await proxy.trace()
    rows = [row for row in trace["branches"] if row["role"] == "judge"]
    assert [(row["backend"], row["outcome"], row["completion_tokens"]) for row in rows] == [("j", "completed", 5)] * 2
    assert all(row["prompt_tokens"] == PROMPT_TOKENS and row["cost_usd"] > 0 for row in rows)
    assert trace["ledgers"]["attributed"]["usd"] == pytest.approx(
        sum(row["cost_usd"] for row in trace["branches"]), abs=1e-12
    )
    assert trace["completion_tokens"] == 4 + 4 + 3 + 2 * 5
    assert told


@pytest.mark.parametrize(
    "judge_says",
    [
        says("No."),
        says("<think>yes, that is</think>no"),
        says("Yesterday"),
        answers(500, b"{}"),
        answers(200, b"{}"),
        answers(200, json.dumps({"choices": []}).encode()),
    ],
    ids=["no", "yes in its thoughts only", "another word", "fails", "garbage", "says nothing"],
)
async def test_what_the_judge_does_not_call_the_same_is_different(fleet: Fleet, judge_says: Play) -> None:
    _, tts, _, _ = await judged(fleet, judge_says)

    assert tts["agreement"] == 1 / 3


async def test_equal_texts_need_no_judge(fleet: Fleet) -> None:
    own, judge = await fleet.backend("a", "m"), await fleet.backend("j", "judge")
    proxy = await fleet.proxy(**FREE, first_model={"judge": "judge", "compare_text": "judge"})
    own.will(says("It is four."), says("it  is FOUR."))

    assert (await voted(proxy, vote(2)))[1]["agreement"] == 1.0
    assert judge.generations == []


async def test_a_judge_that_is_late_does_not_make_the_answer_late(fleet: Fleet) -> None:
    """What is not compared by the deadline counts as different, and still votes."""
    own, judge = await fleet.backend("a", "m"), await fleet.backend("j", "judge")
    judge.otherwise = stalls()
    proxy = await fleet.proxy(**FREE, first_model={"judge": "judge", "compare_text": "judge"})
    proxy.service.finish_time = FinishTime(mean_s=0.2, deviation_s=0.0)
    own.will(says("five"), says("four"), says("four"))

    began = time.monotonic()
    async with asyncio.timeout(2):
        answer = await proxy.ask(vote(3), x_slo_latency_ms="400")

    assert time.monotonic() - began < 0.4
    assert answer.status_code == 200
    assert [row["outcome"] for row in (await proxy.trace())["branches"]] == ["completed"] * 3 + ["cancelled"]
    assert answer.json()["usage"]["tts"]["agreement"] == 2 / 3
