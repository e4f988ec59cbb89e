"""One state per backend: what opens it, what closes it, and that no sequence of events leaves the picture."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planner_tables import backend

from proxy.branch import BranchStream
from proxy.health import TRIAL_S, Health
from proxy.reliability.settings import BreakerConfig
from proxy.upstream.errors import ConnectionLost

RULES = BreakerConfig()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health("a", RULES, clock)


def fail(health: Health, times: int = 1) -> None:
    for _ in range(times):
        health.failed(health.begin(), health._clock(), "the backend closed the connection")


def opened(health: Health, clock: Clock) -> Health:
    """Taken out by failures, its time over, and /health well."""
    fail(health, RULES.consecutive_failures)
    clock.now += RULES.open_s
    health.probed(None)
    return health


def test_failures_in_a_row_open_it(health: Health) -> None:
    fail(health, RULES.consecutive_failures - 1)
    assert health.serving
    fail(health)
    assert (health.state, health.cause, health.serving) == ("open", "errors", False)
    assert health.problem == "5 failures in a row, the last: the backend closed the connection"
    assert health.retry_after_s == RULES.open_s


def test_an_answer_between_them_begins_the_row_again(health: Health) -> None:
    fail(health, RULES.consecutive_failures - 1)
    health.answered(health.begin(), 1000.0)
    fail(health, RULES.consecutive_failures - 1)
    assert health.state == "closed"


def test_an_error_rate_opens_it_where_failures_never_come_in_a_row(health: Health) -> None:
    for _ in range(RULES.min_requests // 2):
        health.answered(health.begin(), 1000.0)
        fail(health)
    assert health.state == "open"
    assert health.problem is not None and health.problem.startswith("10 of the last 20 requests failed")


def test_a_500_may_be_the_requests_own_fault_and_does_not_open_it(health: Health) -> None:
    for _ in range(50):
        health.status(health.begin(), 1000.0, 500)
    assert health.state == "closed"
    assert health.answers.of_kind == 50, "but its peers are compared by it"


def test_what_the_client_did_wrong_says_that_the_backend_lives(health: Health) -> None:
    fail(health, RULES.consecutive_failures - 1)
    health.status(health.begin(), 1000.0, 400)
    fail(health)
    assert health.state == "closed"


def test_the_branches_of_one_request_are_one_failure_in_a_row() -> None:
    """Else one request with many branches would take a backend out."""
    one, blamed = backend(), set[str]()
    one.health.rules = RULES
    for index in range(16):
        branch = BranchStream(index, one, lambda: 0.0, lambda branch: None)
        branch.blamed = blamed
        branch.on_error(ConnectionLost("the backend closed the connection"))
    assert (one.health.state, one.health.failures, one.health.answers.of_kind) == ("closed", 1, 16)


def test_half_open_lets_one_through_and_closes_with_its_answer(health: Health, clock: Clock) -> None:
    opened(health, clock)
    assert (health.state, health.serving) == ("half-open", True)
    mark = health.begin()
    assert not health.serving, "one is enough"
    health.alive(mark)
    assert (health.state, health.serving, health.problem) == ("closed", True, None)


def test_a_failed_trial_opens_it_for_twice_as_long(health: Health, clock: Clock) -> None:
    opened(health, clock)
    fail(health)
    assert (health.state, health.retry_after_s) == ("open", 2 * RULES.open_s)
    clock.now += RULES.open_s
    health.probed(None)
    assert health.state == "open"


def test_the_time_grows_to_its_limit_and_starts_over_after_a_good_while(health: Health, clock: Clock) -> None:
    opened(health, clock)
    for _ in range(10):
        fail(health)
        clock.now += health.retry_after_s
        health.probed(None)
    fail(health)
    assert health.retry_after_s == RULES.max_open_s
    clock.now += RULES.max_open_s
    health.probed(None)
    health.alive(health.begin())
    clock.now += RULES.max_open_s + 1
    fail(health, RULES.consecutive_failures)
    assert health.retry_after_s == RULES.open_s


def test_a_trial_that_its_client_gives_up_leaves_the_place_to_another(health: Health, clock: Clock) -> None:
    mark = opened(health, clock).begin()
    health.released(mark)
    assert (health.state, health.serving) == ("half-open", True)


def test_a_trial_that_takes_long_does_not_keep_others_from_trying(health: Health, clock: Clock) -> None:
    opened(health, clock).begin()
    health.probed(None)
    assert not health.serving
    clock.now += TRIAL_S
    health.probed(None)
    assert health.serving


def test_what_began_before_says_nothing_of_what_came_after(health: Health, clock: Clock) -> None:
    old = health.begin()
    opened(health, clock)
    health.answered(old, clock.now)
    assert health.state == "half-open"
    health.failed(old, clock.now, "late news")
    assert health.state == "half-open"


def test_where_only_the_probe_failed_the_probe_is_the_trial(health: Health) -> None:
    health.probed("/health answered 503")
    assert (health.state, health.cause) == ("open", "probe")
    health.probed(None)
    assert health.state == "closed"


def test_a_well_probe_does_not_shorten_the_time_of_a_breaker(health: Health, clock: Clock) -> None:
    fail(health, RULES.consecutive_failures)
    health.probed("/health: cannot connect: Connection refused")
    health.probed(None)
    assert (health.state, health.retry_after_s) == ("open", RULES.open_s)


def test_without_rules_requests_take_nothing_out(clock: Clock) -> None:
    health = Health("a", None, clock)
    fail(health, 1000)
    assert health.state == "closed"


class AnySequence(RuleBasedStateMachine):
    """Against what must hold in every state, whatever happened."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.health = Health("a", RULES, self.clock)
        self.marks: list[int] = []
        self.trials = 0
        self.in_a_row = 0

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.health.serving)
    @rule()
    def a_request_begins(self) -> None:
        half_open = self.health.state == "half-open"
        self.marks.append(self.health.begin())
        if half_open:
            assert not self.health.serving, "nobody else tries it now"

    @precondition(lambda self: self.marks)
    @rule(which=st.integers(0, 1000), how=st.sampled_from(["answered", "failed", "erred", "alive", "released"]))
    def a_request_ends(self, which: int, how: str) -> None:
        mark = self.marks.pop(which % len(self.marks))
        before, state, now = self.health.epoch, self.health.state, self.clock.now
        match how:
            case "answered":
                self.health.answered(mark, now)
            case "failed":
                self.health.failed(mark, now, "lost")
            case "erred":
                self.health.failed(mark, now, "500", in_a_row=False)
            case "alive":
                self.health.alive(mark)
            case _:
                self.health.released(mark)
        if mark != before:
            assert (self.health.state, self.health.epoch) == (state, before), "news of an earlier state moves nothing"
        if state == "half-open" and mark == before:
            expected = {"failed": "open", "erred": "open", "answered": "closed", "alive": "closed"}
            assert self.health.state == expected.get(how, "half-open")

    @rule(well=st.booleans())
    def a_look(self, well: bool) -> None:
        state, left = self.health.state, self.health.retry_after_s
        self.health.probed(None if well else "/health answered 503")
        if not well:
            assert (self.health.state, self.health.cause) == ("open", "probe")
        elif state == "open" and left > 0:
            assert self.health.state == "open", "its time is not over"
        elif state == "open":
            assert self.health.state in ("half-open", "closed")

    @precondition(lambda self: self.health.state == "closed")
    @rule()
    def its_peers_are_better(self) -> None:
        self.health.eject("slow", 30, 300)
        assert self.health.state == "open"

    @invariant()
    def open_serves_nobody_and_closed_serves(self) -> None:
        health = self.health
        if health.state == "open":
            assert not health.serving and health.problem and health.cause
        if health.state == "closed":
            assert health.serving and health.problem is None
            assert health.failures < RULES.consecutive_failures

    @invariant()
    def it_is_never_out_for_longer_than_the_limits(self) -> None:
        assert self.health.retry_after_s <= 300


TestAnySequence = AnySequence.TestCase
