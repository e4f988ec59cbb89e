"""The step-time model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.steptime import StepTime

# 6 ms up to eight branches, then half a millisecond more for each.
KNEE = StepTime(batches=(1, 8, 16), step_s=(0.006, 0.006, 0.010), c_kv_s=1e-8, p0_s=0.01, p_tok_s=2e-5)


def test_between_knots_it_interpolates_and_beyond_the_last_it_goes_on_along_the_last_segment() -> None:
    assert KNEE.g_s([1, 4, 8, 12, 16, 32]) == pytest.approx([0.006, 0.006, 0.006, 0.008, 0.010, 0.018])


def test_a_step_reads_the_kv_cache_of_all() -> None:
    assert KNEE.step_of(8, kv_tokens=100_000) == pytest.approx(0.006 + 0.001)


def test_the_linear_model_is_a_special_case() -> None:
    line = StepTime.linear(c0_s=6e-3, c_tok_s=4e-5, c_kv_s=3e-8, p0_s=1e-2, p_tok_s=2e-5)
    assert line.g_s([1, 7, 300]) == pytest.approx([6e-3 + b * 4e-5 for b in (1, 7, 300)])


def test_a_shared_prompt_is_read_once_and_its_last_block_by_each() -> None:
    assert KNEE.prefill_s(1000, branches=5) == pytest.approx(1e-2 + 2e-5 * (1000 + 4 * 16))


def test_a_long_prompt_pays_for_its_attention_and_each_branch_for_its_request() -> None:
    step = StepTime((1,), (0.006,), 0.0, p0_s=0.01, p_tok_s=1e-5, p_tok2_s=1e-9, p_branch_s=0.002)
    assert step.prefill_s(10_000, 3) == pytest.approx(0.01 + 2 * 0.002 + 1e-5 * (10_000 + 32) + 0.1)


def test_only_what_is_computed_holds_up_others() -> None:
    step = StepTime((1,), (0.006,), 0.0, p0_s=0.01, p_tok_s=1e-5, p_tok2_s=1e-9, p_branch_s=0.002, p_cached_s=1e-6)
    host_s = 0.01 + 2 * 0.002 + 2 * 1e-6 * 10_000
    assert step.computing_s(10_000, 3) == pytest.approx(step.prefill_s(10_000, 3) - host_s)


def test_per_token_a_speculating_engine_is_quicker_by_its_acceptance_length() -> None:
    told = KNEE.per_token(2.0)
    assert told.step_of(8, 1000) == pytest.approx(KNEE.step_of(8, 1000) / 2)
    assert told.prefill_s(100) == KNEE.prefill_s(100)


@given(st.floats(1, 600), st.floats(1, 600))
def test_a_larger_batch_is_never_quicker(a: float, b: float) -> None:
    low, high = np.sort([a, b])
    assert KNEE.g_s(low) <= KNEE.g_s(high)
