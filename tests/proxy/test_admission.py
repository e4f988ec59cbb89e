"""The gate of one model: never more than may run or wait, in order of class, and everybody gets an answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.simulation.loop import run_virtually
from proxy.call import parse
from proxy.config import SloDefaults
from proxy.errors import ClientGone, DeadlineExceeded, Overloaded, SloInfeasible
from proxy.in_process_client import InProcessClient
from proxy.reliability.admission import Admission, Gate, announced_bytes
from proxy.reliability.settings import AdmissionConfig

RUNNING, WAITING = 2, 3
RANKS = {"priority": 0, "default": 1, "flex": 2}


@dataclass
class Asked:
    """One request, and what became of it."""

    tier: str | None
    deadline_ms: float | None
    strict: bool
    number: int
    order: list[int]
    became: str = "waits"
    over: asyncio.Event = field(default_factory=asyncio.Event)
    client: InProcessClient | None = None

    @property
    def rank(self) -> int:
        return RANKS.get(self.tier or "default", 1)

    async def run(self, gate: Gate) -> None:
        loop = asyncio.get_running_loop()
        body: dict[str, object] = {"model": "m", "messages": [], "service_tier": self.tier}
        if self.deadline_ms is not None:
            body["slo"] = {"latency_ms": self.deadline_ms, "mode": "strict" if self.strict else "best-effort"}
        data = json.dumps(body).encode()
        self.client = InProcessClient(data, loop)
        call = parse("/v1/chat/completions", [], data, SloDefaults())
        try:
            if not gate.enter():
                await gate.wait(call, self.client, loop.time())
        except (Overloaded, SloInfeasible, DeadlineExceeded) as error:
            self.became = type(error).__name__
            return
        except ClientGone:
            self.became = "gone"
            return
        except asyncio.CancelledError:
            self.became = "cancelled"
            raise
        self.order.append(self.number)
        self.became = "runs"
        try:
            await self.over.wait()
        finally:
            self.became = "ended"
            gate.leave()


ARRIVES = st.tuples(
    st.just("arrives"),
    st.sampled_from([None, "auto", "priority", "default", "flex"]),
    st.one_of(st.none(), st.integers(1, 2000)),
    st.booleans(),
)
EVENTS = st.lists(
    st.one_of(
        ARRIVES,
        ARRIVES,
        st.tuples(st.just("ends"), st.integers(0, 9)),
        st.tuples(st.just("leaves"), st.integers(0, 9)),
        st.tuples(st.just("is cancelled"), st.integers(0, 9)),
        st.tuples(st.just("time"), st.floats(0.001, 2)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_whatever_happens_the_bounds_hold_and_everybody_is_answered(events: list[tuple]) -> None:  # type: ignore[type-arg]
    async def story() -> None:
        loop = asyncio.get_running_loop()
        admission = Admission(AdmissionConfig(max_in_flight=RUNNING, max_queued=WAITING), loop.time)
        gate, asked, order = admission.gate("m"), list[Asked](), list[int]()
        tasks: list[asyncio.Task[None]] = []

        def those(state: str) -> list[Asked]:
            return [each for each in asked if each.became == state]

        for event in events:
            waiting = those("waits")
            match event:
                case ("arrives", tier, deadline_ms, strict):
                    one = Asked(tier, deadline_ms, strict, len(asked), order)
                    asked.append(one)
                    tasks.append(loop.create_task(one.run(gate)))
                case ("ends", which) if running := those("runs"):
                    running[which % len(running)].over.set()
                case ("leaves", which) if waiting:
                    client = waiting[which % len(waiting)].client
                    assert client is not None
                    client.leave()
                case ("is cancelled", which) if waiting:
                    tasks[waiting[which % len(waiting)].number].cancel()
                case ("time", seconds):
                    await asyncio.sleep(seconds)
            before = len(order)
            for _ in range(5):
                await asyncio.sleep(0)
            assert gate.in_flight == len(those("runs")) <= RUNNING
            assert gate.queued == len(those("waits")) <= WAITING
            if those("waits"):
                assert gate.in_flight == RUNNING, "nobody waits beside a free place"
            for number in order[before:]:
                left_behind = [each for each in waiting if each in those("waits")]
                if asked[number] in waiting:
                    mine = (asked[number].rank, number)
                    assert all(mine < (each.rank, each.number) for each in left_behind), "by class, then by arrival"
        for _ in asked:
            for each in asked:
                each.over.set()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.in_flight, gate.queued) == (0, 0)
        assert not [each for each in asked if each.became in ("waits", "runs")]
        refused = [each for each in asked if each.became in ("Overloaded", "SloInfeasible", "DeadlineExceeded")]
        assert sum(admission.shed.values()) == len(refused), "who was refused is counted"

    run_virtually(story())


def test_a_lone_body_is_always_taken_and_more_than_the_limit_together_never() -> None:
    admission = Admission(AdmissionConfig(max_held_bytes=1024), lambda: 0.0)
    held = admission.hold(5000)
    try:
        admission.hold(1)
        raise AssertionError("taken")
    except Overloaded as error:
        assert error.retry_after_s == 1
    admission.let_go(held)
    assert admission.hold(1000) + admission.hold(24) == 1024
    assert admission.shed == {("", "", "bytes"): 1}


@given(st.integers(0, 10**25))
def test_what_is_announced_counts_and_what_is_not_counts_as_the_limit(length: int) -> None:
    assert announced_bytes([(b"content-length", str(length).encode())], 1000) <= 1000
    assert announced_bytes([(b"content-length", b"7")], 1000) == 7
    assert announced_bytes([], 1000) == announced_bytes([(b"content-length", b"x")], 1000) == 1000
