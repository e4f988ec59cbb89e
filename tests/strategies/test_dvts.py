"""Diverse verifier tree search: subtrees do not compete."""

from arithmetic_steps import scores_by

from strategies.base import Generation
from strategies.dvts import Dvts, Params
from strategies.testing import Scripted, ScriptedSampler, fails, writes


def _letters(generation: Generation, index: int) -> Scripted:
    last = generation.continues.count("\n") == 2
    return writes(chr(ord("a") + index) + ("" if last else "\n"), 1)


async def test_each_subtree_keeps_its_own_best_even_where_another_has_two_better_ones() -> None:
    rewards = {"a": 0.9, "b": 0.8, "c": 0.2, "d": 0.3, "e": 0.7, "f": 0.6, "g": 0.1, "h": 0.2}
    sampler = ScriptedSampler(_letters, scores=scores_by(lambda text: rewards.get(text.split()[-1], 0.5)))
    outcome = await Dvts(Params(n=4, expand=2)).run(sampler)
    assert [generation.continues for generation in sampler.asked[4:8]] == ["a\n", "a\n", "d\n", "d\n"]
    assert [generation.continues for generation in sampler.asked[8:]] == ["a\ne\n"] * 2 + ["d\nh\n"] * 2
    assert set(outcome.ranking) == {8, 9, 10, 11}


async def test_a_subtree_is_over_when_its_best_has_finished() -> None:
    def model(generation: Generation, index: int) -> Scripted:
        return writes("\\boxed{7}", 1) if index == 0 else _letters(generation, index)

    sampler = ScriptedSampler(model, scores=scores_by(lambda text: 0.9 if "7" in text else 0.4))
    outcome = await Dvts(Params(n=4, expand=2)).run(sampler)
    assert [generation.continues for generation in sampler.asked[4:]] == ["c\n"] * 2 + ["c\ne\n"] * 2
    assert (outcome.ranking[0], outcome.answer) == (0, "7")


async def test_a_finished_path_that_was_not_kept_is_in_the_choice_too() -> None:
    def model(generation: Generation, index: int) -> Scripted:
        return writes("\\boxed{7}", 1) if index == 1 else writes("b\n" if index < 2 else "\\boxed{8}", 1)

    sampler = ScriptedSampler(model, scores=scores_by(lambda text: 0.5 if "7" in text else 0.6))
    outcome = await Dvts(Params(n=2, expand=2)).run(sampler)
    assert (outcome.answer, outcome.votes, outcome.agreement) == ("8", 3, 1.2 / 1.7)


async def test_a_subtree_whose_branches_all_fail_leaves_the_others() -> None:
    sampler = ScriptedSampler(
        lambda generation, index: fails(1) if index < 2 else _letters(generation, index),
        scores=scores_by(lambda text: 0.5),
    )
    await Dvts(Params(n=4, expand=2)).run(sampler)
    assert [generation.continues for generation in sampler.asked[4:6]] == ["c\n", "c\n"]
    assert sampler.started == 4 + 2 + 2
