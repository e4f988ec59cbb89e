"""What a setting would take on a backend under a load."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.prediction import LatencyTable, Prediction, Setting, Traffic
from profiler.profile_file import Profile, Range, wide_prior
from profiler.quality_sections import BudgetCurve
from profiler.steptime import StepTime

# A knee at eight branches: nothing before it, then half a millisecond each.
STEP = StepTime(
    batches=(1, 8, 16),
    step_s=(6e-3, 6e-3, 10e-3),
    c_kv_s=3e-8,
    c_shared_s=1e-8,
    p0_s=1e-2,
    p_tok_s=2e-5,
    p_cached_s=1e-6,
    p_branch_s=1e-3,
    stall=0.5,
)
TRAFFIC = Traffic(prompt_tokens=400, output_tokens=1000)


def _profile(sigma: float) -> Profile:
    return msgspec.structs.replace(wide_prior("b"), step_time=STEP, residual_sigma=sigma)


def _setting(branches: int, tokens: list[int], accuracy: float = 0.8) -> Setting:
    """Every branch of every replay runs to the replay's end."""
    return _ragged([[count] * branches for count in tokens], accuracy)


def _ragged(lengths: list[list[int]], accuracy: float = 0.8) -> Setting:
    n = len(lengths[0])
    work = np.array(lengths, float)
    return Setting("self-consistency", {"n": n}, n, False, accuracy, accuracy - 0.1, False, work)


def _predict(table: LatencyTable, load: float, prompt_tokens: float, bias: float = 1.0) -> Prediction:
    """Of a table with one backend: arrays over settings."""
    both = table.predict(np.array([load]), prompt_tokens, np.array([bias]))
    return Prediction(*(getattr(both, field)[0] for field in Prediction.__slots__))


SETTINGS = [_setting(1, [50, 100, 400]), _ragged([[20, 60, 90, 400], [5, 5, 5, 5]]), _setting(16, [10] * 5)]


def _simulated(setting: Setting, load: int) -> tuple[list[float], list[float]]:
    """Step by step: seconds of every replay after its prefill, and the share of them that its branches are charged."""
    seconds, charged = [], []
    churn_s = load * STEP.stall * float(STEP.computing_s(TRAFFIC.prompt_tokens)) / TRAFFIC.output_tokens
    for lengths in setting.lengths:
        took = own = 0.0
        for step in range(1, int(lengths.max())):
            running = int((lengths > step).sum())
            kv = running * (step + 0.5) + load * TRAFFIC.context_tokens
            step_s = STEP.step_of(running + load, kv) + churn_s
            took += step_s
            own += step_s * running / (running + load)
        seconds.append(took)
        charged.append(own)
    return seconds, charged


@pytest.mark.parametrize("load", [0, 1, 6, 8, 32])
def test_without_spread_the_table_is_the_step_by_step_simulation(load: int) -> None:
    """The batch shrinks as branches end, on an engine whose step has a knee."""
    predicted = _predict(LatencyTable([_profile(1e-12)], SETTINGS, 0.95, TRAFFIC), load, prompt_tokens=300)
    wait_s = STEP.step_of(load, load * TRAFFIC.context_tokens) if load else 0.0
    for row, setting in enumerate(SETTINGS):
        seconds, charged = _simulated(setting, load)
        ttft_s = STEP.prefill_s(300, setting.branches) + wait_s
        prompt_s = (STEP.c_shared_s if setting.branches > 1 else STEP.c_kv_s) * 300 * setting.tokens.mean()
        assert predicted.median_s[row] == pytest.approx(np.median(seconds) + ttft_s + prompt_s, rel=2e-3)
        assert predicted.tail_s[row] == pytest.approx(np.quantile(seconds, 0.95) + ttft_s + prompt_s, rel=2e-3)
        assert predicted.ttft_s[row] == pytest.approx(ttft_s)
        extra_s = (ttft_s + prompt_s) * setting.branches / (setting.branches + load)
        assert predicted.busy_s[row] == pytest.approx(np.mean(charged) + extra_s, rel=2e-2)


@pytest.mark.parametrize("load", [1, 6, 16])
def test_congestion_is_what_the_others_pay_for_waiting(load: int) -> None:
    """Every one of `load` others is held up by what each step takes longer, at its share of the engine's price."""
    predicted = _predict(LatencyTable([_profile(1e-12)], SETTINGS, 0.95, TRAFFIC), load, prompt_tokens=300)
    for row, setting in enumerate(SETTINGS):
        delays = []
        for lengths in setting.lengths:
            running = [(step, int((lengths > step).sum())) for step in range(1, int(lengths.max()))]
            delays.append(sum(STEP.step_of(k + load, k * step) - STEP.step_of(load, 0) for step, k in running))
        held_up_s = np.mean(delays) + STEP.stall * STEP.computing_s(300, setting.branches)
        share = load / (setting.branches + load)
        assert predicted.congestion_s[row] == pytest.approx(held_up_s * share, rel=0.05)


def test_on_an_idle_backend_nobody_is_held_up() -> None:
    assert _predict(LatencyTable([_profile(0.1)], SETTINGS, 0.95, TRAFFIC), 0, 300).congestion_s.tolist() == [0, 0, 0]


def test_between_grid_loads_it_interpolates() -> None:
    table = LatencyTable([_profile(0.2)], SETTINGS, 0.95, TRAFFIC)
    at = {load: _predict(table, load, 300).median_s for load in (12, 14, 16)}
    assert at[14] == pytest.approx((at[12] + at[16]) / 2)


def test_with_every_seat_taken_a_branch_waits_for_as_many_ends_as_there_are_before_it() -> None:
    profile = _profile(0.2)
    table, seats = LatencyTable([profile], SETTINGS, 0.95, TRAFFIC), profile.max_num_seqs
    one = table.branches == 1
    at = {extra: _predict(table, seats + extra, 300) for extra in (-1, 0, 9)}
    step_s = profile.token_time.g_s(seats) + profile.token_time.c_kv_s * TRAFFIC.context_tokens * seats
    turnover_s = TRAFFIC.output_tokens * float(step_s) / seats
    assert (at[0].median_s > at[-1].median_s)[one].all()
    assert (at[9].median_s - at[0].median_s)[one] == pytest.approx(9 * turnover_s)
    assert (at[9].ttft_s - at[0].ttft_s)[one] >= 9 * turnover_s
    assert (at[9].tail_s - at[-1].tail_s > at[9].median_s - at[-1].median_s)[one].all()


@given(st.floats(0, 600), st.floats(0, 600), st.floats(0, 5000), st.sampled_from([0.03, 0.3, 0.7]))
def test_tail_is_above_median_and_load_and_prompt_only_slow(a: float, b: float, prompt: float, sigma: float) -> None:
    table = LatencyTable([_profile(sigma)], SETTINGS, 0.9, TRAFFIC)
    low, high = _predict(table, min(a, b), prompt), _predict(table, max(a, b), prompt)
    longer = _predict(table, max(a, b), prompt + 100)
    assert (low.tail_s >= low.median_s).all()
    for field in ("median_s", "tail_s", "ttft_s", "tpot_s"):
        assert (getattr(low, field) <= getattr(high, field) + 1e-12).all()
        assert (getattr(high, field) <= getattr(longer, field) + 1e-12).all()


def test_a_wider_residual_spread_means_a_later_tail_and_the_same_middle() -> None:
    narrow, wide = (
        _predict(LatencyTable([_profile(s)], [_setting(4, [100] * 128)], 0.95, TRAFFIC), 4, 0) for s in (0.1, 0.5)
    )
    assert wide.median_s == pytest.approx(narrow.median_s, rel=0.02)
    assert wide.tail_s[0] / wide.median_s[0] == pytest.approx(np.exp(1.645 * 0.5), rel=0.05)
    assert narrow.tail_s[0] / narrow.median_s[0] == pytest.approx(np.exp(1.645 * 0.1), rel=0.05)


def test_a_measured_bias_scales_every_time() -> None:
    table = LatencyTable([_profile(0.2)], SETTINGS, 0.95, TRAFFIC)
    plain, slow = _predict(table, 3, 100), _predict(table, 3, 100, bias=2)
    for field in Prediction.__slots__:
        assert getattr(slow, field) == pytest.approx(2 * getattr(plain, field))


def test_on_an_idle_backend_the_busy_time_is_the_whole_time_and_others_take_their_share() -> None:
    table = LatencyTable([_profile(1e-12)], [_setting(8, [100] * 4)], 0.95, TRAFFIC)
    idle, shared = _predict(table, 0, 0), _predict(table, 8, 0)
    assert idle.busy_s == pytest.approx(idle.median_s)
    assert shared.busy_s == pytest.approx(shared.median_s / 2)


def test_within_a_budget_a_cut_replay_counts_as_wrong_and_works_no_longer() -> None:
    setting = _ragged([[50, 100], [50, 200], [60, 300], [90, 400]])
    cut = setting.within(80)
    assert (cut.accuracy, cut.accuracy_lower) == (0.0, 0.0)
    assert cut.lengths.tolist() == [[50, 80], [50, 80], [60, 80], [80, 80]]
    assert setting.within(250).accuracy == pytest.approx(0.4)
    assert setting.within(400) is setting
    assert setting.within(None) is setting


def test_within_a_budget_that_was_derived_the_others_vote() -> None:
    budget = BudgetCurve("self-consistency", {"n": 2}, False, [100, 200, 400], [0.3, 0.6, 0.8], [0.2, 0.5, 0.7])
    cut = replace(_ragged([[50, 100], [50, 400]]), budget=budget).within(150)
    assert (cut.accuracy, cut.accuracy_lower) == (pytest.approx(0.45), 0.2)


def test_a_number_of_branches_that_was_not_measured_has_its_lengths_spread_over_as_many() -> None:
    setting = _ragged([[100, 200, 400], [30, 30, 30]])
    five = setting.with_branches(5, {"n": 5, "stop": "all"})
    assert (five.branches, five.params) == (5, {"n": 5, "stop": "all"})
    assert five.lengths.tolist() == [[100, 150, 200, 300, 400], [30] * 5]
    assert five.longest.tolist() == setting.longest.tolist()
    one = setting.with_branches(1, {})
    assert one.lengths.tolist() == [[400], [30]]


def test_under_another_strategys_name_it_is_an_assumption() -> None:
    renamed = _setting(4, [100]).renamed("theirs")
    assert (renamed.strategy, renamed.prior, renamed.accuracy) == ("theirs", True, 0.8)


def test_backends_in_one_table_are_predicted_as_each_alone() -> None:
    profiles = [_profile(0.1), _profile(0.4)]
    together = LatencyTable(profiles, SETTINGS, 0.95, TRAFFIC)
    predicted = together.predict(np.array([0.0, 20.0]), 100, np.array([1.0, 1.5]))
    for row, (profile, load, bias) in enumerate(zip(profiles, (0, 20), (1.0, 1.5), strict=True)):
        alone = _predict(LatencyTable([profile], SETTINGS, 0.95, TRAFFIC), load, 100, bias)
        assert predicted.tail_s[row] == pytest.approx(alone.tail_s)
        assert predicted.busy_s[row] == pytest.approx(alone.busy_s)


def test_beyond_the_measured_batch_the_spread_widens() -> None:
    narrow = msgspec.structs.replace(_profile(0.2), range=Range(8, 8192, 8192))
    settings = [_setting(n, [100] * 128) for n in (8, 16)]
    predicted = _predict(LatencyTable([narrow], settings, 0.95, TRAFFIC), 0, 0)
    ratio = np.log(predicted.tail_s / predicted.median_s)
    assert ratio[1] == pytest.approx(2 * ratio[0], rel=0.05)


def test_replicas_share_the_rows_of_their_table_and_each_is_predicted_as_if_it_were_alone() -> None:
    """A fleet of many replicas has few profiles: only those are tabulated."""
    one, other = _profile(0.1), msgspec.structs.replace(_profile(0.3), acceptance_length=2.0)
    profiles = [one, msgspec.structs.replace(other, backend="c"), other, msgspec.structs.replace(one, backend="d")]
    loads, bias = np.array([0.0, 5.0, 30.0, 5.0]), np.array([1.0, 1.2, 1.0, 0.9])
    together = LatencyTable(profiles, SETTINGS, 0.95, TRAFFIC)
    assert len(together._tabulated) == 2
    predicted = together.predict(loads, 300, bias)
    for row, profile in enumerate(profiles):
        alone = LatencyTable([profile], SETTINGS, 0.95, TRAFFIC).predict(loads[[row]], 300, bias[[row]])
        for field in Prediction.__slots__:
            assert getattr(predicted, field)[row] == pytest.approx(getattr(alone, field)[0]), field
