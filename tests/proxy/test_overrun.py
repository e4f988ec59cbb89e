"""What an engine generates after a branch was cut is learnt from its counter."""

from random import Random

import pytest
from test_branch import _branch

from proxy.overrun import DOUBT, MOST, PATIENCE, Overrun
from proxy.pooled import metered


class Engine:
    """One that generates `late` tokens more for every branch that is cut."""

    def __init__(self, late: int) -> None:
        self.overrun = Overrun()
        self.generated = 0.0
        self.late = late
        self.look()

    def run(self, tokens: int, *, cut: bool = False) -> int:
        """A branch; what it is told to add."""
        self.generated += tokens + self.late * cut
        self.overrun.told += tokens
        return self.overrun.cut() if cut else 0

    def look(self, running: int = 0, *, others: bool = False) -> None:
        self.overrun.look(self.generated, running, others=others)


def test_it_is_what_the_engine_counts_beyond_what_was_told() -> None:
    engine = Engine(late=5)
    assert engine.run(100, cut=True) == 0, "nothing is known yet"
    for _ in range(200):
        engine.run(30)
        engine.run(100, cut=True)
        engine.look()
    assert engine.overrun.per_cut == pytest.approx(5, rel=0.1)


def test_few_cuts_are_believed_a_little() -> None:
    engine = Engine(late=5)
    engine.run(100, cut=True)
    engine.look()
    assert engine.overrun.per_cut == pytest.approx(5 / (1 + DOUBT), rel=0.01)


def test_what_is_added_comes_to_the_mean() -> None:
    engine = Engine(late=0)
    engine.overrun.per_cut = 2.3
    assert sum(engine.run(10, cut=True) for _ in range(100)) in (229, 230)


def test_a_change_is_followed_within_some_hundred_cuts() -> None:
    engine = Engine(late=8)
    for late in (8, 2):
        engine.late = late
        for _ in range(100):
            for _ in range(5):
                engine.run(50, cut=True)
            engine.look()
    assert engine.overrun.per_cut == pytest.approx(2, abs=1)


def test_what_running_branches_have_not_told_yet_cancels() -> None:
    """A busy engine that is never quiet: at every look up to 15 tokens of each of ten branches are still untold."""
    engine, rng = Engine(late=5), Random(7)
    for _ in range(400):
        engine.run(300)
        engine.run(100, cut=True)
        untold = rng.randrange(150)
        engine.generated += untold
        engine.look(running=10)
        engine.generated -= untold
    assert engine.overrun.per_cut == pytest.approx(5, abs=1)


def test_a_call_whose_tokens_are_not_booked_yet_is_waited_for() -> None:
    engine = Engine(late=5)
    engine.overrun.began()
    engine.run(100, cut=True)
    engine.generated += 40
    engine.look(running=1)
    assert engine.overrun.per_cut == 0
    engine.overrun.booked(40)
    engine.look()
    assert engine.overrun.per_cut == pytest.approx(5 / (1 + DOUBT), rel=0.01)


def test_one_that_is_never_booked_is_not_waited_for_for_ever() -> None:
    engine = Engine(late=5)
    engine.overrun.began()
    for _ in range(PATIENCE + 2):  # under traffic whose calls are booked
        engine.overrun.began()
        engine.generated += 10
        engine.overrun.booked(10)
        engine.look(running=3)
    engine.run(100, cut=True)
    engine.look(running=3)
    assert engine.overrun.per_cut > 0


def test_from_an_estimate_nothing_is_learnt() -> None:
    engine = Engine(late=0)
    engine.overrun.began()
    engine.generated += 60
    engine.overrun.booked(20, cuts=1, exact=False)
    engine.look()
    assert engine.overrun.per_cut == 0


def test_of_a_call_with_several_answers_each_is_cut() -> None:
    engine = Engine(late=0)
    engine.overrun.per_cut = 2.0
    assert engine.overrun.booked(30, cuts=3) == 6


def test_what_falls_into_the_window_after_the_cut_counts_as_well() -> None:
    """The engine notices after the look that saw the cut, and is idle then."""
    engine = Engine(late=0)
    engine.run(100, cut=True)
    engine.look()
    engine.generated += 5
    engine.look()
    assert engine.overrun.per_cut == pytest.approx(5 / (1 + DOUBT), rel=0.01)


def test_others_that_are_not_seen_make_it_never_more_than_the_most_and_are_forgotten() -> None:
    engine = Engine(late=3)
    for _ in range(5000):
        engine.generated += 60
        engine.look(running=8)
    assert engine.overrun.per_cut <= MOST
    for _ in range(4000):
        engine.look(running=8)
    assert engine.overrun.per_cut < 2


def test_what_others_generate_is_not_taken_for_ours() -> None:
    engine = Engine(late=5)
    engine.run(100, cut=True)
    engine.generated += 30
    engine.look(others=True)
    engine.look()
    assert engine.overrun.per_cut == 0
    engine.run(100, cut=True)
    engine.generated += MOST  # of somebody who came and went between two looks
    engine.look()
    assert engine.overrun.per_cut == 0


def test_a_counter_that_begins_anew_tells_nothing() -> None:
    engine = Engine(late=5)
    engine.generated = 1000.0
    engine.look()
    engine.run(100, cut=True)
    engine.generated = 0.0
    engine.look()
    assert engine.overrun.per_cut == 0
    engine.run(100, cut=True)
    engine.look()
    assert engine.overrun.per_cut > 0


def test_an_engine_that_tells_less_than_it_was_asked_for_is_never_owed() -> None:
    engine = Engine(late=-3)
    engine.run(100, cut=True)
    engine.look()
    assert engine.overrun.per_cut == 0


async def test_what_a_judge_wrote_is_in_the_account_and_a_call_that_broke_off_teaches_nothing() -> None:
    backend, clock = _branch().backend, lambda: 0.0
    with metered(backend, clock, []) as call:
        call.completion_tokens = 7
        backend.overrun.look(3.0, 1, others=False)
        assert backend.overrun._before is None, "while it runs, nothing can be told"
    backend.overrun.look(7.0, 0, others=False)
    assert (backend.overrun.told, backend.overrun._before) == (7, (0.0, 0, 0))
    with pytest.raises(TimeoutError), metered(backend, clock, []):
        raise TimeoutError
    assert backend.overrun._read_booked() is False
