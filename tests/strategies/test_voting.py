"""One tie rule for every strategy that votes."""

from hypothesis import given
from hypothesis import strategies as st

from strategies.base import Answer, Branch, Outcome
from strategies.voting import Vote

Arrival = tuple[str | None, int]  # an answer (None abstains) and its tokens


def _vote(*arrivals: Arrival) -> Vote:
    vote, groups = Vote(), dict[str, int]()
    for index, (answer, tokens) in enumerate(arrivals):
        found = None if answer is None else Answer(groups.setdefault(answer, len(groups)), answer)
        vote.add(Branch(index, answer or "", tokens, "stop"), found)
    return vote


def test_the_most_frequent_answer_wins_and_its_shortest_branch_gives_it() -> None:
    outcome = _vote(("7", 10), ("8", 30), ("8", 20), ("8", 25)).outcome()
    assert outcome == Outcome(ranking=(2, 0, 1, 3), agreement=0.75, answer="8", votes=4)


def test_a_tie_goes_to_the_answer_with_the_shortest_branch_then_to_the_first_seen() -> None:
    assert _vote(("7", 30), ("8", 20), ("7", 40), ("8", 50)).outcome().answer == "8"
    assert _vote(("7", 20), ("8", 20)).outcome().answer == "7"


def test_abstentions_never_vote_and_rank_last() -> None:
    outcome = _vote((None, 1), (None, 2), ("7", 30)).outcome()
    assert outcome == Outcome(ranking=(2, 0, 1), agreement=1.0, answer="7", votes=1)


def test_where_all_abstain_the_first_arrival_answers_without_an_agreement() -> None:
    assert _vote((None, 9), (None, 3)).outcome() == Outcome(ranking=(0, 1), agreement=None, answer=None, votes=0)


def test_an_empty_vote_ranks_nobody() -> None:
    assert _vote().outcome() == Outcome(ranking=())


@given(st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(1, 5)), min_size=1, max_size=12))
def test_every_finished_branch_is_ranked_once_and_each_answer_leads_once(arrivals: list[Arrival]) -> None:
    vote = _vote(*arrivals)
    ranking = vote.outcome().ranking
    assert sorted(ranking) == list(range(len(arrivals)))
    assert vote.arrived == len(arrivals)
    answers = {answer for answer, _ in arrivals if answer is not None}
    assert {arrivals[index][0] for index in ranking[: len(answers)]} == answers or not answers
    assert sum(vote.counts) == sum(answer is not None for answer, _ in arrivals)
