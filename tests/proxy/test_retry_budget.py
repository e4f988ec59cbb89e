"""A share of recent requests, whatever comes in whatever order: extra requests cannot multiply an outage."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.reliability.budget import WINDOW_S, Budget
from proxy.reliability.window import Window

EVENTS = st.lists(
    st.tuples(st.floats(0, 4), st.sampled_from(["request", "retry"]), st.integers(1, 30)), min_size=1, max_size=60
)


def test_a_share_of_the_requests_and_the_reserve() -> None:
    budget = Budget(0.2, reserve=3)
    for _ in range(100):
        budget.deposit(0.0)
    assert [budget.take(1.0) for _ in range(24)] == [True] * 23 + [False]


def test_what_was_spent_is_earned_again_once_it_is_old() -> None:
    budget = Budget(0.2, reserve=1)
    assert [budget.take(0.0), budget.take(0.0)] == [True, False]
    assert budget.take(WINDOW_S)


def test_old_requests_earn_nothing() -> None:
    budget = Budget(0.5, reserve=0)
    budget.deposit(0.0)
    budget.deposit(0.0)
    assert not budget.take(2 * WINDOW_S)


@given(EVENTS, st.floats(0, 1), st.integers(0, 20))
def test_never_more_than_the_share_in_any_window(
    events: list[tuple[float, str, int]], share: float, reserve: int
) -> None:
    """Judged by a plain list of all that happened: an extra one is granted only while those of the last window are
    under the share of the requests of the last window, and is not refused while those are far under it."""
    budget, now = Budget(share, reserve), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for passed, what, many in events:
        now += passed
        for _ in range(many):
            if what == "request":
                requests.append(now)
                budget.deposit(now)
                continue
            most = share * sum(at > now - WINDOW_S for at in requests) + reserve
            # A slot is a tenth of the window: what is counted is between nine and ten of them.
            surely_recent = sum(at >= now - 0.9 * WINDOW_S for at in retries)
            granted = budget.take(now)
            if granted:
                assert surely_recent + 1 <= most + 1e-6
                retries.append(now)
            else:
                least = share * sum(at >= now - 0.9 * WINDOW_S for at in requests) + reserve
                assert sum(at > now - WINDOW_S for at in retries) + 1 > least - 1e-6
    assert len(retries) == budget.spent
    turns = now / (0.9 * WINDOW_S) + 1
    assert len(retries) <= share * len(requests) * 2 + reserve * (turns + 1), "over the whole time"


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 5)), max_size=50))
def test_a_window_forgets_what_is_old_and_only_that(events: list[tuple[float, int]]) -> None:
    window, now, seen = Window(10.0), 0.0, list[tuple[float, int]]()
    for passed, many in events:
        now += passed
        window.add(now, total=many, of_kind=many // 2)
        seen.append((now, many))
        assert sum(n for at, n in seen if at >= now - 9) <= window.total <= sum(n for at, n in seen if at > now - 10)
        assert 0 <= window.of_kind <= window.total
