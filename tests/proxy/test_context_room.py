"""A strategy's own budget never asks an engine for more than its context has left; the client's own limit stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_rig import Fleet, RunningProxy, chat
from own_strategies import asks, pinned, strategy
from scripted_backend import PROMPT_TOKENS, ScriptedBackend, says

from proxy.config import BackendConfig
from proxy.engine_flags import max_model_len
from proxy.tokens import TokenCounter
from strategies.base import WHOLE, Generation

WEIGHTS = Path(__file__).resolve().parents[2] / "profiler/tinymath/weights/s"
CONTEXT = 2048
LEFT = CONTEXT - PROMPT_TOKENS
THOUGHT = "<think>\n2 + 2 = 4\n"


async def one(fleet: Fleet, *generations: Generation, context: int | None = CONTEXT, **model: object) -> Served:
    backend = await fleet.backend()
    backend.max_model_len = context
    proxy = await fleet.proxy(strategy(asks(*(generations or [WHOLE]))), first_model=model)
    await proxy.asked_what_it_can()
    return backend, proxy


Served = tuple[ScriptedBackend, RunningProxy]


def limits(backend: ScriptedBackend) -> list[int | None]:
    """What each generation may have, as the engine was told."""
    return [asked.json.get("max_completion_tokens") for asked in backend.generations]


async def test_budget_forcing_keeps_room_for_the_answer_that_it_forces(fleet: Fleet) -> None:
    """Its default of 4096 tokens of thinking would be refused by an engine of 2048."""
    backend, proxy = await one(fleet)
    backend.will(says(THOUGHT, finish="length"), says("4"))

    answer = await proxy.ask(chat(tts={"strategy": "budget-forcing"}))

    assert answer.status_code == 200, answer.text
    put_there = len("\n</think>\nThe answer is ")
    assert limits(backend) == [LEFT - 256 - put_there, 256]


async def test_so_does_a_critique_fit(fleet: Fleet) -> None:
    backend, proxy = await one(fleet)
    backend.otherwise = says("4")

    await proxy.ask(chat(tts={"strategy": "self-refine"}))

    assert limits(backend)[:2] == [None, LEFT], "the draft has the client's own limit: none"


async def test_what_the_proxy_can_count_is_counted_with_all_that_was_put_after_it(fleet: Fleet) -> None:
    going_on = Generation(continues=THOUGHT, max_tokens=4096)
    turn = Generation(turns=(("assistant", "4"), ("user", "Sure?")), max_tokens=4096)
    alone = Generation(prompt="Grade it.", max_tokens=4096)
    backend, proxy = await one(fleet, going_on, turn, alone, tokenizer=str(WEIGHTS))

    await proxy.ask(pinned())

    counter = TokenCounter.from_folder(WEIGHTS)
    prompts = [counter.count_chat(asked.json) for asked in backend.generations]
    assert limits(backend) == [CONTEXT - (prompt or 0) for prompt in prompts]
    assert len(set(prompts)) == 3


async def test_a_budget_that_fits_stays(fleet: Fleet) -> None:
    backend, proxy = await one(fleet, Generation(max_tokens=100), Generation(max_tokens=LEFT))

    await proxy.ask(pinned())
    assert limits(backend) == [100, LEFT]


async def test_without_a_known_context_a_budget_is_sent_as_it_is(fleet: Fleet) -> None:
    backend, proxy = await one(fleet, Generation(max_tokens=4096), context=None)
    await proxy.ask(pinned())
    assert limits(backend) == [4096]


async def test_the_clients_own_limit_is_the_engines_to_judge(fleet: Fleet) -> None:
    backend, proxy = await one(fleet, WHOLE)
    await proxy.ask(pinned(max_tokens=5000))
    assert backend.generations[0].json["max_tokens"] == 5000


async def test_a_judge_has_a_context_of_its_own(fleet: Fleet) -> None:
    """Its prompt is not counted here (no tokenizer), so only what no prompt would leave room for is cut."""
    backend, judge = await fleet.backend(), await fleet.backend("j", model="judge")
    judge.max_model_len = 256
    backend.otherwise, judge.otherwise = says("4"), says("Score: 5")
    proxy = await fleet.proxy(first_model={"judge": "judge"})
    await proxy.asked_what_it_can("j")

    answer = await proxy.ask(chat(tts={"strategy": "best-of-n", "n": 2, "scorer": "judge"}))

    assert answer.status_code == 200, answer.text
    assert limits(judge) == [255, 255]


@pytest.mark.parametrize(
    ("args", "tokens"),
    [({"max-model-len": 2048}, 2048), ({"max_model_len": "2048"}, 2048), ({"max-model-len": "auto"}, None), ({}, None)],
)
def test_until_the_engine_says_its_flag_tells(args: dict[str, object], tokens: int | None) -> None:
    launched = {"model": "m", "args": args}
    backend = BackendConfig.model_validate({"name": "a", "url": "http://127.0.0.1:1", "launch": launched})
    assert max_model_len(backend) == tokens
