"""GPU time shared among the branches that ran: nothing is lost and nothing counted twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gpu_time import GpuTime


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_two_branches_share_the_time_in_which_both_ran() -> None:
    clock = Clock()
    ledger = GpuTime(4, clock)
    clock.now += 7  # idle: nobody's
    first = ledger.enter()
    clock.now += 1
    second = ledger.enter()
    clock.now += 2
    assert ledger.leave(first) == pytest.approx(4 * (1 + 2 / 2))
    clock.now += 3
    assert ledger.leave(second) == pytest.approx(4 * (2 / 2 + 3))
    clock.now += 9
    assert ledger.busy_gpu_s() == pytest.approx(4 * (1 + 2 + 3))


def test_other_clients_branches_take_their_share_from_then_on() -> None:
    clock = Clock()
    ledger = GpuTime(1, clock)
    mark = ledger.enter()
    clock.now += 1
    ledger.set_others(3)
    clock.now += 4
    assert ledger.leave(mark) == pytest.approx(1 + 4 / 4)
    assert ledger.busy_gpu_s() == pytest.approx(5)


Step = tuple[float, int | None]  # seconds that pass, then: None starts a branch, k ends the k-th running one


@given(
    st.lists(st.tuples(st.floats(0, 10), st.none() | st.integers(0, 9)), max_size=40),
    st.sampled_from([0.5, 1.0, 8.0]),
)
def test_shares_sum_to_busy_time_whatever_comes_and_goes(steps: list[Step], gpus: float) -> None:
    clock = Clock()
    ledger = GpuTime(gpus, clock)
    marks: list[float] = []
    shares, busy_s = 0.0, 0.0
    for seconds, ending in steps:
        clock.now += seconds
        busy_s += seconds if marks else 0.0
        if ending is None:
            marks.append(ledger.enter())
        elif marks:
            shares += ledger.leave(marks.pop(ending % len(marks)))
        assert ledger.running == len(marks)
    shares += sum(ledger.leave(mark) for mark in marks)
    assert shares == pytest.approx(ledger.busy_gpu_s(), abs=1e-9)
    assert shares == pytest.approx(busy_s * gpus, abs=1e-9)


def test_the_peak_since_the_last_look_covers_branches_that_just_ended() -> None:
    time = GpuTime(1, lambda: 0.0)
    marks = [time.enter() for _ in range(3)]
    for mark in marks:
        time.leave(mark)
    time.enter()
    assert time.take_peak() == 3  # the engine may still count the three
    assert time.take_peak() == 1


@given(
    st.lists(st.tuples(st.floats(0, 10), st.none() | st.integers(0, 9), st.floats(0, 20)), max_size=40),
    st.sampled_from([0.5, 1.0, 8.0]),
)
def test_attributed_others_and_idle_are_all_of_the_wall_clock(
    steps: list[tuple[float, int | None, float]], gpus: float
) -> None:
    clock = Clock()
    ledger, began = GpuTime(gpus, clock), clock.now
    marks: list[float] = []
    shares = 0.0
    for seconds, ending, others in steps:
        clock.now += seconds
        ledger.set_others(others)
        if ending is None:
            marks.append(ledger.enter())
        elif marks:
            shares += ledger.leave(marks.pop(ending % len(marks)))
    shares += sum(ledger.leave(mark) for mark in marks)
    clock.now += 1
    spent = ledger.spent()
    assert min(spent) >= -1e-9
    assert spent.attributed == pytest.approx(shares, abs=1e-7)
    assert spent.wall == pytest.approx((clock.now - began) * gpus, abs=1e-7)


def test_a_call_that_the_engine_runs_as_three_branches_has_three_shares() -> None:
    clock = Clock()
    ledger = GpuTime(1, clock)
    several, one = ledger.enter(3), ledger.enter()
    clock.now += 4
    assert ledger.take_peak() == 4
    assert ledger.leave(several, 3) == pytest.approx(3)
    assert ledger.leave(one) == pytest.approx(1)
    assert ledger.spent().attributed == pytest.approx(4)
