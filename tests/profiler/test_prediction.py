"""What a setting would take on a backend under a load."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.prediction import LOADS, LatencyTable, Prediction, Setting
from profiler.profile_file import Profile, Range, wide_prior
from profiler.steptime import StepTime

STEP = StepTime(c0_s=6e-3, c_tok_s=4e-5, c_kv_s=3e-8, p0_s=1e-2, p_tok_s=2e-5)
CONTEXT = 900.0


def _profile(sigma: float) -> Profile:
    return msgspec.structs.replace(wide_prior("b"), step_time=STEP, residual_sigma=sigma)


def _setting(branches: int, steps: list[int], accuracy: float = 0.8) -> Setting:
    """Every branch of every replay runs to the replay's end."""
    x = np.array(steps, float)
    params = {"n": branches}
    return Setting(
        "self-consistency",
        params,
        branches,
        False,
        accuracy,
        accuracy - 0.1,
        False,
        x,
        x * branches,
        x**2 * branches / 2,
    )


def _predict(table: LatencyTable, load: float, prompt_tokens: float, bias: float = 1.0) -> Prediction:
    """Of a table with one backend: arrays over settings."""
    both = table.predict(np.array([load]), prompt_tokens, np.array([bias]))
    return Prediction(both.median_s[0], both.tail_s[0], both.busy_s[0], both.ttft_s[0], both.tpot_s[0])


SETTINGS = [_setting(1, [50, 100, 400]), _setting(8, [100, 100, 900, 1200]), _setting(16, [10] * 5)]


@pytest.mark.parametrize("load", LOADS.tolist())
def test_without_spread_a_grid_load_is_the_linear_model_exactly(load: float) -> None:
    table = LatencyTable([_profile(1e-12)], SETTINGS, 0.95, CONTEXT)
    predicted = _predict(table, load, prompt_tokens=300)
    others_s = load * (STEP.c_tok_s + STEP.c_kv_s * CONTEXT)
    for row, setting in enumerate(SETTINGS):
        own_s = STEP.c_tok_s * setting.branch_steps + STEP.c_kv_s * setting.kv_steps
        seconds = setting.steps * (STEP.c0_s + others_s) + own_s
        prefill_s = STEP.prefill_s(300, setting.branches) + others_s
        prompt_s = STEP.c_kv_s * 300 * setting.branch_steps.mean()
        assert predicted.median_s[row] == pytest.approx(np.median(seconds) + prefill_s + prompt_s)
        assert predicted.tail_s[row] == pytest.approx(np.quantile(seconds, 0.95) + prefill_s + prompt_s)
        assert predicted.ttft_s[row] == pytest.approx(prefill_s)
        assert predicted.tpot_s[row] == pytest.approx(STEP.c0_s + STEP.c_tok_s * setting.branches + others_s)
        assert predicted.busy_s[row] == pytest.approx(
            (seconds.mean() + prefill_s + prompt_s) * setting.branches / (setting.branches + load)
        )


def test_between_grid_loads_it_interpolates_and_beyond_them_it_stays() -> None:
    table = LatencyTable([_profile(0.2)], SETTINGS, 0.95, CONTEXT)
    at = {load: _predict(table, load, 300).median_s for load in (8, 12, 16, 512, 9999)}
    assert at[12] == pytest.approx((at[8] + at[16]) / 2)
    assert at[9999] == pytest.approx(at[512])


@given(st.floats(0, 600), st.floats(0, 600), st.floats(0, 5000), st.sampled_from([0.03, 0.3, 0.7]))
def test_tail_is_above_median_and_load_and_prompt_only_slow(a: float, b: float, prompt: float, sigma: float) -> None:
    table = LatencyTable([_profile(sigma)], SETTINGS, 0.9, CONTEXT)
    low, high = _predict(table, min(a, b), prompt), _predict(table, max(a, b), prompt)
    longer = _predict(table, max(a, b), prompt + 100)
    assert (low.tail_s >= low.median_s).all()
    for field in ("median_s", "tail_s", "ttft_s", "tpot_s"):
        assert (getattr(low, field) <= getattr(high, field) + 1e-12).all()
        assert (getattr(high, field) <= getattr(longer, field) + 1e-12).all()


def test_a_wider_residual_spread_means_a_later_tail_and_the_same_middle() -> None:
    narrow, wide = (
        _predict(LatencyTable([_profile(s)], [_setting(4, [100] * 128)], 0.95, CONTEXT), 4, 0) for s in (0.1, 0.5)
    )
    assert wide.median_s == pytest.approx(narrow.median_s, rel=0.02)
    assert wide.tail_s[0] / wide.median_s[0] == pytest.approx(np.exp(1.645 * 0.5), rel=0.05)
    assert narrow.tail_s[0] / narrow.median_s[0] == pytest.approx(np.exp(1.645 * 0.1), rel=0.05)


def test_a_measured_bias_scales_every_time() -> None:
    table = LatencyTable([_profile(0.2)], SETTINGS, 0.95, CONTEXT)
    plain, slow = _predict(table, 3, 100), _predict(table, 3, 100, bias=2)
    for field in ("median_s", "tail_s", "busy_s", "ttft_s", "tpot_s"):
        assert getattr(slow, field) == pytest.approx(2 * getattr(plain, field))


def test_on_an_idle_backend_the_busy_time_is_the_whole_time_and_others_take_their_share() -> None:
    table = LatencyTable([_profile(1e-12)], [_setting(8, [100] * 4)], 0.95, CONTEXT)
    idle, shared = _predict(table, 0, 0), _predict(table, 8, 0)
    assert idle.busy_s == pytest.approx(idle.median_s)
    assert shared.busy_s == pytest.approx(shared.median_s / 2)


def test_within_a_budget_a_cut_replay_counts_as_wrong_and_works_no_longer() -> None:
    setting = _setting(4, [100, 200, 300, 400])
    cut = setting.within(250)
    assert (cut.accuracy, cut.accuracy_lower) == (pytest.approx(0.4), pytest.approx(0.35))
    assert cut.steps.tolist() == [100, 200, 250, 250]
    assert cut.branch_steps.tolist() == [400, 800, 1000, 1000]
    assert cut.kv_steps.tolist() == [20_000, 80_000, 125_000, 125_000]
    assert setting.within(400) is setting
    assert setting.within(None) is setting


def test_a_number_of_branches_that_was_not_measured_scales_the_work_not_the_time() -> None:
    eight = _setting(4, [100, 200]).with_branches(8, {"n": 8, "stop": "all"})
    assert (eight.branches, eight.params, eight.steps.tolist()) == (8, {"n": 8, "stop": "all"}, [100, 200])
    assert eight.branch_steps.tolist() == [800, 1600]
    assert eight.kv_steps.tolist() == [40_000, 160_000]


def test_under_another_strategys_name_it_is_an_assumption() -> None:
    renamed = _setting(4, [100]).renamed("theirs")
    assert (renamed.strategy, renamed.prior, renamed.accuracy) == ("theirs", True, 0.8)


def test_backends_in_one_table_are_predicted_as_each_alone() -> None:
    profiles = [_profile(0.1), _profile(0.4)]
    together = LatencyTable(profiles, SETTINGS, 0.95, CONTEXT)
    predicted = together.predict(np.array([0.0, 20.0]), 100, np.array([1.0, 1.5]))
    for row, (profile, load, bias) in enumerate(zip(profiles, (0, 20), (1.0, 1.5), strict=True)):
        alone = _predict(LatencyTable([profile], SETTINGS, 0.95, CONTEXT), load, 100, bias)
        assert predicted.tail_s[row] == pytest.approx(alone.tail_s)
        assert predicted.busy_s[row] == pytest.approx(alone.busy_s)


def test_beyond_the_measured_batch_the_spread_widens() -> None:
    narrow = msgspec.structs.replace(_profile(0.2), range=Range(8, 8192, 8192))
    settings = [_setting(n, [100] * 128) for n in (8, 16)]
    predicted = _predict(LatencyTable([narrow], settings, 0.95, CONTEXT), 0, 0)
    ratio = np.log(predicted.tail_s / predicted.median_s)
    assert ratio[1] == pytest.approx(2 * ratio[0], rel=0.05)
