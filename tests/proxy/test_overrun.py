"""What an engine generates after a branch was cut is learnt from its counter."""

import pytest

from proxy.overrun import MOST, PATIENCE, Overrun


class Engine:
    """One that generates `late` tokens more for every branch that is cut."""

    def __init__(self, late: int) -> None:
        self.overrun = Overrun()
        self.generated = 0.0
        self._late = late
        self.look()

    def run(self, tokens: int, *, cut: bool) -> int:
        """A branch; what it is told to add."""
        self.overrun.began()
        self.generated += tokens + self._late * cut
        return self.overrun.ended(tokens, cut=cut)

    def look(self, *, quiet: bool = True, others: bool = False) -> None:
        self.overrun.look(self.generated, quiet=quiet, others=others)


def test_it_is_what_the_engine_counts_beyond_what_was_told() -> None:
    engine = Engine(late=5)
    assert engine.run(100, cut=True) == 0, "nothing is known yet"
    engine.run(30, cut=False)
    engine.look()
    assert engine.overrun.per_cut == 5
    assert (engine.run(100, cut=True), engine.run(30, cut=False)) == (5, 0)


def test_what_is_added_comes_to_the_mean() -> None:
    engine = Engine(late=0)
    engine.overrun.per_cut = 2.3
    assert sum(engine.run(10, cut=True) for _ in range(100)) in (229, 230)


def test_a_change_is_followed_within_a_hundred_cuts() -> None:
    engine = Engine(late=8)
    for late in (8, 2):
        engine._late = late
        for _ in range(25):
            for _ in range(4):
                engine.run(50, cut=True)
            engine.look()
    assert engine.overrun.per_cut == pytest.approx(2, abs=1)


def test_while_branches_run_nothing_can_be_told() -> None:
    engine = Engine(late=5)
    engine.run(100, cut=True)
    engine.look(quiet=False)
    assert engine.overrun.per_cut == 0
    engine.run(50, cut=False)
    engine.look()
    assert engine.overrun.per_cut == 5, "both are in the account at the next quiet moment"


def test_a_branch_whose_tokens_are_not_booked_yet_is_waited_for() -> None:
    engine = Engine(late=5)
    engine.run(100, cut=True)
    engine.overrun.began()
    engine.generated += 40
    engine.look()
    assert engine.overrun.per_cut == 0
    engine.overrun.ended(40, cut=False)
    engine.look()
    assert engine.overrun.per_cut == 5


def test_one_that_is_never_booked_is_not_waited_for_for_ever() -> None:
    engine = Engine(late=5)
    engine.overrun.began()
    for _ in range(PATIENCE + 1):
        engine.look()
    engine.run(100, cut=True)
    engine.look()
    assert engine.overrun.per_cut == 5


def test_what_others_generate_is_not_taken_for_ours() -> None:
    engine = Engine(late=5)
    engine.run(100, cut=True)
    engine.generated += 30
    engine.look(quiet=False, others=True)
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
    assert engine.overrun.per_cut == 5


def test_an_engine_that_tells_less_than_it_was_asked_for_is_never_owed() -> None:
    engine = Engine(late=-3)
    engine.run(100, cut=True)
    engine.look()
    assert engine.overrun.per_cut == 0
