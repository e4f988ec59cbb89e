"""A judge and a larger model on backends of their own: who is asked, and what a request over several costs."""

from __future__ import annotations

from typing import Any

import pytest
from http_rig import Fleet, RunningProxy, chat, vote
from own_strategies import NAME, gathered, pinned, ranked, strategy
from scripted_backend import ScriptedBackend, answers, closes, says

from strategies.base import Context, Generation, Need, Outcome

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"
VERDICT = Generation(prompt="Is it right?", model="judge", final=False, temperature=0.0, max_tokens=16)


async def escalate(context: Context) -> Outcome:
    """Two drafts, the judge's word on them, and the larger model's answer."""
    drafts = await gathered(context, 2)
    (verdict,) = await gathered(context, [VERDICT]) or (None,)
    if verdict is not None and "yes" in verdict.text:
        return ranked(drafts)
    return ranked([*await gathered(context, [Generation(model="larger")]), *drafts])


Three = tuple[ScriptedBackend, ScriptedBackend, ScriptedBackend, RunningProxy]


async def three(fleet: Fleet, *, judge_usd: float | None = 1.8, **needs: Any) -> Three:
    """(own, judge, larger) and a proxy; the larger one costs ten times as much as the own one."""
    own = await fleet.backend("own", "m")
    judge, larger = await fleet.backend("j", "judge"), await fleet.backend("big", "large")
    judge.usd_per_hour, larger.usd_per_hour = judge_usd, 36.0
    judge.otherwise = says("no", tokens=2)
    larger.otherwise = says(FIVE, tokens=6)
    asked = {"judge": "judge", "larger_model": "large"}
    proxy = await fleet.proxy(strategy(escalate, **needs), first_model=asked)
    return own, judge, larger, proxy


async def test_each_model_is_asked_under_its_own_name(fleet: Fleet) -> None:
    own, judge, larger, proxy = await three(fleet)

    answer = await proxy.ask(pinned(seed=3))

    assert answer.json()["choices"][0]["message"]["content"] == FIVE
    assert (len(own.generations), len(judge.generations), len(larger.generations)) == (2, 1, 1)
    asked = judge.generations[0].json
    assert (asked["model"], asked["messages"]) == ("judge", [{"role": "user", "content": "Is it right?"}])
    assert (asked["temperature"], asked["max_completion_tokens"]) == (0.0, 16)
    assert larger.generations[0].json["model"] == "large"
    assert larger.generations[0].json["messages"] == chat()["messages"]


async def test_the_trace_tells_what_each_was_for(fleet: Fleet) -> None:
    _, _, _, proxy = await three(fleet)

    usage = (await proxy.ask(pinned())).json()["usage"]

    trace = await proxy.trace()
    rows = trace["branches"]
    assert [(row["backend"], row["role"], row["wave"]) for row in rows] == [
        ("own", None, 1),
        ("own", None, 1),
        ("j", "judge", 2),
        ("big", None, 3),
    ]
    assert trace["selection"]["winners"] == [3]
    assert usage["completion_tokens"] == 4 + 4 + 2 + 6
    assert usage["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows)


async def test_ledgers_sum_over_backends_at_their_own_prices(fleet: Fleet) -> None:
    _, _, _, proxy = await three(fleet)

    await proxy.ask(pinned())

    trace = await proxy.trace()
    usd_per_s = {"own": 3.6 / 3600, "j": 1.8 / 3600, "big": 36.0 / 3600}
    rows, ledgers = trace["branches"], trace["ledgers"]
    assert [row["cost_usd"] for row in rows] == [
        pytest.approx(row["gpu_seconds"] * usd_per_s[row["backend"]]) for row in rows
    ]
    assert ledgers["attributed"]["gpu_seconds"] == pytest.approx(sum(row["gpu_seconds"] for row in rows), abs=1e-8)
    assert ledgers["attributed"]["usd"] == pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-12)
    walls = {name: [row for row in rows if row["backend"] == name] for name in usd_per_s}
    exclusive = {
        name: (max(row["end_ms"] for row in mine) - min(row["start_ms"] for row in mine)) / 1e3
        for name, mine in walls.items()
    }
    assert ledgers["exclusive"]["gpu_seconds"] == pytest.approx(sum(exclusive.values()), abs=1e-6)
    expected = sum(seconds * usd_per_s[name] for name, seconds in exclusive.items())
    assert ledgers["exclusive"]["usd"] == pytest.approx(expected, rel=1e-6)
    assert ledgers["marginal"]["usd"] is None and ledgers["marginal"]["reason"] == "the backend has no profile"


async def test_a_backend_without_a_price_leaves_the_sum_unknown_and_says_why(fleet: Fleet) -> None:
    _, _, _, proxy = await three(fleet, judge_usd=None)

    answer = await proxy.ask(pinned())

    attributed = (await proxy.trace())["ledgers"]["attributed"]
    assert attributed["usd"] is None and attributed["reason"] == "the backend has no gpu_hour_usd"
    assert attributed["gpu_seconds"] > 0
    assert answer.json()["usage"]["tts"]["cost_usd"] is None
    assert "x-cost-usd" not in answer.headers


@pytest.mark.parametrize(
    ("how", "times"),
    [(answers(400, b'{"error": {"message": "no"}}'), 1), (closes(), 3)],
    ids=["refuses", "closes"],
)
async def test_a_judge_that_fails_is_done_without(fleet: Fleet, how: Any, times: int) -> None:
    """A refusal is a refusal; a lost connection is tried again (`reliability.retries.max_attempts`)."""
    _, judge, _, proxy = await three(fleet)
    judge.otherwise = how

    answer = await proxy.ask(pinned())

    assert answer.json()["choices"][0]["message"]["content"] == FIVE
    assert answer.json()["usage"]["tts"]["failed"] == times


async def test_a_model_that_serves_nowhere_is_done_without_and_told(fleet: Fleet) -> None:
    _, judge, larger, proxy = await three(fleet)
    judge.healthy = larger.healthy = False
    await proxy.probed()

    answer = await proxy.ask(pinned())

    assert answer.json()["choices"][0]["message"]["content"] == FOUR
    told = "No backend of the judge model serves now.; No backend of the larger model serves now."
    assert answer.json()["usage"]["tts"]["note"] == told
    assert (judge.generations, larger.generations) == ([], [])


async def test_a_strategy_that_needs_one_is_refused_while_it_serves_nowhere(fleet: Fleet) -> None:
    own, judge, _, proxy = await three(fleet, needs=[Need.JUDGE, Need.LARGER_MODEL])
    judge.healthy = False
    await proxy.probed()

    answer = await proxy.ask(pinned())

    assert (answer.status_code, own.generations) == (503, [])
    assert "needs-unserved" in answer.json()["error"]["message"]


async def test_the_own_models_refusal_is_the_clients_and_no_other_ones(fleet: Fleet) -> None:
    own, judge, larger, proxy = await three(fleet)
    own.otherwise = answers(400, b'{"error": {"message": "own"}}')
    judge.otherwise = larger.otherwise = answers(422, b'{"error": {"message": "other"}}')

    answer = await proxy.ask(pinned())

    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "own")


async def test_a_request_that_was_planned_again_pays_for_both_backends(fleet: Fleet) -> None:
    """The first backend's branches all fail: the ledgers are of both, and the winner is known among all branches."""
    failing, busy = await fleet.backend("a"), await fleet.backend("b")
    failing.otherwise, busy.metrics["num_requests_running"], busy.usd_per_hour = closes(), 40.0, 36.0
    proxy = await fleet.proxy()
    await proxy.sees_load("b", 40.0)

    answer = await proxy.ask(vote(3))

    assert answer.status_code == 200, answer.text
    trace = await proxy.trace()
    rows, attributed = trace["branches"], trace["ledgers"]["attributed"]
    assert [row["backend"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert [row["index"] for row in rows] == list(range(6))
    assert trace["selection"]["winners"] in ([3], [4], [5])
    assert [plan["backend"] for plan in trace["earlier_plans"]] == ["a"]
    assert attributed["gpu_seconds"] == pytest.approx(sum(row["gpu_seconds"] for row in rows), abs=1e-8)
    usd = sum(row["gpu_seconds"] * (0.001 if row["backend"] == "a" else 0.01) for row in rows)
    assert attributed["usd"] == pytest.approx(usd, rel=1e-6)


async def test_a_pinned_strategy_without_its_models_in_the_configuration_is_a_400(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(strategy(escalate, needs=[Need.JUDGE]))

    answer = await proxy.ask(pinned(NAME))

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-tts-strategy")
    assert "needs a judge (`judge` in the configuration)" in answer.json()["error"]["message"]
    assert backend.generations == []
