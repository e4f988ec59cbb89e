"""Probes of running branches, as worked examples: branches tick one token a second; probes take one second."""

import pytest

from strategies.base import Generation, Need, Outcome
from strategies.probe_consensus import Params, ProbeConsensus
from strategies.testing import Script, Scripted, ScriptedSampler, fails, writes

PROBE = "\n</think>\nThe answer is \\boxed{"


def probed(branches: list[Scripted], says: dict[int, list[str | None]]) -> Script:
    """The first generations are the branches; `says`: what each of them tells its probes, in order; a text without a
    closing brace is no answer, None a failure. Branches are told apart by the letter that they write."""
    asked = dict.fromkeys(says, 0)

    def script(generation: Generation, index: int) -> Scripted:
        if not generation.continues:
            return branches[index]
        place = "abcdefgh".index(generation.continues[0])
        said = says[place][min(asked[place], len(says[place]) - 1)]
        asked[place] += 1
        return fails(1) if said is None else Scripted(1, said, 2)

    return script


def thinks(place: int, tokens: int = 100, answer: str = "0") -> Scripted:
    return writes("abcdefgh"[place] * (tokens - 1) + rf"\boxed{{{answer}}}", tokens)


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    return await ProbeConsensus(Params.model_validate({"every_tokens": 10, **params})).run(sampler)


async def test_branches_that_keep_saying_the_same_are_stopped_and_a_probe_answers() -> None:
    sampler = ScriptedSampler(probed([thinks(place) for place in range(3)], {0: ["7}.\n"], 1: ["7}.\n"], 2: ["7}.\n"]}))
    outcome = await _run(sampler, n=3, patience=2)
    assert outcome == Outcome(ranking=(6, 7, 8), agreement=1.0, answer="7", votes=3, note="3 of 3 votes by probes")
    assert sampler.decided_at_s == 21  # probed from 10 to 11 and from 20 to 21
    assert sampler.cancelled == {0: 21, 1: 21, 2: 21}
    assert sampler.spent == {0: 21, 1: 21, 2: 21, **dict.fromkeys(range(3, 9), 2)}


async def test_a_probe_goes_on_from_what_the_branch_has_written() -> None:
    sampler = ScriptedSampler(probed([thinks(0, answer="")], {0: ["7}.\n"]}))
    await _run(sampler, n=1, patience=1, probe_tokens=12)
    text = "a" * round(107 * 10 / 100)
    assert sampler.asked[1] == Generation(
        continues=text + PROBE, max_tokens=12, temperature=0, stop=("\n",), final=False
    )


async def test_a_branch_that_answers_already_is_not_told_to_end_its_thinking_again() -> None:
    sampler = ScriptedSampler(probed([writes("a</think>" + "b" * 91, 100)], {0: ["7}.\n"]}))
    await _run(sampler, n=1, patience=1)
    assert sampler.asked[1].continues == "a</think>b\nThe answer is \\boxed{"


async def test_probes_that_change_their_answer_have_not_settled() -> None:
    sampler = ScriptedSampler(probed([thinks(0)], {0: ["7}", "8}", "9 so", "9 so", "8}"]}))
    outcome = await _run(sampler, n=1, patience=2)  # two leave their box open: no answers
    assert (outcome.answer, outcome.ranking, sampler.decided_at_s) == ("8", (6,), 61)


async def test_a_finished_branch_is_settled_and_answers_before_a_probe() -> None:
    branches = [thinks(0, 15, "7"), thinks(1), thinks(2)]
    sampler = ScriptedSampler(probed(branches, {0: ["1}"], 1: ["7}"], 2: ["7}"]}))
    outcome = await _run(sampler, n=3, patience=2, consensus=1.0)
    assert (outcome.answer, outcome.votes, sampler.decided_at_s) == ("7", 3, 21)
    assert outcome.ranking[0] == 0
    assert outcome.note == "2 of 3 votes by probes"


async def test_a_branch_that_keeps_disagreeing_with_the_others_is_dropped() -> None:
    says: dict[int, list[str | None]] = {0: ["7}"], 1: ["7}"], 2: ["7}", "6}", "7}"], 3: ["9}"]}
    sampler = ScriptedSampler(probed([thinks(place) for place in range(4)], says))
    outcome = await _run(sampler, n=4, patience=3, consensus=1.0)
    # Two rounds with all others of one mind, but not one after the other; then three.
    assert sampler.cancelled[3] == 51
    assert (outcome.answer, outcome.votes, sampler.decided_at_s) == ("7", 3, 51)
    kept = ScriptedSampler(probed([thinks(place, 60, "7") for place in range(4)], says))
    assert (await _run(kept, n=4, patience=3, consensus=1.0, drop_deviants=False)).votes == 4
    assert 3 not in kept.cancelled


@pytest.mark.parametrize("n", [2, 4])
async def test_two_halves_do_not_drop_each_other(n: int) -> None:
    says: dict[int, list[str | None]] = {place: ["7}" if place < n / 2 else "9}"] for place in range(n)}
    sampler = ScriptedSampler(probed([thinks(place, 50 + place, "7") for place in range(n)], says))
    outcome = await _run(sampler, n=n, patience=1, consensus=0.6)
    assert (outcome.answer, outcome.ranking[0]) == ("7", 0)
    assert sampler.decided_at_s == 50 + n / 2  # as the first of the other half ends, and says 7 after all


async def test_a_failed_branch_and_a_failed_probe_hold_nobody_up() -> None:
    branches = [thinks(0), fails(5), thinks(2)]
    sampler = ScriptedSampler(probed(branches, {0: ["7}"], 2: [None, "7}"]}))
    outcome = await _run(sampler, n=3, patience=2, consensus=1.0)
    assert (outcome.answer, outcome.votes) == ("7", 2)
    assert sampler.decided_at_s == 51  # three rounds later nobody counts on the failed one
    assert set(sampler.cancelled) == {0, 2}


async def test_without_consensus_the_finished_branches_vote() -> None:
    branches = [thinks(0, 12, "7"), thinks(1, 14, "8"), thinks(2, 18, "8")]
    sampler = ScriptedSampler(probed(branches, {0: ["1}"], 1: ["2}"], 2: ["3}"]}))
    outcome = await _run(sampler, n=3, consensus=1.0)
    assert outcome == Outcome(ranking=(1, 0, 2), agreement=2 / 3, answer="8", votes=3)
    assert (sampler.decided_at_s, sampler.cancelled) == (18, {})


@pytest.mark.parametrize(
    ("deadline_s", "answer", "ranking"),
    [
        (5, None, ()),  # before anybody was asked
        (10.5, None, ()),  # while they are asked
        (15, "7", (2, 3)),  # the last probes tell
        (30, "8", (1, 4)),  # and those who have finished
    ],
)
async def test_at_the_deadline_the_last_probes_vote(
    deadline_s: float, answer: str | None, ranking: tuple[int, ...]
) -> None:
    sampler = ScriptedSampler(
        probed([thinks(0), thinks(1, 25, "8")], {0: ["7}", "8}"], 1: ["9}"]}), deadline_s=deadline_s
    )
    outcome = await _run(sampler, n=2, patience=9)
    assert (outcome.answer, outcome.ranking) == (answer, ranking)
    assert sampler.decided_at_s == deadline_s
    assert len(sampler.spent) == sampler.started  # nothing is left running


async def test_where_all_fail_nothing_is_ranked() -> None:
    assert await _run(ScriptedSampler([fails(5), fails(15)]), n=2) == Outcome(ranking=())


def test_its_needs_and_shape_follow_its_parameters() -> None:
    assert ProbeConsensus(Params(n=1)).required() == {Need.CONTINUATION, Need.ANSWERS}
    assert ProbeConsensus(Params(n=2)).required() == {Need.CONTINUATION, Need.ANSWERS, Need.SAMPLING}
    assert (ProbeConsensus(Params(n=2)).shape().branches, ProbeConsensus(Params(n=2)).shape().votes) == (2, False)
    branches = [ProbeConsensus(Params.model_validate(p.model_dump())).shape().branches for p in ProbeConsensus.grid()]
    assert branches == sorted(branches)
