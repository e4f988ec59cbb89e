"""Agreement in traffic, over HTTP: it shows on /metrics, tells drift, and improves the prior's choices."""

import pytest
from http_rig import Fleet, RunningProxy, chat, vote
from scripted_backend import says

DISTINCT = [says(f"\\boxed{{{answer}}}") for answer in (1, 2, 3, 4)]


async def _gauges(proxy: RunningProxy) -> dict[str, float]:
    """The two gauges of model m, by name and task."""
    lines = (await proxy.client.get("/metrics")).text.splitlines()
    named = ("paretoproxy_expected_accuracy{", "paretoproxy_quality_drift{")
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(named)}


EXPECTED = 'paretoproxy_expected_accuracy{model="m",task="math"}'
DRIFT = 'paretoproxy_quality_drift{model="m",task="math"}'


async def test_agreement_shows_as_expected_accuracy(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    assert await _gauges(proxy) == {}
    backend.will(says("\\boxed{4}"), says("\\boxed{4}"), says("\\boxed{4}"), says("\\boxed{5}"))

    await proxy.ask(vote(4))

    assert await _gauges(proxy) == {EXPECTED: 0.75, DRIFT: 0.0}


async def test_a_model_that_no_longer_agrees_is_an_alarm(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    for _ in range(20):
        backend.will(*DISTINCT)
        await proxy.ask(vote(4))
    assert await _gauges(proxy) == {EXPECTED: 0.25, DRIFT: -1.0}


async def test_votes_of_another_kind_are_not_the_tables(fleet: Fleet) -> None:
    """JSON answers are grouped by themselves; what they agree on is not the labelled task."""
    _, proxy = await fleet.one()
    await proxy.ask({**vote(4), "response_format": {"type": "json_object"}})
    assert await _gauges(proxy) == {}


async def _planned(proxy: RunningProxy) -> dict[tuple[str, int], float]:
    """The predicted accuracy per strategy and number of branches."""
    answer = await proxy.ask(chat(), path="/v1/plan")
    rows = answer.json()["candidates"]
    at_once = [row for row in rows if not row["params"].get("window")]
    return {(row["strategy"], row["n"]): row["predicted"]["accuracy"] for row in at_once}


async def test_on_the_prior_agreement_says_that_more_samples_are_not_needed(fleet: Fleet) -> None:
    """A backend whose answers always agree: it is right more often than assumed, and voting helps it less."""
    _, proxy = await fleet.one(task="unlabelled", answers="math")
    before = await _planned(proxy)
    await proxy.ask(vote(5))  # a pinned setting's table is made before anything is known
    for _ in range(63):
        await proxy.ask(vote(4))

    after = await _planned(proxy)

    gain = ("self-consistency", 16), ("none", 1)
    assert after["none", 1] > before["none", 1] + 0.15
    assert after[gain[0]] - after[gain[1]] < before[gain[0]] - before[gain[1]] - 0.05
    gauges = await _gauges(proxy)
    assert gauges['paretoproxy_expected_accuracy{model="m",task="unlabelled"}'] > 0.8
    pinned = (await proxy.ask(vote(5), path="/v1/plan")).json()["candidates"][0]["predicted"]
    assert pinned["accuracy"] == pytest.approx(after["self-consistency", 5])
    assert pinned["prior"] and pinned["accuracy_lower"] < pinned["accuracy"]
