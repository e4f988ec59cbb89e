"""Beam search: what is kept after each step, and how n and `expand` go together."""

import pytest
from arithmetic_steps import scores_by

from strategies.base import Generation
from strategies.beam_search import BeamSearch
from strategies.dvts import Dvts
from strategies.registry import InvalidParameters, Registry
from strategies.testing import Scripted, ScriptedSampler, writes

OURS = Registry({"beam-search": BeamSearch, "dvts": Dvts})


def _letters(generation: Generation, index: int) -> Scripted:
    """The n-th branch writes the n-th letter; each path has three lines."""
    last = generation.continues.count("\n") == 2
    return writes(chr(ord("a") + index) + ("" if last else "\n"), 1)


async def test_the_best_n_over_m_are_kept_and_each_is_tried_with_m_next_steps() -> None:
    rewards = {"b": 0.8, "d": 0.9, "f": 0.7, "g": 0.6, "h": 0.65}
    sampler = ScriptedSampler(_letters, scores=scores_by(lambda text: rewards.get(text.split()[-1], 0.1)))
    outcome = await BeamSearch(BeamSearch.params_type.model_validate({"n": 4, "expand": 2})).run(sampler)
    assert [generation.continues for generation in sampler.asked[4:8]] == ["d\n", "d\n", "b\n", "b\n"]  # e f g h
    assert [generation.continues for generation in sampler.asked[8:]] == ["d\nf\n"] * 2 + ["b\nh\n"] * 2
    assert set(outcome.ranking) == {8, 9, 10, 11}


async def test_a_finished_beam_holds_its_place_and_is_not_continued() -> None:
    def model(generation: Generation, index: int) -> Scripted:
        return writes("\\boxed{7}", 1) if index == 0 else _letters(generation, index)

    def reward(text: str) -> float:
        return 0.9 if "7" in text else 0.5

    sampler = ScriptedSampler(model, scores=scores_by(reward))
    outcome = await BeamSearch(BeamSearch.params_type.model_validate({"n": 4, "expand": 2})).run(sampler)
    assert [generation.continues for generation in sampler.asked[4:6]] == ["b\n", "b\n"]
    assert sampler.started == 4 + 2 + 2
    assert (outcome.ranking[0], outcome.answer) == (0, "7")


async def test_it_is_over_once_all_that_are_kept_have_finished() -> None:
    def model(generation: Generation, index: int) -> Scripted:
        return writes("\\boxed{7}", 1) if index < 2 else _letters(generation, index)

    sampler = ScriptedSampler(model, scores=scores_by(lambda text: 0.9 if "7" in text else 0.5))
    outcome = await BeamSearch(BeamSearch.params_type.model_validate({"n": 4, "expand": 2})).run(sampler)
    assert (sampler.started, outcome.ranking, outcome.votes) == (4, (0, 1), 2)


@pytest.mark.parametrize(("deadline_s", "cut"), [(2, True), (3, False)])
async def test_a_deadline_between_two_waves_cuts_it_and_one_after_the_last_does_not(
    deadline_s: float, cut: bool
) -> None:
    sampler = ScriptedSampler(_letters, scores=scores_by(lambda text: 0.5), deadline_s=deadline_s)
    outcome = await BeamSearch(BeamSearch.params_type.model_validate({"n": 4, "expand": 2})).run(sampler)
    assert (bool(outcome.ranking), sampler.now_s, sampler.cut_by_deadline) == (True, deadline_s, cut)


@pytest.mark.parametrize("name", ["beam-search", "dvts"])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 6}, r"n \(6\) must be a multiple of expand \(4\): n 8 would do, or expand 3"),
        ({"n": 9, "expand": 2}, r"n \(9\) must be a multiple of expand \(2\): n 10 would do, or expand 1"),
        ({"n": 2, "expand": 4}, r"n 4 would do, or expand 2"),
    ],
)
def test_an_n_that_does_not_fit_is_told_what_would(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameters, match=message) as raised:
        OURS.build(name, parameters)
    assert raised.value.parameter == "n"


@pytest.mark.parametrize(("n", "expand"), [(1, 1), (2, 2), (3, 3), (4, 4), (8, 4)])
@pytest.mark.parametrize("name", ["beam-search", "dvts"])
def test_a_small_n_alone_is_one_beam(name: str, n: int, expand: int) -> None:
    assert OURS.build(name, OURS.get(name).pin(n)).params.expand == expand
