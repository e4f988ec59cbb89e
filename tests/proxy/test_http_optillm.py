"""What optillm's users send works here: the cases of its own API tests, and its two spellings of an approach."""

import pytest
from http_rig import Fleet, chat
from openai import AsyncOpenAI
from scripted_backend import says

FOUR = "\\boxed{4}"


async def test_the_models_prefix_names_a_strategy(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    answer = await proxy.ask(chat(model="self_consistency-m"))

    assert answer.headers["x-tts-strategy"] == "self-consistency"
    assert {request.json["model"] for request in backend.generations} == {"m"}


@pytest.mark.parametrize(("approach", "strategy"), [("majority_voting", "self-consistency"), ("none", "none")])
async def test_the_body_names_one_and_the_backend_never_sees_it(fleet: Fleet, approach: str, strategy: str) -> None:
    backend, proxy = await fleet.one()

    answer = await proxy.ask(chat(optillm_approach=approach))

    assert answer.headers["x-tts-strategy"] == strategy
    assert all("optillm_approach" not in request.json for request in backend.generations)


async def test_our_own_controls_count_first(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(chat(model="self_consistency-m"), x_tts_strategy="first-finish")

    assert answer.headers["x-tts-strategy"] == "first-finish"


async def test_an_approach_that_is_not_here_is_named(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(chat(optillm_approach="mcts"))

    assert answer.status_code == 400
    assert "mcts" in answer.json()["error"]["message"] and "moa" in answer.json()["error"]["message"]


async def test_a_model_whose_own_name_begins_so_is_itself(fleet: Fleet) -> None:
    await fleet.backend("a", model="moa-large")
    proxy = await fleet.proxy()

    answer = await proxy.ask({**chat(), "model": "moa-large"})

    assert (answer.status_code, answer.headers["x-tts-strategy"]) == (200, "none")


async def test_an_unknown_model_behind_a_prefix_is_404(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    assert (await proxy.ask({**chat(), "model": "moa-nothing"})).status_code == 404


async def test_n_is_how_many_answers_with_a_strategy_and_without(fleet: Fleet) -> None:
    """optillm's test_n_parameter: `n` choices come back; under a strategy they are distinct."""
    backend, proxy = await fleet.one()
    backend.will(*[says(f"\\boxed{{{number}}}") for number in (4, 4, 5, 6)])
    client = AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="unused", max_retries=0)

    answer = await client.chat.completions.create(
        model="self_consistency-m",
        messages=[{"role": "user", "content": "2 + 2?"}],
        n=3,
        temperature=0.8,
        max_tokens=50,
        extra_body={"tts": {"n": 4}},
    )

    contents = [choice.message.content for choice in answer.choices]
    assert contents[0] == FOUR and sorted(contents) == ["\\boxed{4}", "\\boxed{5}", "\\boxed{6}"]
    await client.close()
