"""What the planner makes of a request that states a goal, and where only one branch may run."""

from typing import Any

import pytest
from http_rig import Fleet, RunningProxy, chat
from scripted_backend import ScriptedBackend, answers, says

from profiler import quality_file
from proxy.handler import RELAYED_PATHS

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
FOUR = "\\boxed{4}"


async def test_time_to_spare_is_spent_on_more_samples(fleet: Fleet) -> None:
    """The quality table says that eight votes beat four."""
    backend, proxy = await fleet.one()

    answer = await proxy.ask(x_slo_latency_ms="60000")

    assert (answer.headers["x-tts-strategy"], answer.headers["x-tts-n"]) == ("self-consistency", "8")
    assert len(backend.generations) == 8


async def test_the_cheapest_plan_of_enough_quality(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(x_slo_objective="cost", x_slo_quality="0.65")

    assert (answer.headers["x-tts-strategy"], answer.headers["x-tts-n"]) == ("self-consistency", "4")


@pytest.mark.parametrize(
    ("members", "note"),
    [({"temperature": 0}, "temperature 0"), ({"tools": TOOLS}, "tools")],
    ids=["temperature 0", "tools"],
)
async def test_one_branch_where_more_would_not_help(fleet: Fleet, members: dict[str, Any], note: str) -> None:
    backend, proxy = await fleet.one()

    answer = await proxy.ask(chat(**members), x_slo_latency_ms="60000")

    assert (answer.headers["x-tts-strategy"], len(backend.generations)) == ("none", 1)
    assert note in (await proxy.trace())["plan"]["note"]


async def test_tools_are_voted_on_if_the_client_insists(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    backend.otherwise = says("", tokens=1, extra={"tool_calls": [call]}, finish="tool_calls")

    answer = await proxy.ask(chat(tools=TOOLS, tts={"strategy": "self-consistency", "n": 3}))

    choice = answer.json()["choices"][0]
    assert len(backend.generations) == 3
    assert choice["message"]["tool_calls"] == [{key: value for key, value in call.items() if key != "index"}]
    assert choice["finish_reason"] == "tool_calls"


async def test_temperature_zero_and_a_vote_contradict_each_other(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(chat(temperature=0, tts={"strategy": "self-consistency"}))

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-tts-strategy")


async def test_without_a_task_there_is_nothing_to_vote_by(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(task=None)

    answer = await proxy.ask(x_slo_latency_ms="60000")

    assert (answer.headers["x-tts-strategy"], len(backend.generations)) == ("none", 1)
    assert "no task" in (await proxy.trace())["plan"]["note"]


async def test_json_answers_need_no_task(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(task=None)
    backend.otherwise = says('{"a": 1}')

    answer = await proxy.ask(chat(response_format={"type": "json_object"}), x_slo_latency_ms="600000")

    assert answer.headers["x-tts-strategy"] != "none"
    assert len(backend.generations) > 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x_tts_n": "4"}, "none"),
        ({"x_slo_latency_ms": "60000"}, "met"),
        ({"x_slo_quality": "0.99"}, "degraded"),
        ({"x_slo_cost_usd": "0.000000000001"}, "missed"),
        ({"x_tts_strategy": "none", "x_slo_latency_ms": "60000"}, "met"),
    ],
    ids=["nothing demanded", "kept", "no plan reaches it", "overspent", "one branch under a deadline"],
)
async def test_the_answer_says_whether_it_kept_the_slo(fleet: Fleet, headers: dict[str, Any], status: str) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask(**headers)

    assert answer.headers["x-slo-status"] == status
    assert answer.json()["usage"]["tts"]["slo_status"] == status
    assert (await proxy.trace())["slo_status"] == status


async def test_strict_refuses_before_anything_is_spent(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    answer = await proxy.ask(x_slo_quality="0.99", x_slo_mode="strict")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "slo_infeasible"
    assert backend.generations == []
    assert (await proxy.trace())["outcome"] == "refused"


async def test_one_branch_under_a_deadline_goes_through_the_planner(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    answer = await proxy.ask(x_tts_strategy="none", x_slo_latency_ms="60000")

    assert len(backend.generations) == 1
    assert answer.json()["choices"][0]["message"]["content"] == FOUR
    assert answer.headers["x-slo-predicted-latency-ms"]


async def test_the_servers_own_default_is_a_control_too(fleet: Fleet) -> None:
    _, proxy = await fleet.one(slo={"defaults": {"latency_ms": 60000}})

    answer = await proxy.ask()

    assert (answer.headers["x-tts-n"], answer.headers["x-slo-status"]) == ("8", "met")


@pytest.mark.parametrize("path", RELAYED_PATHS)
async def test_the_servers_own_default_is_none_of_paths_that_take_no_controls(fleet: Fleet, path: str) -> None:
    backend, proxy = await fleet.one(slo={"defaults": {"latency_ms": 60000}})
    backend.otherwise = backend.tokenizer = answers(200, b"{}")

    assert (await proxy.ask({"model": "m", "input": "x", "prompt": "x"}, path)).status_code == 200


# -- an answer at temperature 0 --


async def _with_a_good_greedy_answer(fleet: Fleet) -> tuple[ScriptedBackend, RunningProxy]:
    """A table by which one answer at temperature 0 beats every vote."""
    fleet.curves = [quality_file.Curve("none", {"greedy": True}, False, 0.95, 0.93, [[4]] * 8)]
    return await fleet.one()


async def test_a_request_that_says_nothing_of_sampling_may_be_answered_at_temperature_0(fleet: Fleet) -> None:
    backend, proxy = await _with_a_good_greedy_answer(fleet)

    answer = await proxy.ask(x_slo_latency_ms="60000")

    assert answer.headers["x-tts-strategy"] == "none"
    assert [request.json["temperature"] for request in backend.generations] == [0]
    assert (await proxy.trace())["plan"]["params"] == {"greedy": True}


@pytest.mark.parametrize(
    "members",
    [
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 20},
        {"min_p": 0.1},
        {"tools": TOOLS},
        {"response_format": {"type": "json_object"}},
    ],
    ids=lambda members: next(iter(members)),
)
async def test_what_the_client_says_of_sampling_stays_and_so_does_what_no_table_tells_of(
    fleet: Fleet, members: dict[str, Any]
) -> None:
    backend, proxy = await _with_a_good_greedy_answer(fleet)

    await proxy.ask(chat(**members), x_slo_latency_ms="60000")

    assert backend.generations
    for request in backend.generations:
        assert request.json.get("temperature") == members.get("temperature")


async def test_greedy_pinned_beside_a_temperature_contradict_each_other(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    answer = await proxy.ask(chat(temperature=0.7, tts={"strategy": "none", "greedy": True}))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tts.greedy")
