"""The official OpenAI client works unchanged, and reaches every control that it has a way to send."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from http_rig import QUESTION, Fleet, RunningProxy
from scripted_backend import ScriptedBackend, answers, dies, says

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"
MESSAGES: Any = QUESTION
VOTE = {"tts": {"strategy": "self-consistency", "n": 3, "stop": "all"}}


@pytest.fixture
async def served(fleet: Fleet) -> AsyncIterator[tuple[ScriptedBackend, RunningProxy, openai.AsyncOpenAI]]:
    backend, proxy = await fleet.one()
    http = openai.DefaultAsyncHttpxClient(verify=False)  # loading the certificates takes longer than a test
    async with openai.AsyncOpenAI(
        base_url=f"{proxy.url}/v1", api_key="none", max_retries=0, http_client=http
    ) as client:
        yield backend, proxy, client


Served = tuple[ScriptedBackend, RunningProxy, openai.AsyncOpenAI]


async def ask(client: openai.AsyncOpenAI, model: str = "m", **more: Any) -> Any:
    return await client.chat.completions.create(model=model, messages=MESSAGES, **more)


async def test_a_plain_request(served: Served) -> None:
    backend, _, client = served
    backend.will(says("four", tokens=6))

    answer = await ask(client)

    assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("four", 6)


async def test_a_plain_stream(served: Served) -> None:
    backend, _, client = served
    backend.will(says("four and more", tokens=6))

    chunks = [chunk async for chunk in await ask(client, stream=True)]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "four and more"


async def test_a_vote_by_extra_body(served: Served) -> None:
    backend, _, client = served
    backend.will(says(FIVE), says(FOUR), says(FOUR))

    answer = await ask(client, extra_body={**VOTE, "slo": {"latency_ms": 60000}})

    assert answer.choices[0].message.content == FOUR
    assert (answer.usage.tts["n"], answer.usage.tts["slo_status"]) == (3, "met")


async def test_a_vote_by_extra_headers(served: Served) -> None:
    _, _, client = served

    headers = {"x-tts-strategy": "self-consistency", "x-tts-n": "2"}
    answer = await client.chat.completions.with_raw_response.create(
        model="m",
        messages=MESSAGES,
        extra_headers=headers,
    )

    assert answer.headers["x-tts-n"] == "2"
    assert answer.parse().choices[0].message.content == FOUR


async def test_a_streamed_vote_by_the_models_name(served: Served) -> None:
    backend, _, client = served
    backend.will(says(FIVE), says(FOUR), says(FOUR))

    stream = await ask(client, "m@self-consistency:3", stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == FOUR
    assert chunks[-1].usage.tts["completed"] == 3


async def test_a_completion(served: Served) -> None:
    _, _, client = served

    answer = await client.completions.create(model="m@self-consistency:2", prompt="2 + 2 =")

    assert answer.choices[0].text == FOUR


async def test_the_blocking_client(served: Served) -> None:
    _, proxy, _ = served

    def blocking() -> str | None:
        with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(model="m", messages=MESSAGES, extra_body=VOTE)
            content: str | None = answer.choices[0].message.content
            return content

    assert await asyncio.to_thread(blocking) == FOUR


async def test_the_models_are_listed(served: Served) -> None:
    _, _, client = served

    assert [model.id async for model in client.models.list()] == ["m"]
    assert (await client.models.retrieve("m")).id == "m"


async def test_errors_become_the_clients_own(served: Served) -> None:
    _, _, client = served
    with pytest.raises(openai.BadRequestError, match="x-tts-n") as bad:
        await ask(client, extra_headers={"x-tts-n": "none"})
    assert (bad.value.param, bad.value.code) == ("x-tts-n", "invalid_control")
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        await ask(client, "gpt-4")
    with pytest.raises(openai.InternalServerError) as refused:
        await ask(client, extra_body={"slo": {"quality": 0.99, "mode": "strict"}})
    assert (refused.value.status_code, refused.value.code) == (503, "slo_infeasible")


async def test_the_backends_refusal_is_the_clients_own_too(served: Served) -> None:
    backend, _, client = served
    backend.otherwise = answers(422, b'{"error":{"message":"no such role","type":"x","param":null,"code":422}}')

    with pytest.raises(openai.UnprocessableEntityError, match="no such role"):
        await ask(client, extra_body=VOTE)


async def test_an_error_inside_a_stream_is_raised(served: Served) -> None:
    backend, _, client = served
    backend.otherwise = dies(FOUR, after=1)

    with pytest.raises(openai.APIError, match="failed"):
        _ = [chunk async for chunk in await ask(client, stream=True, extra_body=VOTE)]
