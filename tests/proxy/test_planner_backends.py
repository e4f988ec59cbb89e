"""The planner's choice among backends: kinds, health, load, queues and prices."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from planner_tables import SETTINGS, ask, backend, chosen, decide, served, setting

from proxy.capabilities import Capabilities
from proxy.catalog import TaskTable
from proxy.catalog_build import build
from proxy.config import BackendConfig, TokenPrices, load
from proxy.controls import Slo
from proxy.correction import Forecast
from proxy.planner import choose
from proxy.plans import Decision, NoCandidate, Pinned
from strategies.base import Need
from strategies.registry import Registry


def test_a_greedy_only_backend_serves_greedy_requests_only() -> None:
    greedy_only, any_kind = backend("greedy", sampling="greedy", gpu_hour_usd=1), backend("any")
    sampled = decide(ask(), greedy_only, any_kind)
    assert (sampled.plan.backend, sampled.dropped, sampled.considered) == (any_kind, {"sampling": 4}, 8)
    greedy = decide(ask(greedy=True), greedy_only, any_kind)
    assert (greedy.plan.backend, greedy.plan.strategy) == (greedy_only, "none")
    assert greedy.plan.predicted.accuracy_lower == 0.62
    assert choose(ask(), served(greedy_only)) == NoCandidate(4, {"sampling": 4})


def test_a_plan_that_turns_greedy_keeps_off_backends_that_are_wrong_at_temperature_0() -> None:
    turning = replace(setting("none", 1, 0.9), params={"greedy": True}, needs=frozenset({Need.FREE_SAMPLING}))
    wrong, right = backend("wrong", gpu_hour_usd=1), backend("right")
    wrong.disagrees = frozenset({"greedy"})
    decision = decide(ask(), wrong, right, table=(turning,))
    assert (decision.plan.backend, decision.dropped) == (right, {"disagrees": 1})
    pinned = ask(pinned=Pinned("none", {"greedy": True}, 1, needs=frozenset({Need.FREE_SAMPLING})))
    assert choose(pinned, served(wrong, table=(turning,))) == NoCandidate(1, {"disagrees": 1})


@pytest.mark.parametrize("why", ["sampling", "disagrees"])
def test_a_plan_at_temperature_0_alone_may_run_where_others_of_the_request_may_not(why: str) -> None:
    """One answer at temperature 0 is right there, and may be quicker; a vote that only begins with one is not."""
    alone = replace(setting("none", 1, 0.9), params={"greedy": True}, needs=frozenset({Need.FREE_SAMPLING}))
    begun = replace(setting("self-consistency", 4, 0.95, greedy=False), needs=frozenset({Need.FREE_SAMPLING}))
    cheap = backend("cheap", gpu_hour_usd=1, sampling="greedy" if why == "sampling" else "all")
    if why == "disagrees":
        cheap.disagrees = frozenset({"sampled"})
    decision = decide(ask(), cheap, table=(alone, begun, *(s for s in SETTINGS if not s.greedy)))
    assert (decision.plan.backend, decision.plan.params) == (cheap, {"greedy": True})
    assert decision.dropped == {why: decision.considered - 1}


def test_sick_and_failed_backends_are_left_out_and_counted() -> None:
    sick, failed, well = backend("sick"), backend("failed"), backend("well", gpu_hour_usd=9999)
    sick.health.serving = False
    decision = decide(ask(exclude=frozenset({"failed"})), sick, failed, well)
    assert (decision.plan.backend, decision.dropped) == (well, {"unhealthy": 4, "failed": 4})
    asked = ask(exclude=frozenset({"failed"}), pinned=("none", {}))
    assert choose(asked, served(sick, failed)) == NoCandidate(2, {"unhealthy": 1, "failed": 1})


def test_load_moves_the_choice_to_another_backend() -> None:
    assert decide(ask(Slo(latency_ms=1900)), backend("a"), backend("b", others=20)).plan.backend.name == "a"
    assert decide(ask(Slo(latency_ms=1900)), backend("a", others=20), backend("b")).plan.backend.name == "b"


def test_load_lowers_the_number_of_samples_and_our_own_branches_are_load() -> None:
    slo = Slo(latency_ms=1900)
    assert [chosen(slo, backend(others=load)) for load in (0, 8, 12, 16, 200)] == [16, 8, 4, 1, 1]
    busy = backend()
    for _ in range(8):
        busy.gpu_time.enter()
    assert chosen(slo, busy) == 8


def test_a_backend_that_turned_out_slower_is_believed() -> None:
    slow = backend()
    for _ in range(50):  # it takes 2 s where 1.5 were predicted
        predicted = 1.5 * slow.correction.bias
        slow.correction.observe(2.0, Forecast(predicted, 2 * predicted, 0.95, slow.correction.bias))
    assert chosen(Slo(latency_ms=1900), slow) < 16


def test_branches_that_would_queue_are_dropped_but_a_single_one_may_wait() -> None:
    full = backend(others=4, max_num_seqs=10)
    decision = decide(ask(), full)
    assert (decision.plan.branches, decision.dropped) == (4, {"queue": 2})
    overfull = decide(ask(), backend(others=99, max_num_seqs=10))
    assert (overfull.plan.branches, overfull.feasible) == (1, True)
    pinned = decide(ask(pinned=("self-consistency", {"n": 16})), full)
    assert (pinned.feasible, pinned.gave_up) == (False, ("queue",))


def test_under_a_cost_cap_an_unknown_price_does_not_count_as_free() -> None:
    unpriced, priced = backend("unpriced", gpu_hour_usd=None), backend("priced", gpu_hour_usd=7200)
    decision = decide(ask(Slo(cost_usd=2.5)), unpriced, priced)
    assert (decision.plan.backend, decision.plan.branches, decision.dropped) == (priced, 4, {"cost": 6})
    alone = decide(ask(Slo(cost_usd=2.5, latency_ms=1300)), unpriced)
    assert (alone.feasible, alone.gave_up, alone.plan.predicted.cost_usd) == (False, ("cost",), None)
    assert alone.plan.branches == 4  # the other limits still hold, and the objective decides


def test_a_choice_among_models_is_made_like_one_among_backends() -> None:
    large = served(backend("large", gpu_hour_usd=7200), table=tuple(replace(s, accuracy_lower=0.9) for s in SETTINGS))
    both = served() + large
    best, cheapest = choose(ask(), both), choose(ask(Slo(objective="cost")), both)
    assert isinstance(best, Decision)
    assert isinstance(cheapest, Decision)
    assert (best.plan.backend.name, best.plan.branches) == ("large", 1)  # all as good: the cheapest of them
    assert (cheapest.plan.backend.name, cheapest.plan.branches) == ("a", 1)


def test_a_profile_that_is_not_there_yet_is_a_wide_prior_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that a configuration names but that was never started must not keep the others from serving."""
    config = tmp_path / "fleet.yaml"
    config.write_text("models: [{name: m, backends: [{name: a, url: 'http://127.0.0.1:1', profile: a.json}]}]")
    catalog = build(load(config, {}), Registry.installed(), lambda: 0.0)
    assert catalog.backends[0].profile.cells == []
    assert "paretoproxy profile" in caplog.text


def test_others_are_taken_to_run_whole_samples_whatever_the_table_begins_with() -> None:
    cut_early, whole = setting("first-finish", 2, 0.6, steps=20), setting("none", 1, 0.6, steps=90)
    table = TaskTable("t", "math", (cut_early, setting("none", 1, 0.6, greedy=True), whole), False, 10.0)
    assert table.mean_output_tokens == 91


def test_pass_through_knows_the_median_of_one_branch_at_every_load() -> None:
    """Tabulated at the table's own loads and looked up in between: the same as predicting each."""
    one, other = backend("one"), backend("other", gpu_hour_usd=1)
    models = served(one, other)[0]
    for others in (0, 5, 37, 511):
        one.gpu_time.set_others(others)
        table = models.latency(None, None)
        predicted = table.predict(np.full(2, float(others)), 0.0, np.ones(2)).median_s[0, 0]
        assert models.single_latency_s(one) == pytest.approx(predicted)
    assert models.fastest() is other


def test_what_the_settings_need_is_asked_of_each_backend() -> None:
    able, unable, unknown = backend("able"), backend("unable"), backend("unknown")
    able.capabilities = Capabilities({"logprobs": True, "chat": True})
    unable.capabilities = Capabilities({"logprobs": False, "chat": True})
    plain, needy = SETTINGS[0], replace(SETTINGS[1], needs=frozenset({Need.LOGPROBS, Need.CHAT}))
    models = served(able, unable, unknown)[0]
    assert models.able([plain, plain], unless_known=False) is None
    assert models.able([plain, needy, plain], unless_known=False).tolist() == [
        [True, True, True],
        [True, False, True],
        [True, False, True],
    ]
    assert models.able([plain, needy], unless_known=True)[2].tolist() == [True, True]


def test_where_only_tokens_have_a_price_a_plan_is_expected_to_cost_what_they_do() -> None:
    """Branches of 101 tokens at a cent each, and a prompt of 50 at a tenth of that."""
    prices = TokenPrices(prompt=1_000.0, completion=10_000.0)
    hosted, own = backend("hosted", gpu_hour_usd=None, usd_per_million_tokens=prices), backend("own", gpu_hour_usd=1e6)
    four = decide(ask(Slo(cost_usd=4.5), prompt_tokens=50), hosted, own)
    assert (four.plan.backend, four.plan.branches) == (hosted, 4)
    assert four.plan.predicted.cost_usd == pytest.approx(4 * (101 * 0.01 + 50 * 0.001))
    assert four.plan.predicted.congestion_usd is None
    assert decide(ask(Slo(cost_usd=2.0), prompt_tokens=50), hosted).plan.branches == 1


def test_plans_are_compared_at_the_prices_of_the_moment() -> None:
    steps = [{"from": datetime.fromtimestamp(at, UTC), "usd": usd} for at, usd in ((0, 3600.0), (1000, 7200.0))]
    config = BackendConfig.model_validate({"name": "a", "url": "http://b", "gpu_hour_usd": steps})
    (model,) = served(backend("a", gpu_hour_usd=config.gpu_hour_usd))
    now = [999.0]
    model.now = lambda: now[0]
    before = model.usd_per_gpu_s[0, 0]
    now[0] = 1000.0
    assert (before, model.usd_per_gpu_s[0, 0]) == (1.0, 2.0)
