"""Strategies are run through a proxy on labelled questions, each setting in turn, and every request is kept."""

from __future__ import annotations

import pytest
from http_rig import Fleet
from msgspec import structs
from scripted_backend import answers, says, stalls

from profiler.runs import by_setting, curves
from profiler.tasks import Task, TaskQuestion
from proxy.strategy_runs import AskFailed, Asking, Setting, ask_all, key_of

TASK = Task("sums", "math", (TaskQuestion(question="2 + 2?", answer="4"), TaskQuestion(question="2 + 3?", answer="5")))


def test_a_setting_is_written_as_a_name_with_its_parameters() -> None:
    assert Setting.parse("best-of-n:n=8,scorer=reward") == Setting("best-of-n", {"n": 8, "scorer": "reward"})
    assert Setting.parse("none:greedy") == Setting("none", {}, greedy=True)
    assert Setting.parse("self-consistency:n=8,greedy") == Setting("self-consistency", {"n": 8, "greedy": True})
    assert Setting.parse("self-consistency:greedy=False") == Setting("self-consistency", {"greedy": False})
    assert Setting.parse("cascade:agreement=0.7") == Setting("cascade", {"agreement": 0.7})
    with pytest.raises(ValueError, match="NAME:key=value"):
        Setting.parse("best-of-n:8")


async def test_every_question_is_asked_with_every_setting_and_marked(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = says("\\boxed{4}")
    settings = [Setting.parse("none"), Setting.parse("self-consistency:n=2,stop=all")]

    found = [run async for run in ask_all(Asking(proxy.url, "m", TASK), settings)]

    told = [(run.question, run.strategy, run.correct) for run in found]
    assert told == [
        ("2 + 2?", "none", True),
        ("2 + 2?", "self-consistency", True),
        ("2 + 3?", "none", False),
        ("2 + 3?", "self-consistency", False),
    ]
    vote = found[1]
    assert (len(vote.waves), len(vote.waves[0]), sum(vote.waves[0])) == (1, 2, vote.tokens)
    assert vote.cost_usd and vote.params["n"] == 2 and vote.backend == "a"


async def test_auto_is_asked_under_its_limits_and_with_nothing_pinned(fleet: Fleet) -> None:
    """Its runs are told apart by the limits; what the planner chose differs from question to question."""
    backend, proxy = await fleet.one()
    backend.otherwise = says("\\boxed{4}")
    setting = Setting.parse("auto:latency_ms=5000,objective=cost")

    found = [run async for run in ask_all(Asking(proxy.url, "m", TASK), [setting])]

    traces = (await proxy.client.get("/v1/traces")).json()["data"]
    assert [(trace["slo"]["latency_ms"], trace["slo"]["objective"]) for trace in traces] == [(5000, "cost")] * 2

    assert {(run.strategy, run.key) for run in found} == {("auto", "auto:latency_ms=5000,objective=cost")}
    assert found[0].params == {"latency_ms": 5000, "objective": "cost"}
    assert all("temperature" not in sent.json for sent in backend.generations)


async def test_a_limit_that_auto_missed_without_an_answer_is_a_wrong_answer(fleet: Fleet) -> None:
    """Left out, only questions that were in time would be told of."""
    backend, proxy = await fleet.one()
    backend.otherwise = stalls()

    found = [run async for run in ask_all(Asking(proxy.url, "m", TASK), [Setting.parse("auto:latency_ms=300")])]

    assert [(run.correct, run.note) for run in found] == [(False, "the deadline came before any answer")] * 2
    assert all(run.latency_ms >= 250 and run.cost_usd for run in found)


async def test_a_pinned_setting_may_have_limits_beside_its_own_parameters(fleet: Fleet) -> None:
    """What a limit cuts is told apart, and no curve is made of it."""
    backend, proxy = await fleet.one()
    backend.will(*[says("\\boxed{4}")] * 3)
    backend.otherwise = stalls()
    setting = Setting.parse("self-consistency:n=3,stop=all,latency_ms=300")

    found = [run async for run in ask_all(Asking(proxy.url, "m", TASK), [setting])]

    trace = (await proxy.client.get("/v1/traces")).json()["data"][0]
    assert (trace["slo"]["latency_ms"], trace["controls"]["strategy"]) == (300, "self-consistency")
    assert {run.key for run in found} == {"self-consistency:latency_ms=300,n=3,stop=all"}
    assert [run.correct for run in found] == [True, False] and len(by_setting(found)) == 1
    assert (found[0].params, found[0].limits) == ({"n": 3, "stop": "all"}, {"latency_ms": 300})
    assert curves([structs.replace(run, question=str(i)) for run in found for i in range(30)]) == []


async def test_what_was_asked_before_is_not_asked_again(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    setting = Setting.parse("none")
    done = frozenset({("2 + 2?", key_of(setting))})

    found = [run.question async for run in ask_all(Asking(proxy.url, "m", TASK), [setting], done)]

    assert found == ["2 + 3?"] and len(backend.generations) == 1


async def test_an_error_says_which_setting_and_what_the_proxy_said(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = answers(400, b'{"error": {"message": "too long"}}')

    with pytest.raises(AskFailed, match=r"none: the proxy answered 400.*too long"):
        _ = [run async for run in ask_all(Asking(proxy.url, "m", TASK), [Setting.parse("none")])]
