"""The planner and the strategies alone, in virtual time: the same requests come to the same end as through the whole
proxy, one by one, and what ends a request early leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from simulation_rig import QUALITY, make_profile, write_config
from virtual_traffic import alone, seeded, through_the_proxy
from virtual_world import World, live

from profiler import profile_file
from profiler.loadtest.result import Result
from profiler.simulation.clock import VirtualClock
from profiler.steptime import StepTime
from proxy.config import load
from proxy.simulated_fleet import Simulation, capabilities
from proxy.upstream_body import VOTE_STREAM_INTERVAL
from proxy.virtual.fleet import VirtualFleet
from proxy.virtual.steps import ForeignWait, Steps
from proxy.virtual.traffic import VirtualTraffic
from strategies.registry import Registry

STEADY = Simulation(noise=False)
TASK = {"task": "tinymath", "model": "m"}
PRIORITY = {"launch": {"model": "m", "args": {"scheduling-policy": "priority"}}}


# No round numbers: a deadline that falls on the end of a step, to the last digit, is a matter of rounding.
STEP = StepTime.linear(c0_s=1.0317e-3, c_tok_s=5.0713e-5, c_kv_s=1.0193e-9, p0_s=4.0131e-3, p_tok_s=2.0371e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fleet(tmp_path)


def fleet(folder: Path, *, acceptance_length: float = 1.0, **backend: Any) -> Path:
    path = write_config(folder, "a", "b", **backend)
    for name in ("a", "b"):
        profile_file.write(
            make_profile(name, step_time=STEP, acceptance_length=acceptance_length), folder / f"{name}.json"
        )
    return path


def steady(rate: float, for_s: float) -> dict[str, Any]:
    return {"process": "poisson", "rate": rate, "for_s": for_s}


def agree(path: Path, workload: dict[str, Any], how: Simulation = STEADY) -> list[Result]:
    """Both ways, row by row; the rows. Without noise, which depends on the time of day."""
    planned = seeded({**TASK, **workload})
    whole, bare = through_the_proxy(path, planned, how), alone(path, planned, how)
    assert len(whole) == len(bare) == len(planned.requests)
    for expected, found in zip(whole, bare, strict=True):
        _same(expected, found)
    return bare


TOLERANCE = {"latency_ms": 0.02, "ttft_ms": 0.02, "predicted_ms": 1.0}
# Traces tell thousandths of a millisecond; and an engine counts a branch that was cut for a moment longer, which a
# proxy that looks just then takes for somebody else's.
RELATIVE = {"cost_usd": 1e-3, "exclusive_usd": 1e-3, "gpu_seconds": 1e-3}
UNCOMPARED = ("trace_id", "met", "sent_s", "text")


def _same(expected: Result, found: Result) -> None:
    told = msgspec.structs.asdict(expected)
    for name, value in msgspec.structs.asdict(found).items():
        if name in UNCOMPARED or (told[name] is None and expected.outcome != "answered"):
            continue  # what a client never heard of a request is known here all the same
        if name == "completion_tokens":  # of cut branches that were watched, a proxy knows whole chunks
            branches = found.n or 1
            assert -branches <= value - told[name] < VOTE_STREAM_INTERVAL * branches, (expected, found)
            continue
        if told[name] is None:
            assert value is None, (name, expected, found)
            continue
        if name in TOLERANCE:
            told[name] = pytest.approx(told[name], abs=TOLERANCE[name])
        elif name in RELATIVE:
            told[name] = pytest.approx(told[name], rel=RELATIVE[name])
        assert value == told[name], (name, expected, found)
    if expected.outcome == "answered":
        said, whole = found.text or "", expected.text or ""
        assert whole and (said.endswith(whole) or said.startswith(whole)), (whole, said)


def test_a_free_choice_of_three_classes_under_load(path: Path) -> None:
    rows = agree(
        path,
        {
            "arrivals": steady(60, 4),
            "classes": [
                {"name": "interactive", "share": 2, "slo": {"latency_ms": 400}},
                {"name": "careful", "slo": {"latency_ms": 2000, "quality": 0.3}},
                {"name": "thrifty", "slo": {"latency_ms": 5000, "quality": 0.3, "objective": "cost"}},
            ],
        },
    )
    assert len({(row.strategy, row.n) for row in rows}) > 3
    assert {row.slo_status for row in rows} >= {"met", "degraded"}


def test_an_overload_that_deadlines_cut(path: Path) -> None:
    rows = agree(
        path,
        {
            "arrivals": steady(600, 1),
            "classes": [{"name": "voted", "slo": {"latency_ms": 90}, "tts": {"strategy": "self-consistency", "n": 16}}],
        },
    )
    assert {row.status for row in rows} == {200, 504}
    assert {row.slo_status for row in rows} >= {"degraded"}


def test_engines_that_serve_by_priority_and_speculate(tmp_path: Path) -> None:
    drafts = {"method": "ngram", "num_speculative_tokens": 4}
    path = fleet(tmp_path, acceptance_length=1.8, speculative=drafts, **PRIORITY)
    agree(
        path,
        {
            "arrivals": steady(80, 3),
            "classes": [
                {"name": "soon", "slo": {"latency_ms": 600}},
                {"name": "late", "slo": {"latency_ms": 8000}},
            ],
        },
    )


def test_streams_of_lone_branches_and_of_votes(path: Path) -> None:
    """Not cut: of a stream that is, a proxy knows when its last chunk came, where here the end counts."""
    rows = agree(
        path,
        {
            "arrivals": steady(20, 3),
            "classes": [
                {"name": "live", "stream": 1, "slo": {"latency_ms": 20_000}, "tts": {"strategy": "none"}},
                {"name": "voted", "stream": 1, "slo": {"latency_ms": 20_000, "quality": 0.4}},
            ],
        },
    )
    live, voted = ([row for row in rows if row.slo_class == name] for name in ("live", "voted"))
    assert all(row.ttft_ms and row.latency_ms and row.ttft_ms < row.latency_ms / 2 for row in live)
    assert all(row.ttft_ms == row.latency_ms for row in voted if row.n != 1)


def test_requests_without_controls_are_passed_through(path: Path) -> None:
    rows = agree(path, {"arrivals": steady(80, 2), "classes": [{"name": "plain"}, {"name": "live", "stream": 1}]})
    assert {row.strategy for row in rows} == {"none"} and {row.backend for row in rows} == {"a", "b"}


@pytest.mark.parametrize(
    "body",
    [
        {"n": 3},
        {"temperature": 0, "max_tokens": 60},
        {"stop": ["sum"], "min_tokens": 4},
        {"priority": -5},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
    ids=["several-answers", "greedy-and-short", "stop", "priority", "tools"],
)
def test_what_a_client_says_in_its_body(tmp_path: Path, body: dict[str, Any]) -> None:
    agree(
        fleet(tmp_path, **PRIORITY),
        {
            "arrivals": steady(120, 1),
            "classes": [
                {"name": "passed", "body": body},
                {"name": "passed-otherwise"},
                {"name": "chosen", "slo": {"latency_ms": 3000}, "body": body},
                {"name": "chosen-otherwise", "slo": {"latency_ms": 1000}},
            ],
        },
    )


def test_tokens_that_have_a_price_and_are_counted_by_the_proxy(tmp_path: Path) -> None:
    path = fleet(tmp_path, gpu_hour_usd=None, usd_per_million_tokens={"prompt": 1.0, "completion": 3.0})
    config = yaml.safe_load(path.read_text())
    config["models"][0]["tokenizer"] = str(QUALITY.parents[1] / "weights" / "s")
    path.write_text(yaml.safe_dump(config))
    classes = [{"name": "passed"}, {"name": "chosen", "slo": {"latency_ms": 2000, "cost_usd": 0.01}}]
    agree(path, {"arrivals": steady(40, 2), "classes": classes})


def test_made_up_prompts_are_not_remembered(path: Path) -> None:
    sent = traffic(path, task=None, prompt_tokens=50, output_tokens=5, arrivals=steady(50, 1), classes=PLAIN)
    sent.run()
    assert len(sent.results) > 20 and not sent._wordings._known


def test_clients_that_leave_and_strict_ones_that_are_refused(path: Path) -> None:
    rows = agree(
        path,
        {
            "arrivals": steady(60, 2),
            "classes": [
                {"name": "leaving", "slo": {"latency_ms": 3000}, "leave": {"share": 0.7, "within_s": 0.2}},
                {"name": "strict", "slo": {"latency_ms": 60, "quality": 0.9, "mode": "strict"}},
            ],
        },
    )
    assert {row.outcome for row in rows} == {"answered", "cancelled", "refused"}


def test_made_up_prompts_with_lengths_of_their_own(path: Path) -> None:
    rows = agree(
        path,
        {
            "task": None,
            "prompt_tokens": 300,
            "output_tokens": 40,
            "ignore_eos": True,
            "arrivals": steady(50, 2),
            "classes": [{"name": "a", "slo": {"latency_ms": 900}}],
        },
    )
    assert all(row.prompt_tokens and row.prompt_tokens >= 300 for row in rows)


@pytest.mark.parametrize("strategy", Registry.installed().names)
def test_every_strategy(path: Path, strategy: str) -> None:
    """Also those that ask other prompts, go on from a text, watch tokens' confidence or stop in the middle."""
    classes = [
        {"name": "patient", "slo": {"latency_ms": 60_000}, "tts": {"strategy": strategy}},
        {"name": "hasty", "slo": {"latency_ms": 300}, "tts": {"strategy": strategy}},
    ]
    agree(path, {"arrivals": steady(6, 2), "classes": classes})


def traffic(path: Path, max_waiting: int | None = None, **workload: Any) -> VirtualTraffic:
    planned = seeded({**TASK, **workload})
    served = VirtualFleet.of(load(path, {}), Simulation(noise=False, max_waiting=max_waiting))
    return VirtualTraffic(served, planned.requests, "m", timeout_s=workload.get("timeout_s", 120))


PLAIN = [{"name": "plain", "slo": {"latency_ms": 20_000}, "tts": {"strategy": "none"}}]


def test_whoever_waits_longer_than_the_timeout_has_an_error(path: Path) -> None:
    sent = traffic(path, arrivals=steady(20, 1), classes=PLAIN, timeout_s=0.05)
    sent.run()
    assert sent.results and all((row.outcome, row.met) == ("error", False) for row in sent.results)
    assert {row.error for row in sent.results} == {"no whole answer within 0.05 s"}


def test_a_stopped_run_leaves_nothing_running(path: Path) -> None:
    sent = traffic(path, arrivals=steady(100, 2), classes=PLAIN)
    sent.run(0.5)
    under_way = sent.sent - len(sent.results)
    assert under_way > 0 and not sent.over
    before = len(sent.results)
    sent.stop()
    sent.run(100)
    assert len(sent.results) == before
    served = sent._fleet
    assert all(backend.in_flight == 0 for backend in served.catalog.backends)
    assert all((engine.engine.running, engine.engine.queued) == (0, 0) for engine in served.engines.values())


def test_an_engine_whose_queue_is_full_has_its_requests_planned_elsewhere(path: Path) -> None:
    sent = traffic(path, max_waiting=1, arrivals=steady(400, 1), classes=PLAIN)
    sent.run()
    outcomes = [(row.outcome, row.error) for row in sent.results]
    assert set(outcomes) == {("answered", None), ("error", "502 upstream_failed")}


def test_a_choice_among_models_goes_to_engines_by_their_own_names(path: Path) -> None:
    several = yaml.safe_load(path.read_text())
    several["models"].append({"name": "either", "any_of": ["m"]})
    path.write_text(yaml.safe_dump(several))
    classes = [{"name": "passed"}, {"name": "chosen", "slo": {"latency_ms": 2000}}]
    planned = seeded({**TASK, "arrivals": steady(20, 1), "classes": classes})
    sent = VirtualTraffic(VirtualFleet.of(load(path, {}), STEADY), planned.requests, "either", timeout_s=120)
    sent.run()
    assert {row.outcome for row in sent.results} == {"answered"}


def test_what_the_proxy_would_refuse_is_refused(path: Path) -> None:
    classes = [{"name": "wrong", "tts": {"strategy": "no-such-thing"}}]
    sent = traffic(path, arrivals=steady(20, 1), classes=classes)
    sent.run()
    assert {(row.outcome, row.error) for row in sent.results} == {("error", "400 invalid_control")}


def test_it_assumes_of_engines_what_a_prober_finds(path: Path) -> None:
    async def story(world: World) -> None:
        await asyncio.sleep(5)
        for backend in world.service.catalog.backends:
            found = backend.capabilities
            assert found is not None and found == capabilities(found.max_model_len or 0)

    live(path, story)


def test_a_coroutine_that_waits_for_an_event_loop_is_told_so() -> None:
    class Foreign:
        def __await__(self) -> Generator[str, None, None]:
            yield "something else"

    async def waits() -> None:
        await Foreign()

    with pytest.raises(ForeignWait, match="there is no event loop in virtual time"):
        Steps(waits(), VirtualClock(), lambda _: None).begin()
