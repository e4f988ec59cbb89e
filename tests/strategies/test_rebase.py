"""REBASE: how many children each node gets, by hand."""

from collections import Counter
from itertools import pairwise
from math import log

import pytest
from arithmetic_steps import scores_by
from hypothesis import given
from hypothesis import strategies as st

from strategies.base import Generation
from strategies.rebase import Params, Rebase, children
from strategies.testing import Scripted, ScriptedSampler, writes


@pytest.mark.parametrize(
    ("weights", "budget", "counts"),
    [
        ((4, 2, 1, 1), 8, (4, 2, 1, 1)),  # 8·4/8; 4·2/4; 2·1/2; 1·1/1
        ((4, 2, 1, 1), 5, (3, 1, 1, 0)),  # ceil 2.5; 2·2/4; ceil 0.5; nothing is left
        ((1, 1, 2, 4), 5, (1, 0, 1, 3)),  # the best first, wherever it stands
        ((3, 2, 1), 7, (4, 2, 1)),  # ceil 3.5; 3·2/3; 1
        ((1, 1, 1), 8, (3, 3, 2)),  # ceil 2.67; 5/2 → 3; 2
        ((1,), 6, (6,)),
        ((3, 1), 0, (0, 0)),
        ((3, 1), -2, (0, 0)),
        ((), 4, ()),
    ],
)
def test_children_by_hand(weights: tuple[int, ...], budget: int, counts: tuple[int, ...]) -> None:
    """exp(R / T) is the weight for R = T · log(weight)."""
    assert children([0.5 * log(weight) for weight in weights], budget, 0.5) == list(counts)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 64), st.floats(1e-4, 10))
def test_the_whole_budget_is_given_and_more_to_the_better(rewards: list[float], budget: int, balance: float) -> None:
    counts = children(rewards, budget, balance)
    assert sum(counts) == budget
    best_first = [counts[at] for at in sorted(range(len(rewards)), key=lambda at: -rewards[at])]
    assert all(later <= earlier + 1 for earlier, later in pairwise(best_first))


async def test_finished_leaves_reduce_the_budget() -> None:
    """Six paths: one finishes at once, so five steps are left; then another one, and four are."""

    def model(generation: Generation, index: int) -> Scripted:
        if index in (0, 6):
            return writes("\\boxed{7}", 1)
        last = generation.continues.count("\n") == 2
        return writes(chr(ord("a") + index) + ("" if last else "\n"), 1)

    weights = {"b": 8, "c": 4, "d": 2, "e": 1, "f": 1}
    sampler = ScriptedSampler(model, scores=scores_by(lambda text: 0.2 * log(weights.get(text.split()[-1], 1))))
    await Rebase(Params(n=6, balance=0.2)).run(sampler)
    second = Counter(generation.continues for generation in sampler.asked[6:11])
    assert second == {"b\n": 3, "c\n": 1, "d\n": 1}  # ceil(5·8/16); 2·4/8; ceil(1·2/4); nothing is left
    assert len(sampler.asked[11:]) == 4


async def test_a_lower_balance_is_greedier() -> None:
    """Eight rewards, 0 to 7/8. At 0.2: ceil 3.7; ceil 1.9; ceil 0.95; ceil 0.5; nothing is left for the other four."""

    async def parents(balance: float) -> int:
        sampler = ScriptedSampler(
            lambda g, i: writes(f"{i}" + ("" if g.continues else "\n"), 1),
            scores=scores_by(lambda text: int(text.split()[0]) / 8),
        )
        await Rebase(Params(n=8, balance=balance)).run(sampler)
        return len({generation.continues for generation in sampler.asked[8:]})

    assert [await parents(balance) for balance in (0.001, 0.2, 100.0)] == [1, 4, 7]
