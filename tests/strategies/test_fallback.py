"""What happens to a vote with nothing to decide by: the outcome reward chooses, where there is one."""

from collections.abc import Sequence
from typing import Any

import pytest

from strategies.base import NoScore, Outcome, Scorer
from strategies.first_finish import FirstFinish
from strategies.first_finish import Params as FirstFinishParams
from strategies.registry import Registry
from strategies.self_consistency import Params, SelfConsistency
from strategies.testing import Scripted, ScriptedSampler, fails, finishes, writes


def _likes(answer: str):  # type: ignore[no-untyped-def]
    def scores(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        assert by == "reward"
        return [[0.9 if answer in text else 0.1] for text in texts]

    return scores


async def _vote(sampler: ScriptedSampler) -> Outcome:
    return await SelfConsistency(Params(n=len(sampler._script), stop="all")).run(sampler)  # type: ignore[arg-type]


async def test_where_all_answers_differ_the_reward_chooses() -> None:
    sampler = ScriptedSampler([finishes("7", 10), finishes("8", 20), finishes("9", 30)], scores=_likes("9"))
    note = "all answers differ: the reward chose"
    assert await _vote(sampler) == Outcome((2, 0, 1), agreement=1 / 3, answer="9", votes=3, note=note)


async def test_where_no_branch_answers_the_reward_chooses_among_all() -> None:
    script = [writes("no idea", 10), writes("none at all", 20), writes("a proof", 30)]
    outcome = await _vote(ScriptedSampler(script, scores=_likes("proof")))
    assert outcome == Outcome((2, 0, 1), note="no branch gave an answer: the reward chose")


async def test_a_branch_without_an_answer_is_no_candidate_where_others_have_one() -> None:
    script = [finishes("7", 10), finishes("8", 20), finishes("9", 30), writes("a proof", 5)]
    sampler = ScriptedSampler(script, scores=_likes("proof"))
    assert (await _vote(sampler)).ranking == (0, 1, 2, 3)
    assert len(sampler.scored[0][1]) == 3


async def test_without_a_reward_the_first_answers_and_the_note_says_so() -> None:
    outcome = await _vote(ScriptedSampler([finishes("7", 30), finishes("8", 20), finishes("9", 10)]))
    assert (outcome.ranking, outcome.answer) == ((2, 1, 0), "9")
    assert outcome.note == "all answers differ, and no reward told them apart: the first one answers"


async def test_a_reward_that_comes_after_the_deadline_does_not_hold_the_answer_up() -> None:
    script = [finishes("7", 10), finishes("8", 20), finishes("9", 30)]
    sampler = ScriptedSampler(script, scores=_likes("9"), score_s=10, deadline_s=35)
    assert (await _vote(sampler)).answer == "7"
    assert sampler.now_s == 35


async def test_the_reward_is_given_whole_texts() -> None:
    """Whether it is shown the thinking in them, its configuration says."""
    script = [writes(r"<think>hm</think>\boxed{7}", 1), finishes("8", 2), finishes("9", 3)]
    sampler = ScriptedSampler(script, scores=_likes("9"))
    await _vote(sampler)
    assert sampler.scored[0][1][0] == r"<think>hm</think>\boxed{7}"


@pytest.mark.parametrize("answers", [["7"], ["7", "8"], [None, None], ["7", "8", "8"], ["7", "7", "8", "9"]])
async def test_the_reward_is_not_asked_where_a_vote_decides_or_there_are_but_two(answers: list[str | None]) -> None:
    script = [finishes(answer, 10 * i + 10) for i, answer in enumerate(answers)]
    sampler = ScriptedSampler(script, scores=_likes("9"))
    assert (await _vote(sampler)).note is None
    assert sampler.scored == []


async def test_first_finish_falls_back_too_and_cancels_the_stragglers_first() -> None:
    script: list[Scripted] = [finishes(str(i), 10 * i) for i in range(1, 6)]
    sampler = ScriptedSampler(script, scores=_likes("2"), score_s=5)
    outcome = await FirstFinish(FirstFinishParams(n=5, m=3)).run(sampler)
    assert (outcome.answer, outcome.note) == ("2", "all answers differ: the reward chose")
    assert sampler.cancelled == {3: 30, 4: 30}
    assert sampler.decided_at_s == 35


DIFFER = [finishes("6", 10), finishes("7", 20), finishes("8", 30)]


@pytest.mark.parametrize(
    ("name", "params", "script"),
    [
        ("strategy-uniform", {"n": 3}, [DIFFER[0], fails(5), *DIFFER[1:]]),
        ("probe-consensus", {"n": 3}, DIFFER),
        ("deep-confidence", {"n": 3, "warmup": 1, "start": "together"}, DIFFER),
        ("cascade", {"n": 4, "agreement": 0.5, "larger_n": 1}, [*DIFFER, finishes("9", 40), fails(5)]),
        ("mixture-of-agents", {"n": 3}, [*DIFFER, fails(5)]),
        ("recursive-aggregation", {"n": 3, "k": 2, "rounds": 1}, [*DIFFER, *[fails(5)] * 3]),
        ("budget-forcing", {"n": 3, "waits": 0}, DIFFER),
        ("rebase", {"n": 3}, DIFFER),  # whose own reward, of steps, is down
    ],
)
async def test_so_it_does_in_every_strategy_that_ends_with_a_vote(
    name: str, params: dict[str, Any], script: list[Any]
) -> None:
    def scores(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        if by == "process-reward":
            raise NoScore("it is down")
        found: list[list[float]] = _likes("8")(texts, by)
        return found

    outcome = await Registry.installed().build(name, params).run(ScriptedSampler(script, scores=scores))
    assert outcome.answer == "8"
    assert (outcome.note or "").endswith("all answers differ: the reward chose")
