"""When a vote may stop."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from strategies.stopping import All, BetaLead, FirstArrivals, beta_lead

NEVER_BY_CONFIDENCE = BetaLead(confidence=1 - 1e-15)


@given(st.integers(0, 128), st.integers(0, 128))
def test_beta_lead_is_the_papers_integral(first: int, second: int) -> None:
    assert beta_lead(first, second) == pytest.approx(1 - betainc(first + 1, second + 1, 0.5), rel=1e-9, abs=1e-12)


def test_all_waits_for_the_last_branch_however_clear_the_lead() -> None:
    assert [All().decided([arrived], arrived, 4) for arrived in range(1, 5)] == [False, False, False, True]


def test_first_arrivals_counts_abstentions_too() -> None:
    assert [FirstArrivals(2).decided([], arrived, 8) for arrived in (1, 2)] == [False, True]


@pytest.mark.parametrize(
    ("votes", "arrived", "decided"),
    [
        ([3], 3, False),  # 15/16 < 0.95
        ([4], 4, True),  # 31/32
        ([1, 4], 5, False),  # 57/64
        ([2, 7, 1], 10, False),  # 968/1024
        ([2, 8, 1], 11, True),  # 1981/2048: only the runner-up counts, not the third
        ([], 31, False),
        ([], 32, True),  # nothing can come any more
    ],
)
def test_beta_lead_stops_at_95_percent_of_32(votes: list[int], arrived: int, decided: bool) -> None:
    assert BetaLead(0.95).decided(votes, arrived, 32) is decided


@given(
    st.lists(st.integers(1, 6), max_size=4),
    st.integers(0, 3),
    st.integers(0, 8),
    st.sampled_from([0.6, 0.8, 0.9, 0.95, 0.99]),
)
def test_beta_lead_stops_exactly_when_told(votes: list[int], abstained: int, out: int, confidence: float) -> None:
    first, second = sorted([*votes, 0, 0], reverse=True)[:2]
    arrived = sum(votes) + abstained
    confident = 1 - betainc(first + 1, second + 1, 0.5) >= confidence
    safe = second + out < first
    assert BetaLead(confidence).decided(votes, arrived, arrived + out) is bool(confident or safe or out == 0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(1, 4))
def test_without_confidence_it_stops_exactly_when_no_completion_changes_the_winner(votes: list[int], out: int) -> None:
    leader = max(range(len(votes)), key=votes.__getitem__)
    stays = all(_sole_winner(end) == leader for end in _completions([*votes, 0], out))
    assert NEVER_BY_CONFIDENCE.decided(votes, sum(votes), sum(votes) + out) is stays


def _sole_winner(votes: Sequence[int]) -> int | None:
    best = max(votes)
    return votes.index(best) if list(votes).count(best) == 1 else None


def _completions(votes: list[int], out: int) -> Iterator[list[int]]:
    """All ways in which `out` more branches can vote for any class (the last one new), or abstain."""
    if out == 0:
        yield votes
        return
    yield from _completions(votes, out - 1)
    for group in range(len(votes)):
        yield from _completions([v + (g == group) for g, v in enumerate(votes)], out - 1)
