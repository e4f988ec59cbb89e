r"""The parts that all step-wise searches share, as worked examples. A line of the small adding "model" is one token and
takes a second."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from arithmetic_steps import LINES, RIGHT, Adder, next_line, process_reward, step_scores

from strategies.base import Branch, Generation, Need, NoScore, Outcome, Scorer
from strategies.beam_search import BeamSearch
from strategies.dvts import Dvts
from strategies.particle_filter import ParticleFilter
from strategies.rebase import Rebase
from strategies.search import Path, SearchParams, advance, aggregated, scored, states_answer
from strategies.search_run import StepSearch
from strategies.self_consistency import SelfConsistency
from strategies.testing import Scripted, ScriptedSampler, fails, writes

SEARCHES: list[type[StepSearch]] = [BeamSearch, Dvts, Rebase, ParticleFilter]
each_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)


async def _run(search: type[StepSearch], sampler: ScriptedSampler, **params: object) -> Outcome:
    return await search(search.params_type.model_validate({"n": 8, **params})).run(sampler)


def _all_closed(sampler: ScriptedSampler) -> bool:
    return set(sampler.spent) == set(range(sampler.started))


# -- one wave --


async def test_a_wave_gives_each_path_one_step_that_goes_on_from_its_text() -> None:
    sampler = ScriptedSampler(Adder(wrong=0))
    root, later = Path(), Path(text="3+5=8\n", tokens=1, steps=1, scores=(0.7,), reward=0.7)
    first, second = await advance(sampler, [root, later], SearchParams())
    assert sampler.asked == [Generation(stop=("\n",)), Generation(continues="3+5=8\n", stop=("\n",))]
    assert (first.text, first.steps, first.tokens, first.finished) == ("3+5=8\n", 1, 1, False)
    assert (second.text, second.steps, second.tokens) == ("3+5=8\n8+2=10\n", 2, 2)
    assert second.branch == Branch(1, "3+5=8\n8+2=10\n", 1, "stop", (), 1)
    assert (second.reward, second.judged) == (0.7, False)  # until its own step is scored


@pytest.mark.parametrize(
    ("line", "finished"),
    [
        (writes("so\n", 2), False),
        (writes("so 7", 2), True),  # ended without a delimiter
        (writes("", 1), True),  # had nothing more to say
        (writes("it is \\boxed{7}\n", 2), True),  # whatever follows is no reasoning
        (writes("so\n", 2, finish_reason="length"), True),
    ],
)
async def test_a_path_is_finished_where_nothing_would_follow(line: Scripted, finished: bool) -> None:
    (path,) = await advance(ScriptedSampler([line]), [Path(text="A\n", steps=1)], SearchParams())
    assert path.finished is finished


async def test_at_max_steps_a_path_is_written_to_its_end() -> None:
    sampler = ScriptedSampler(Adder(wrong=0))
    (path,) = await advance(sampler, [Path(text="3+5=8\n", steps=1)], SearchParams(max_steps=2))
    assert (path.text, path.finished) == (RIGHT, True)
    assert sampler.asked[0].stop == ()


async def test_finished_paths_are_passed_on_and_failed_ones_are_gone() -> None:
    done, live = Path(text="7", finished=True), Path(text="A\n")
    sampler = ScriptedSampler([fails(1), writes("B\n", 1)])
    paths = await advance(sampler, [live, done, live], SearchParams())
    assert [path.text for path in paths] == ["7", "A\nB\n"]
    assert paths[0] is done


async def test_the_requests_own_limit_is_that_of_the_whole_path() -> None:
    sampler = ScriptedSampler([writes("B\n", 5), writes("B\n", 3)], max_tokens=12)
    spent = Path(text="A\n", tokens=7, steps=1)
    at_the_limit, below = await advance(sampler, [spent, replace(spent, tokens=2)], SearchParams())
    assert [generation.max_tokens for generation in sampler.asked] == [5, 10]
    assert (at_the_limit.tokens, at_the_limit.finished) == (12, True)
    assert (below.tokens, below.finished) == (5, False)


def test_an_answer_is_stated_by_a_whole_box_outside_of_the_thinking() -> None:
    assert states_answer("<think>so</think>it is \\boxed{\\frac12}, sure")
    assert not states_answer("it is \\boxed{7")
    assert not states_answer("<think>maybe \\boxed{7}, no")
    assert not states_answer("it is 7")


# -- scores --


async def test_equal_texts_are_scored_once_and_judged_ones_never_again() -> None:
    sampler = ScriptedSampler([], scores=process_reward)
    twin, done = Path(text="3+5=9\n"), Path(text="x", judged=True, reward=0.4)
    paths = await scored(sampler, [twin, replace(twin), done, Path(text="3+5=8\n")], SearchParams())
    assert sampler.scored == [("process-reward", ("3+5=9\n", "3+5=8\n"))]
    assert [path.reward for path in paths] == [0.1, 0.1, 0.4, 0.9]
    assert await scored(sampler, paths, SearchParams()) == paths
    assert len(sampler.scored) == 1


async def test_a_text_without_a_step_to_score_keeps_its_reward() -> None:
    sampler = ScriptedSampler([], scores=lambda texts, by: [[] for _ in texts])
    (path,) = await scored(sampler, [Path(text="\n", scores=(0.7,), reward=0.7)], SearchParams())
    assert (path.scores, path.reward, path.judged) == ((0.7,), 0.7, True)


async def test_the_reward_of_a_path_is_its_steps_aggregated() -> None:
    steps = (0.5, 0.2, 0.8)
    assert (aggregated(steps, "last"), aggregated(steps, "min")) == (0.8, 0.2)
    assert aggregated(steps, "product") == pytest.approx(0.08)
    sampler = ScriptedSampler([], scores=lambda texts, by: [list(steps)])
    (path,) = await scored(sampler, [Path(text="A\nB\nC\n")], SearchParams(aggregate="min"))
    assert (path.scores, path.reward) == (steps, 0.2)


# -- whole searches --


@each_search
async def test_it_finds_what_single_samples_mostly_miss(search: type[StepSearch]) -> None:
    """Each sum is wrong two times of three: one sample in 27 is right. Over ten seeds of the model."""
    found = voted = 0
    for seed in range(10):
        model = Adder(wrong=2 / 3, seed=seed)
        sampler = ScriptedSampler(model, scores=process_reward)
        outcome = await _run(search, sampler, n=16)
        found += outcome.answer == "16"
        assert sampler._lines[outcome.ranking[0]].text == "\\boxed{" + str(outcome.answer) + "}"  # its last step
        assert _all_closed(sampler)
        plain = ScriptedSampler(model)
        voted += (await SelfConsistency(SelfConsistency.params_type(n=16)).run(plain)).answer == "16"
    assert found == 10
    assert voted <= 3


@each_search
async def test_other_delimiters_end_steps_too(search: type[StepSearch]) -> None:
    def rewards(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        return [step_scores(text, "\n\n") for text in texts]

    sampler = ScriptedSampler(Adder(wrong=0.5, delimiter="\n\n"), scores=rewards)
    assert (await _run(search, sampler, delimiter="\n\n")).answer == "16"
    assert {generation.stop for generation in sampler.asked} == {("\n\n",)}


@each_search
async def test_it_starts_n_branches_a_wave_and_no_more(search: type[StepSearch]) -> None:
    sampler = ScriptedSampler(Adder(wrong=0.5), scores=process_reward)
    await _run(search, sampler)
    assert sampler.started == 8 * LINES
    assert sampler.now_s == LINES
    assert len(sampler.scored) == LINES


@each_search
async def test_a_token_limit_bounds_every_path(search: type[StepSearch]) -> None:
    """Three lines of four: nothing is answered in a box, the paths are cut, and the best one is given all the same."""
    sampler = ScriptedSampler(Adder(wrong=0.5), scores=process_reward, max_tokens=LINES - 1)
    outcome = await _run(search, sampler)
    assert {generation.max_tokens for generation in sampler.asked} == {3, 2, 1}
    assert sampler.asked[outcome.ranking[0]].continues == "3+5=8\n8+2=10\n"
    assert sampler.spent[outcome.ranking[0]] == 1


@each_search
async def test_a_deadline_in_the_middle_gives_the_best_path_so_far(search: type[StepSearch]) -> None:
    sampler = ScriptedSampler(Adder(wrong=0.5), scores=process_reward, deadline_s=2.5)
    outcome = await _run(search, sampler)
    best = outcome.ranking[0]
    assert sampler.asked[best].continues + (sampler._lines[best].text or "") == "3+5=8\n8+2=10\n"
    assert outcome.note == "the deadline came before any path had finished: the best one so far answers"
    assert (outcome.agreement, outcome.votes) == (None, 0)
    assert (sampler.now_s, sampler.cut_by_deadline) == (2.5, True)
    assert set(sampler.cancelled) == set(range(16, 24))
    assert _all_closed(sampler)


@each_search
async def test_nothing_is_started_once_the_deadline_has_come(search: type[StepSearch]) -> None:
    sampler = ScriptedSampler(Adder(wrong=0), scores=process_reward, deadline_s=2)
    assert set((await _run(search, sampler)).ranking) >= set(range(8, 16))
    assert sampler.started == 16


async def test_at_the_deadline_a_better_path_answers_before_a_longer_one() -> None:
    sampler = ScriptedSampler(
        [writes("0.3:\n", 2), writes("0.8:\n", 1), fails(1), *[writes("never", 9)] * 3],
        scores=lambda texts, by: [[float(text.partition(":")[0])] for text in texts],
        deadline_s=5,
    )
    assert (await _run(Rebase, sampler, n=3, balance=100)).ranking == (1, 0)


@each_search
async def test_a_deadline_before_the_first_step_leaves_the_answer_to_the_caller(search: type[StepSearch]) -> None:
    sampler = ScriptedSampler(Adder(), scores=process_reward, deadline_s=0.5)
    assert await _run(search, sampler) == Outcome(())
    assert all(generation.final for generation in sampler.asked)  # the longest of them may answer


@each_search
async def test_a_deadline_while_the_steps_are_scored_keeps_what_was_written(search: type[StepSearch]) -> None:
    sampler = ScriptedSampler(Adder(wrong=0), scores=process_reward, score_s=0.4, deadline_s=2.5)
    outcome = await _run(search, sampler)
    assert outcome.ranking[0] in range(8, 16)  # the second wave, which came at 2.4 and was not scored
    assert sampler.decided_at_s == pytest.approx(2.4)
    assert len(sampler.scored) == 1


@each_search
async def test_at_the_deadline_a_finished_path_answers_before_a_better_unfinished_one(search: type[StepSearch]) -> None:
    def model(generation: Generation, index: int) -> Scripted:
        return writes("\\boxed{5}", 1) if index == 0 else writes("on\n", 1)

    sampler = ScriptedSampler(model, scores=lambda texts, by: [[0.2 + 0.1 * ("on" in t)] for t in texts], deadline_s=3)
    outcome = await _run(search, sampler)
    assert (outcome.ranking, outcome.answer, outcome.note) == ((0,), "5", None)


@each_search
async def test_failing_branches_only_weaken_it(search: type[StepSearch]) -> None:
    model = Adder(wrong=0.5)

    def flaky(generation: Generation, index: int) -> Scripted:
        return fails(0.5) if index % 4 == 1 else model(generation, index)

    sampler = ScriptedSampler(flaky, scores=process_reward)
    assert (await _run(search, sampler, n=16)).answer == "16"
    assert _all_closed(sampler)


@each_search
@pytest.mark.parametrize("after", [0, 8, 16])
async def test_where_all_fail_nothing_is_ranked(search: type[StepSearch], after: int) -> None:
    model = Adder()
    sampler = ScriptedSampler(lambda g, i: model(g, i) if i < after else fails(1), scores=process_reward)
    assert await _run(search, sampler) == Outcome(())
    assert sampler.started == after + 8


@each_search
@pytest.mark.parametrize("waves", [0, 2])
async def test_without_scores_the_paths_go_on_to_their_ends_and_vote(search: type[StepSearch], waves: int) -> None:
    calls = 0

    def breaks(texts: Sequence[str], by: Scorer) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls > waves:
            raise NoScore("it is down")
        return process_reward(texts, by)

    sampler = ScriptedSampler(Adder(wrong=0.1), scores=breaks)
    outcome = await _run(search, sampler)
    assert (outcome.answer, outcome.votes) == ("16", 8)
    assert outcome.note == "the process reward failed (it is down): the paths went on without it, each with one vote"
    assert calls == waves + 1  # it is not asked again
    assert sampler.started == 8 * (waves + 2)
    assert {generation.stop for generation in sampler.asked[-8:]} == {()}
    assert all(generation.continues for generation in sampler.asked[-8:])
    assert _all_closed(sampler)


@each_search
async def test_scores_that_fail_and_a_deadline_leave_the_best_text_so_far(search: type[StepSearch]) -> None:
    sampler = ScriptedSampler(Adder(wrong=0), deadline_s=2.5)  # no scorer; the rest would take until 4
    outcome = await _run(search, sampler)
    assert set(outcome.ranking) == set(range(8))
    assert outcome.note is not None and "deadline" in outcome.note


@each_search
async def test_a_template_that_trims_ends_in_whole_answers_and_is_told_of(search: type[StepSearch]) -> None:
    """Going on from "3+5=8" without its new line, the model begins with that new line, for ever."""

    def trimming(generation: Generation, index: int) -> Scripted:
        if generation.stop:
            return writes("\n" if generation.continues else next_line(""), 1)
        return writes(RIGHT.removeprefix("3+5=8\n"), 3)

    sampler = ScriptedSampler(trimming, scores=process_reward)
    outcome = await _run(search, sampler)
    assert outcome.answer == "16"
    assert outcome.note is not None and "does the chat template trim" in outcome.note
    assert sampler.now_s == 1 + 3 + 3


# -- the choice --


def _endings(*lines: Scripted) -> ScriptedSampler:
    """Paths of one step, rewarded by the number before the colon."""
    return ScriptedSampler(lines, scores=lambda texts, by: [[float(text.partition(":")[0])] for text in texts])


async def test_rewards_are_summed_per_answer() -> None:
    lines = [writes(f"{reward}: \\boxed{{{answer}}}", 9) for reward, answer in ((0.9, 7), (0.5, 8), (0.6, 8), (0.1, 9))]
    voted = await _run(Rebase, _endings(*lines), n=4)
    assert (voted.answer, voted.votes, voted.agreement) == ("8", 4, pytest.approx(1.1 / 2.1))
    assert voted.ranking[0] == 2  # of equally short ones the better
    best = await _run(Rebase, _endings(*lines), n=4, pick="reward")
    assert best == Outcome((0, 2, 3, 1), answer="7")  # one of each answer, then the rest


async def test_without_answers_the_best_reward_answers() -> None:
    async def nothing(text: str) -> None:
        return None

    sampler = _endings(writes("0.3: a poem", 5), writes("0.8: an ode", 5), writes("0.5: a song", 5))
    sampler._classify = nothing
    assert await _run(Rebase, sampler, n=3) == Outcome((1, 2, 0))


async def test_a_path_that_was_cut_off_comes_last() -> None:
    sampler = _endings(writes("0.9: and then", 5, finish_reason="length"), writes("0.4: \\boxed{7}", 5))
    assert (await _run(Rebase, sampler, n=2, pick="reward")).ranking == (1, 0)


@each_search
def test_what_they_need_and_their_shape(search: type[StepSearch]) -> None:
    assert search.needs == {Need.PROCESS_REWARD, Need.CONTINUATION, Need.SAMPLING}
    shape = search(search.params_type.model_validate({"n": 4, "max_steps": 5})).shape()
    assert (shape.branches, shape.waves, shape.votes) == (4, 5, False)
    assert search(search.params_type()).shape().waves == 16
    assert search.pin(8) == {"n": 8}
    branches = [search(setting).shape().branches for setting in search.grid()]
    assert branches == sorted(branches)  # cheapest first
