"""Length distributions of answers that were partly cut, and what length says about being right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.lengths import lengths, quantile, restricted_mean, survival
from profiler.quality_file import StoredQuestion, StoredSample


def _question(samples: list[StoredSample]) -> StoredQuestion:
    return StoredQuestion("q", "7", "all", 5, samples[0], samples)


def _sample(tokens: int, correct: bool, limit: int | None = None) -> StoredSample:
    if limit is not None and tokens > limit:
        return StoredSample(None, limit, "length", False)
    return StoredSample("7" if correct else "8", tokens, "stop", correct)


def test_survival_by_hand() -> None:
    """Of five one ends at 2; of the three left after the cut at 3, one ends at 4 and one at 6."""
    at, surviving = survival(np.array([2, 3, 4, 6, 7]), np.array([False, True, False, False, True]))
    assert dict(zip(at.tolist(), surviving.tolist(), strict=True)) == pytest.approx(
        {2: 4 / 5, 3: 4 / 5, 4: 4 / 5 * 2 / 3, 6: 4 / 5 / 3, 7: 4 / 5 / 3}
    )
    assert (quantile(at, surviving, 0.5), quantile(at, surviving, 0.2)) == (6, 2)
    assert quantile(at, surviving, 0.9) is None  # more than a tenth were never seen to end
    assert restricted_mean(at, surviving) == pytest.approx(2 + 2 * 4 / 5 + 2 * 8 / 15 + 4 / 15)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_without_cuts_it_is_the_plain_distribution(tokens: list[int]) -> None:
    at, surviving = survival(np.array(tokens), np.zeros(len(tokens), bool))
    assert restricted_mean(at, surviving) == pytest.approx(np.mean(tokens))
    for q in (0.1, 0.5, 0.95, 1.0):
        assert quantile(at, surviving, q) == int(np.quantile(tokens, q, method="inverted_cdf"))


def test_answers_cut_at_several_limits_still_give_the_true_quantiles() -> None:
    """Leaving the cut ones out would put the median of these below 60."""
    rng = np.random.default_rng(0)
    true = rng.lognormal(np.log(100), 0.7, 4000).astype(int) + 1
    limits = rng.choice([60, 120, 400], 4000)
    pool = [_question([_sample(int(t), True, int(limit)) for t, limit in zip(true, limits, strict=True)])]
    found = lengths(pool)
    assert found.cut == pytest.approx((true > limits).mean(), abs=1e-4)
    for name in ("p25", "p50", "p75"):
        assert found.quantiles[name] == pytest.approx(np.quantile(true, int(name[1:]) / 100), rel=0.06)
    assert found.restricted_mean == pytest.approx(np.minimum(true, 400).mean(), rel=0.03)


def _pool(questions: int, *, between: bool, within: bool) -> list[StoredQuestion]:
    """`between`: hard questions have long answers; `within`: of one question's answers the long ones are wrong."""
    rng = np.random.default_rng(1)
    pool = []
    for _ in range(questions):
        rate = rng.uniform(0.1, 0.9)
        base = 400 - 300 * rate if between else 200
        right = rng.random(32) < rate
        tokens = base + rng.normal(0, 20, 32) + (60 * ~right if within else 0)
        pool.append(_question([_sample(int(t), bool(r)) for t, r in zip(tokens, right, strict=True)]))
    return pool


@pytest.mark.parametrize(("between", "within"), [(True, False), (False, True), (True, True), (False, False)])
def test_hard_questions_are_told_from_long_answers(between: bool, within: bool) -> None:
    found = lengths(_pool(80, between=between, within=within))
    assert found.within_questions is not None and found.overall is not None
    assert (found.within_questions.upper < -0.3) == within
    assert (found.overall.upper < -0.3) == (between or within)
    if not within:
        assert abs(found.within_questions.value) < 0.05
    for correlation in (found.within_questions, found.overall):
        assert correlation.lower < correlation.value < correlation.upper


def test_where_nothing_varies_there_is_no_correlation() -> None:
    found = lengths([_question([_sample(10, True)] * 4)])
    assert (found.within_questions, found.overall, found.quantiles["p99"]) == (None, None, 10)
