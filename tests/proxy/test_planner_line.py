"""Votes that wait for seats: where the deadline has room, smaller as the line grows, past those that are due later."""

from planner_tables import ask, backend, chosen, decide

from proxy.controls import Slo

PATIENT = Slo(latency_ms=60_000)
BY_PRIORITY = {"launch": {"model": "m", "args": {"scheduling-policy": "priority"}}}


def test_with_a_deadline_a_vote_may_wait_for_seats() -> None:
    full = backend(others=16, max_num_seqs=16, **BY_PRIORITY)
    plan = decide(ask(PATIENT), full).plan
    assert plan.branches > 1
    assert plan.predicted.wait_ms > 0


def test_without_one_it_may_not() -> None:
    assert decide(ask(), backend(others=16, max_num_seqs=16)).plan.branches == 1


def test_where_the_line_is_first_come_first_served_it_may_not_either() -> None:
    """Those with less time, who come after, would pay for it."""
    assert decide(ask(PATIENT), backend(others=16, max_num_seqs=16)).plan.branches == 1


def test_as_the_line_grows_n_falls() -> None:
    lines = (16, 200, 400, 1500, 4000)
    sizes = [chosen(PATIENT, backend(others=others, max_num_seqs=16, **BY_PRIORITY)) for others in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 16 and sizes[-1] == 1


def test_it_goes_before_those_that_are_due_later() -> None:
    full = backend(max_num_seqs=16, **BY_PRIORITY)
    assert full.line is not None
    for _ in range(80):
        full.gpu_time.enter()
    for _ in range(64):
        full.line.join(60.0)
    waits = [decide(ask(PATIENT, due_s=due_s), full).plan.predicted.wait_ms for due_s in (10.0, 70.0)]
    assert waits[0] < waits[1]
