"""Slim-SC, as worked examples: branches tick one token a second and are compared every ten."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from strategies.base import Need, Outcome
from strategies.overlap import overlap, overlaps
from strategies.slim_consistency import NO_EMBEDDINGS, Params, SlimConsistency
from strategies.stopping import BetaLead
from strategies.testing import Scripted, ScriptedSampler, fails, writes

ADD = "first add three and four"
DOUBLE = "first double the number three"
HALVE = "let us halve ten instead"


def thinks(answer: str, tokens: int, *thoughts: str) -> Scripted:
    """Thoughts of one length each, so that a branch of ten seconds per thought has had them at its looks."""
    return writes("".join(f"{thought}\n\n" for thought in thoughts) + rf"\boxed{{{answer}}}", tokens)


def cosines(texts: Sequence[str]) -> list[list[float]]:
    """As an embedding model would see them: equal texts are 1, others as much alike as their first words."""
    return [[1.0 if a == b else 0.9 if a[:5] == b[:5] else 0.1 for b in texts] for a in texts]


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    n = len(sampler._script)
    given = {"n": n, "every_tokens": 10, "warmup_tokens": 0, **params}
    return await SlimConsistency(Params.model_validate(given)).run(sampler)


def _same_twice() -> list[Scripted]:
    """The first two think alike, the third does not."""
    return [thinks("7", 40, ADD, ADD), thinks("7", 44, ADD, ADD), thinks("8", 50, DOUBLE, HALVE)]


async def test_of_two_branches_that_think_alike_one_is_pruned() -> None:
    sampler = ScriptedSampler(_same_twice(), similar=cosines)
    outcome = await _run(sampler, warmup_tokens=20)
    assert sampler.cancelled == {1: 20}  # as much has been written of both: the later one goes
    assert outcome == Outcome(ranking=(0, 2), agreement=0.5, answer="7", votes=2)
    assert (sampler.decided_at_s, sampler.spent) == (50, {0: 40, 1: 20, 2: 50})


async def test_similarity_below_the_threshold_prunes_nobody() -> None:
    script = [thinks("7", 40, ADD, ADD), thinks("7", 40, ADD + "!", ADD + "!"), thinks("8", 50, HALVE, HALVE)]
    sampler = ScriptedSampler(script, similar=cosines)
    await _run(sampler)
    assert sampler.cancelled == {2: 40}  # by the vote alone
    pruned = ScriptedSampler(script, similar=cosines)
    await _run(pruned, threshold=0.9)
    assert pruned.cancelled[1] < 40


async def test_without_embeddings_thoughts_are_compared_by_their_words() -> None:
    sampler = ScriptedSampler(_same_twice())
    outcome = await _run(sampler, warmup_tokens=20)
    assert (sampler.cancelled, outcome.note) == ({1: 20}, NO_EMBEDDINGS)


async def test_nobody_is_pruned_below_what_is_to_be_kept_or_before_the_warm_up() -> None:
    for params in ({"keep": 3}, {"warmup_tokens": 60}):
        sampler = ScriptedSampler(_same_twice(), similar=cosines)
        assert (await _run(sampler, **params)).votes == 2
        assert sampler.cancelled == {2: 44}  # which could not overturn the vote


@pytest.mark.parametrize(("keep", "pruned"), [(1, {1, 2}), (3, {1}), (4, set[int]())])
async def test_of_three_that_think_alike_as_many_go_as_can_be_spared(keep: int, pruned: set[int]) -> None:
    script = [*(thinks(answer, 60, ADD, ADD) for answer in "789"), thinks("6", 60, DOUBLE, HALVE)]
    sampler = ScriptedSampler(script, similar=cosines)
    assert (await _run(sampler, keep=keep, every_tokens=30)).votes == 4 - len(pruned)
    assert sampler.cancelled == dict.fromkeys(pruned, 30)


async def test_a_pruned_branch_is_not_waited_for_by_the_vote() -> None:
    script = [
        thinks("7", 40, ADD, ADD),
        thinks("8", 44, ADD, ADD),
        thinks("7", 50, DOUBLE, HALVE),
        thinks("8", 60, "?"),
    ]
    sampler = ScriptedSampler(script, similar=cosines)
    assert (await _run(sampler)).answer == "7"  # two of three that are left
    assert (sampler.decided_at_s, sampler.cancelled) == (50, {1: 20, 3: 50})


async def test_by_diversity_the_branch_that_repeats_itself_goes() -> None:
    script = [
        thinks("7", 40, ADD, ADD, ADD),
        thinks("8", 40, DOUBLE, HALVE, ADD),
        thinks("9", 40, HALVE, HALVE, DOUBLE),
    ]
    sampler = ScriptedSampler(script, similar=cosines)
    await _run(sampler, warmup_tokens=35, every_tokens=39)
    assert sampler.cancelled == {0: 39}


async def test_at_random_the_seed_decides() -> None:
    victims = set()
    for seed in range(8):
        again = []
        for _ in range(2):
            sampler = ScriptedSampler(_same_twice(), similar=cosines)
            await _run(sampler, warmup_tokens=20, prune="random", seed=seed)
            again.append(tuple(sampler.cancelled))
        assert again[0] == again[1]
        victims.add(again[0])
    assert victims == {(0,), (1,)}


async def test_failed_branches_hold_nobody_up() -> None:
    sampler = ScriptedSampler([*_same_twice(), fails(5)], similar=cosines)
    outcome = await _run(sampler, warmup_tokens=20)
    assert (outcome.votes, set(sampler.cancelled)) == (2, {1})
    assert await _run(ScriptedSampler([fails(5), fails(6)])) == Outcome(ranking=())


@pytest.mark.parametrize(("deadline_s", "ranking"), [(22, ()), (30, ()), (45, (0,))])
async def test_at_the_deadline_it_decides_over_what_has_finished(deadline_s: float, ranking: tuple[int, ...]) -> None:
    sampler = ScriptedSampler(_same_twice(), similar=cosines, deadline_s=deadline_s)
    assert (await _run(sampler, warmup_tokens=20)).ranking == ranking
    assert sampler.decided_at_s == deadline_s
    assert len(sampler.spent) == 3  # nothing is left running


def test_overlap_is_the_share_of_common_runs_of_words() -> None:
    assert overlap(ADD, ADD.upper()) == 1.0
    assert overlap("a b c d", "a b c e") == 1 / 3
    assert overlap("3 + 4 = 7", "3 + 4 = 8") == 2 / 4
    assert (overlap("a b", "a b c"), overlap("", "a")) == (1 / 2, 0.0)
    assert overlaps(["a b c d", "a b c e"]) == [[1.0, 1 / 3], [1 / 3, 1.0]]


def test_its_shape_is_what_it_runs() -> None:
    shape = SlimConsistency(Params(n=5)).shape()
    assert (shape.branches, shape.stop, shape.votes) == (5, BetaLead(0.95), False)
    assert SlimConsistency(Params()).required() == {Need.ANSWERS, Need.SAMPLING}
    assert Params(n=1).keep == 1
    with pytest.raises(ValidationError, match=r"keep \(5\) cannot be more than n \(4\)"):
        Params(n=4, keep=5)
    branches = [SlimConsistency(Params.model_validate(p.model_dump())).shape().branches for p in SlimConsistency.grid()]
    assert branches == sorted(branches)
