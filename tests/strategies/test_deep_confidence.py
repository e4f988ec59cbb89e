"""DeepConf online, as worked examples: branches tick one token a second and are looked at every eight."""

import pytest

from strategies.base import Generation, Need, Outcome
from strategies.deep_confidence import UNKNOWN, DeepConfidence, Params
from strategies.group_confidence import GroupConfidence, percentile
from strategies.testing import Scripted, ScriptedSampler, fails, writes

WINDOW = 4


def trace(answer: str | None, *spans: tuple[int, float]) -> Scripted:
    """`spans`: so many tokens of such a confidence, one after another."""
    confidence = [value for tokens, value in spans for _ in range(tokens)]
    text = "I cannot tell" if answer is None else rf"\boxed{{{answer}}}"
    return writes(text, len(confidence), confidence=confidence)


async def _run(sampler: ScriptedSampler, **params: object) -> Outcome:
    n = len(sampler._script)
    return await DeepConfidence(Params.model_validate({"n": n, "window": WINDOW, **params})).run(sampler)


# The warm-up traces end at 10 and 12 seconds with lowest groups of 5 and 4.
SURE = [trace("7", (10, 5.0)), trace("8", (6, 6.0), (6, 4.0))]


async def test_once_the_warm_up_has_finished_unsure_traces_are_dropped() -> None:
    sampler = ScriptedSampler(
        [*SURE, trace("8", (4, 6.0), (40, 2.0)), trace("7", (30, 5.0)), trace("9", (20, 6.0), (40, 1.0))]
    )
    outcome = await _run(sampler, keep=50, n=5)  # the threshold is 4.5 from 12 seconds on
    assert sampler.cancelled == {2: 12, 4: 24}  # one was unsure by then, one is seen to be at its next look
    assert sampler.decided_at_s == 30
    assert sampler.spent == {0: 10, 1: 12, 2: 12, 3: 30, 4: 24}
    assert outcome == Outcome(ranking=(0, 3, 1), agreement=1.0, answer="7", votes=2)  # the second is not sure enough
    assert set(sampler.asked) == {Generation(confidence=True)}


async def test_votes_weigh_as_much_as_their_traces_were_sure() -> None:
    script = [trace("7", (10, 1.0)), trace("8", (11, 9.0)), trace("7", (12, 2.0)), trace("8", (13, 0.5), (10, 8.5))]
    outcome = await _run(ScriptedSampler(script), keep=99.9, warmup=1)
    assert (outcome.answer, outcome.votes) == ("8", 3)  # the last one was dropped
    assert outcome.agreement == 9 / 12
    by_mean = await _run(ScriptedSampler([trace("7", (10, 3.0)), trace("8", (8, 9.0), (4, 3.0))]), weight="mean")
    assert by_mean.agreement == 7 / 10


async def test_enough_of_the_weight_decides() -> None:
    script = [trace("7", (10 + i, 5.0)) for i in range(5)]
    sampler = ScriptedSampler([*script, trace("8", (30, 5.0))])
    outcome = await _run(sampler)  # three warm-up traces, all of one answer
    assert (outcome.answer, outcome.votes, sampler.decided_at_s) == ("7", 3, 12)
    assert sampler.cancelled == {3: 12, 4: 12, 5: 12}


async def test_one_sure_trace_is_no_consensus() -> None:
    sampler = ScriptedSampler([*SURE, trace("8", (40, 5.0)), trace("8", (50, 6.0))])
    assert (await _run(sampler, keep=10)).answer == "8"
    assert sampler.decided_at_s == 50


async def test_in_waves_the_others_start_after_the_warm_up() -> None:
    sampler = ScriptedSampler([*SURE, trace("8", (4, 6.0), (40, 2.0)), trace("7", (30, 5.0))])
    outcome = await _run(sampler, keep=50, start="waves")
    assert sampler.cancelled == {2: 20}  # at its first look, eight seconds after its start at 12
    assert (sampler.decided_at_s, sampler.spent[2], outcome.answer) == (42, 8, "7")


async def test_in_waves_a_warm_up_that_agrees_needs_no_others() -> None:
    sampler = ScriptedSampler([trace("7", (10, 5.0)), trace("7", (12, 5.0)), *SURE])
    assert (await _run(sampler, start="waves")).votes == 2
    assert (sampler.started, sampler.decided_at_s) == (2, 12)


@pytest.mark.parametrize("start", ["together", "waves"])
async def test_without_log_probabilities_it_is_a_plain_vote(start: str) -> None:
    script = [writes(r"\boxed{7}", 10), writes(r"\boxed{8}", 20), writes(r"\boxed{8}", 30), writes(r"\boxed{8}", 40)]
    outcome = await _run(ScriptedSampler(script), start=start)
    assert outcome == Outcome(ranking=(1, 0, 2, 3), agreement=3 / 4, answer="8", votes=4, note=UNKNOWN)


async def test_a_trace_without_an_answer_sets_no_threshold() -> None:
    sampler = ScriptedSampler(
        [trace(None, (10, 9.0)), trace("8", (12, 5.0)), trace("8", (14, 7.0)), trace(None, (60, 1.0))]
    )
    outcome = await _run(sampler, keep=10)  # the threshold is 5, not nearly 9
    assert (outcome.answer, outcome.votes, sampler.decided_at_s) == ("8", 2, 14)
    assert sampler.cancelled == {3: 12}


@pytest.mark.parametrize("start", ["together", "waves"])
async def test_failed_traces_are_not_waited_for(start: str) -> None:
    sampler = ScriptedSampler([fails(3), trace("7", (10, 5.0)), fails(4), trace("8", (12, 6.0))])
    outcome = await _run(sampler, start=start)
    assert (outcome.answer, sampler.cancelled) == ("8", {})
    assert await _run(ScriptedSampler([fails(3), fails(4)]), start=start) == Outcome(ranking=())


@pytest.mark.parametrize(
    ("start", "deadline_s", "ranking"),
    [("together", 5, ()), ("together", 11, (0,)), ("together", 25, (0, 1)), ("waves", 11, (0,)), ("waves", 25, (0, 1))],
)
async def test_at_the_deadline_it_decides_over_what_has_finished(
    start: str, deadline_s: float, ranking: tuple[int, ...]
) -> None:
    sampler = ScriptedSampler([*SURE, trace("8", (40, 9.0)), trace("8", (41, 9.0))], deadline_s=deadline_s)
    assert (await _run(sampler, start=start)).ranking == ranking
    assert sampler.decided_at_s == deadline_s
    assert set(sampler.cancelled.values()) == {deadline_s}


def test_a_trace_is_as_sure_as_its_lowest_window() -> None:
    confidence = GroupConfidence(2)
    confidence.read([4.0])
    assert (confidence.lowest, confidence.fell_below(5)) == (4.0, False)  # no full window yet
    confidence.read([4.0, 2.0, 6.0])
    assert (confidence.lowest, confidence.mean, confidence.fell_below(3), confidence.fell_below(4)) == (
        3,
        4,
        False,
        True,
    )
    assert not GroupConfidence(2).known


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (10, 1.3), (50, 2.5), (100, 4.0)])
def test_a_percentile_is_interpolated(percent: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(value)


def test_its_shape_is_what_it_runs() -> None:
    strategy = DeepConfidence(Params(n=8, start="waves"))
    assert (strategy.shape().branches, strategy.shape().waves, strategy.shape().votes) == (8, 2, False)
    assert DeepConfidence(Params(n=8)).shape().waves == 1
    assert strategy.required() == {Need.LOGPROBS, Need.ANSWERS, Need.SAMPLING}
    branches = [DeepConfidence(Params.model_validate(p.model_dump())).shape().branches for p in DeepConfidence.grid()]
    assert branches == sorted(branches)
