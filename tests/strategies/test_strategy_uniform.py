"""Strategy-uniform, as worked examples: branches tick one token a second."""

import pytest
from pydantic import ValidationError

from strategies.base import WHOLE, Generation, Need, Outcome
from strategies.strategy_uniform import NAME_WAYS, SOLVE, Params, StrategyUniform, entropy
from strategies.testing import Scripted, ScriptedSampler, fails, finishes, writes

PLAIN = finishes("6", 40)
NAMED = writes("1. Algebra\n2. Geometry", 10)


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    outcome = await StrategyUniform(Params.model_validate({"n": 5, "ways": 2, **params})).run(sampler)
    assert len(sampler.spent) == sampler.started  # nothing is left running
    return outcome


async def test_each_way_gets_the_same_share_while_a_plain_sample_runs() -> None:
    sampler = ScriptedSampler([PLAIN, NAMED, *[finishes("7", tokens) for tokens in (20, 30, 40, 50)]], question="What?")
    assert await _run(sampler) == Outcome((2, 3, 4, 5), agreement=1.0, answer="7", votes=4)
    ways = [Generation(turns=(("user", SOLVE.format(way=way)),)) for way in ("Algebra", "Geometry")]
    naming = Generation(prompt=NAME_WAYS.format(question="What?", ways=2), max_tokens=2048, final=False)
    assert sampler.asked == [WHOLE, naming, ways[0], ways[0], ways[1], ways[1]]
    assert sampler.decided_at_s == 10 + 50  # the plain sample had no part in it


async def test_ways_whose_answers_scatter_are_dropped() -> None:
    script = [PLAIN, NAMED, finishes("8", 5), finishes("9", 5), finishes("7", 20), finishes("7", 20)]
    sampler = ScriptedSampler(script)
    outcome = await _run(sampler)
    assert (outcome.answer, outcome.votes, outcome.agreement) == ("7", 2, 1.0)
    assert outcome.note == "1 of 2 ways dropped: their answers scatter"
    assert outcome.ranking == (4, 2, 3, 5)  # dropped ones only follow
    assert (await _run(ScriptedSampler(script), max_entropy=1.0)).votes == 5


async def test_where_all_ways_scatter_none_is_dropped() -> None:
    script = [finishes("8", 40), NAMED, finishes("8", 5), finishes("9", 5), finishes("6", 20), finishes("7", 20)]
    outcome = await _run(ScriptedSampler(script))
    assert (outcome.answer, outcome.votes, outcome.note) == ("8", 5, "all ways are unstable: none dropped")


async def test_a_plain_sample_that_could_matter_is_waited_for() -> None:
    script = [finishes("7", 90), NAMED, *[finishes("8", 5)] * 2, *[finishes("7", 9)] * 2]
    sampler = ScriptedSampler(script)
    assert (await _run(sampler)).answer == "7"
    assert sampler.decided_at_s == 90


async def test_a_plain_sample_that_cannot_matter_is_cancelled() -> None:
    sampler = ScriptedSampler([finishes("8", 90), NAMED, *[finishes("7", 9)] * 4])
    assert (await _run(sampler)).votes == 4
    assert (sampler.decided_at_s, sampler.cancelled) == (19, {0: 19})


async def test_there_are_no_more_ways_than_samples_for_them() -> None:
    named = writes("\n".join(f"{i}. Way {i}" for i in range(1, 9)), 10)
    sampler = ScriptedSampler([PLAIN, named, finishes("7", 5), finishes("7", 5)])
    await _run(sampler, n=3, ways=8)
    assert [generation.turns[0][1] for generation in sampler.asked[2:]] == [
        SOLVE.format(way=f"Way {i}") for i in (1, 2)
    ]


async def test_what_the_division_leaves_over_is_not_spent() -> None:
    sampler = ScriptedSampler([PLAIN, NAMED, *[finishes("7", 5)] * 4])
    await _run(sampler, n=6)
    assert sampler.started == 6  # one plain, one that names, two for each of two ways


@pytest.mark.parametrize(
    ("naming", "why", "decided_at_s"),
    [
        (fails(10), "it failed", 30),
        (writes("I would use algebra", 10), "no list was found", 30),
        (writes("<think>1. Algebra", 10), "no list was found", 30),
    ],
)
async def test_without_ways_it_is_plain_self_consistency(naming: Scripted, why: str, decided_at_s: float) -> None:
    sampler = ScriptedSampler([PLAIN, naming, *[finishes("7", tokens) for tokens in (5, 10, 20, 50)]])
    outcome = await _run(sampler)
    assert outcome == Outcome((2, 3, 4), 1.0, "7", 3, f"no ways were named ({why}): a plain vote")
    assert sampler.asked[2:] == [WHOLE] * 4
    assert sampler.decided_at_s == decided_at_s  # three of five cannot be overturned


async def test_failed_samples_only_weaken_the_vote() -> None:
    sampler = ScriptedSampler([fails(40), NAMED, fails(5), finishes("7", 9), fails(5), finishes("8", 20)])
    assert await _run(sampler) == Outcome((3, 5), agreement=0.5, answer="7", votes=2)
    assert sampler.decided_at_s == 40  # when the plain sample, which could have decided it, failed


async def test_where_all_fail_nothing_is_ranked() -> None:
    sampler = ScriptedSampler([fails(5), NAMED, *[fails(5)] * 4])
    assert await _run(sampler) == Outcome(ranking=())


async def test_a_way_without_answers_is_not_unstable() -> None:
    sampler = ScriptedSampler([PLAIN, NAMED, finishes(None, 5), finishes(None, 5), finishes("7", 9), finishes("7", 9)])
    outcome = await _run(sampler)
    assert (outcome.answer, outcome.note) == ("7", None)


@pytest.mark.parametrize(
    ("deadline_s", "ranking", "note"),
    [
        (5, set(), "no ways were named (the deadline came): a plain vote"),
        (9, {0}, "no ways were named (the deadline came): a plain vote"),
        (17, {0}, None),
        (25, {0, 2}, None),
        (60, {0, 2, 3, 4, 5}, None),
    ],
)
async def test_at_the_deadline_it_decides_over_what_has_finished(
    deadline_s: float, ranking: set[int], note: str | None
) -> None:
    script = [finishes("6", 8), NAMED, finishes("7", 10), finishes("7", 20), finishes("6", 30), finishes("6", 50)]
    sampler = ScriptedSampler(script, deadline_s=deadline_s)
    outcome = await _run(sampler)
    assert (set(outcome.ranking), outcome.note, sampler.decided_at_s) == (ranking, note, deadline_s)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [((), 0), ((3,), 0), ((3, 3, 3), 0), ((0, 1), 1), ((0, 1, 2, 3), 1), ((0, 0, 1, 1), 0.5)],
)
def test_entropy_is_normalised(groups: tuple[int, ...], expected: float) -> None:
    assert entropy(groups) == pytest.approx(expected)


def test_its_shape_needs_and_bounds() -> None:
    shape = StrategyUniform(Params(n=9)).shape()
    assert (shape.branches, shape.waves, shape.votes) == (10, 2, False)
    assert StrategyUniform(Params()).required() == {Need.ANSWERS, Need.SAMPLING, Need.CHAT}
    for wrong in ({"n": 2}, {"n": 256}, {"ways": 1}, {"max_entropy": 1.5}):
        with pytest.raises(ValidationError):
            Params.model_validate(wrong)
    branches = [StrategyUniform(Params.model_validate(p.model_dump())).shape().branches for p in StrategyUniform.grid()]
    assert branches == sorted(branches)
