"""Backends that do not give what the model's quality table says: found, told, and kept out of requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from http_rig import Fleet, chat
from planner_tables import ask, backend, decide, served
from raw_server import Peer
from scripted_backend import Play, Received, ScriptedBackend, says

from profiler import quality_file, verdict
from profiler.agree import Limits
from profiler.agree_run import Effort, samples_path
from profiler.check import Check
from profiler.quality_file import Quality, StoredQuestion, StoredSample
from profiler.verdict import Agreement, Verdict, agreement_path
from proxy import profiling
from proxy.bench import EngineFailed
from proxy.catalog_build import build
from proxy.cli.agreement import check_agreement, report, wrong
from proxy.cli.profile import check_fleet
from proxy.config import BackendConfig, Config, ConfigError, ModelConfig, load
from proxy.planner import choose
from proxy.plans import NoCandidate
from strategies.registry import Registry

SAMPLED_WRONG = Verdict("sampled", "differs", 9, 0.04, 0.41, (-0.6, -0.1), 2.0, "accuracy 0.04", "2026-03-01")
GREEDY_RIGHT = Verdict("greedy", "agrees", 60, 0.5, 0.5, (-0.1, 0.1), 1.0, "no sign of a difference", "2026-03-01")


# -- the planner and the pass-through --


def test_a_backend_gets_no_requests_of_a_setting_in_which_it_is_wrong() -> None:
    wrong_when_sampling, right = backend("wrong", gpu_hour_usd=1), backend("right")
    wrong_when_sampling.disagrees = frozenset({"sampled"})
    sampled = decide(ask(), wrong_when_sampling, right)
    assert (sampled.plan.backend, sampled.dropped) == (right, {"disagrees": 4})
    assert decide(ask(greedy=True), wrong_when_sampling, right).plan.backend == wrong_when_sampling
    assert choose(ask(), served(wrong_when_sampling)) == NoCandidate(4, {"disagrees": 4})


def test_what_the_configuration_forbids_is_told_before_what_was_found() -> None:
    both = backend(sampling="greedy")
    both.disagrees = frozenset({"sampled", "greedy"})
    assert (both.unfit(greedy=False), both.unfit(greedy=True)) == ("sampling", "disagrees")


def fleet_file(folder: Path, **members: str) -> Path:
    path = folder / "fleet.yaml"
    entry = {"name": "a", "url": "http://127.0.0.1:1", "profile": "a.json", **members}
    path.write_text(json.dumps({"models": [{"name": "m", "backends": [entry]}]}))
    return path


def test_the_catalog_reads_what_the_last_check_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = Agreement("a", "m", "math", [GREEDY_RIGHT, SAMPLED_WRONG])
    verdict.write(found, agreement_path(tmp_path / "a.json"))
    catalog = build(load(fleet_file(tmp_path), {}), Registry.installed(), lambda: 0.0)
    assert catalog.backends[0].disagrees == {"sampled"}
    assert "backend a gets no sampled requests: accuracy 0.04 (a.agreement.json)" in caplog.text


def test_an_agreement_file_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.agreement.json").write_text("{")
    with pytest.raises(ConfigError, match=r"backend a: .*a\.agreement\.json"):
        build(load(fleet_file(tmp_path), {}), Registry.installed(), lambda: 0.0)


async def test_requests_without_controls_keep_to_it_too_and_the_plan_says_why(fleet: Fleet) -> None:
    a, _, proxy = await fleet.two()
    proxy.service.catalog.backends[0].disagrees = frozenset({"sampled"})

    for _ in range(4):
        assert (await proxy.ask(chat(temperature=0.7))).headers["x-tts-backend"] == "b"
    plan = (await proxy.ask(chat(temperature=0.7), "/v1/plan")).json()

    assert len(a.generations) == 0
    assert plan["left_out"] == {
        "a": "its sampled answers differ from the model's quality table (`profile --check` tests again)"
    }
    assert plan["dropped"]["disagrees"] > 0
    assert {row["backend"] for row in plan["candidates"]} == {"b"}


async def test_requests_at_temperature_0_still_run_where_only_sampling_is_wrong(fleet: Fleet) -> None:
    a, proxy = await fleet.one()
    proxy.service.catalog.backends[0].disagrees = frozenset({"sampled"})

    assert (await proxy.ask(chat(temperature=0))).status_code == 200
    assert (await proxy.ask(chat(temperature=1))).status_code == 503
    assert len(a.generations) == 1


# -- the check itself, over real sockets --


def question(number: int) -> StoredQuestion:
    samples = [StoredSample("4" if i % 2 else "5", 2 + i % 3, "stop", bool(i % 2)) for i in range(12)]
    return StoredQuestion(f"q{number}", "4", "all", 7, StoredSample("4", 3, "stop", True), samples)


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedBackend]:
    engine = ScriptedBackend("a", "m")
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "m.math.quality.json"
    pool = [question(number) for number in range(30)]
    quality_file.write(Quality("m", "math", "math", 0.8, 30, 12, 7.0, [], {"max_tokens": 64}), path)
    samples_path(path).write_bytes(b"".join(msgspec.json.encode(stored) + b"\n" for stored in pool))
    return path


def right_only_at_temperature_0(sampled: Play) -> Play:
    async def play(peer: Peer, request: Received) -> None:
        await (says("\\boxed{4}", tokens=3) if request.json["temperature"] == 0 else sampled)(peer, request)

    return play


def like_the_table() -> Play:
    """Every stored sample's kind in turn."""
    turn = 0

    async def play(peer: Peer, request: Received) -> None:
        nonlocal turn
        turn += 1
        await says("\\boxed{4}" if turn % 2 else "\\boxed{5}", tokens=2 + turn % 3)(peer, request)

    return play


def configured(engine: ScriptedBackend, table: Path, sampling: str = "all") -> tuple[ModelConfig, BackendConfig]:
    entry = BackendConfig(name="a", url=engine.url, profile=table.parent / "a.json", sampling=sampling)  # type: ignore[arg-type]
    return ModelConfig(name="m", task="math", quality={"math": table}, backends=[entry]), entry


async def test_an_engine_that_speculates_wrongly_is_found_told_and_stored(engine: ScriptedBackend, table: Path) -> None:
    """As vLLM's CPU build with n-gram speculation: right at temperature 0, near random above."""
    engine.otherwise = right_only_at_temperature_0(says("\\boxed{77}", tokens=9))
    model, config = configured(engine, table)
    greedy, sampled = await check_agreement(model, config, effort=Effort(parallel=2))

    assert (greedy.verdict, sampled.verdict, sampled.accuracy) == ("agrees", "differs", 0.0)
    assert wrong(config, [greedy, sampled]) == [sampled]
    assert verdict.read(table.parent / "a.agreement.json") == Agreement("a", "m", "math", [greedy, sampled])
    _, told, advice = report(config, [greedy, sampled]).splitlines()
    assert told.startswith("a, sampled: DIFFERS from the quality table: accuracy 0.00 where the table has 0.50")
    assert "gets no sampled requests" in advice
    assert len(engine.generations) < 30 + 10 * 4


async def test_where_only_greedy_requests_may_run_wrong_samples_are_told_but_no_failure(
    engine: ScriptedBackend, table: Path
) -> None:
    engine.otherwise = right_only_at_temperature_0(says("\\boxed{77}", tokens=9))
    model, config = configured(engine, table, sampling="greedy")
    verdicts = await check_agreement(model, config)

    assert [found.verdict for found in verdicts] == ["agrees", "differs"]
    assert wrong(config, verdicts) == []
    assert "as configured" in report(config, verdicts)


async def test_an_engine_that_was_repaired_may_drop_the_line(engine: ScriptedBackend, table: Path) -> None:
    engine.otherwise = right_only_at_temperature_0(like_the_table())
    model, config = configured(engine, table, sampling="greedy")
    watched = []
    verdicts = await check_agreement(
        model, config, limits=Limits(questions=15), watch=lambda setting, standing: watched.append(setting)
    )

    assert [found.verdict for found in verdicts] == ["agrees", "agrees"]
    assert "`sampling: greedy` may be dropped" in report(config, verdicts)
    assert watched == ["greedy"] * 15 + ["sampled"] * 15


@pytest.mark.parametrize(("sampling", "passes"), [("all", False), ("greedy", True)])
async def test_a_check_of_the_fleet_fails_where_requests_would_meet_the_wrong_setting(
    engine: ScriptedBackend, table: Path, sampling: str, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def holds(job: profiling.Job) -> Check:
        return Check(ratio=1.0, worst=1.0, allowed=0.2, cells=6)

    monkeypatch.setattr(profiling, "check_profile", holds)
    engine.otherwise = right_only_at_temperature_0(says("\\boxed{77}", tokens=9))
    config = Config(models=[configured(engine, table, sampling)[0]])

    assert await check_fleet(config, None, None, busy_ok=False) is passes
    assert await check_fleet(config, None, None, busy_ok=False, agreement=False) is True


async def test_a_model_without_stored_samples_is_not_checked(engine: ScriptedBackend, table: Path) -> None:
    samples_path(table).unlink()
    model, config = configured(engine, table)

    assert await check_agreement(model, config) == []
    assert "not compared" in report(config, [])
    assert engine.generations == []
    assert not (table.parent / "a.agreement.json").exists()


async def test_an_engine_that_is_away_is_an_error_and_the_last_verdict_stays(table: Path) -> None:
    path = table.parent / "a.agreement.json"
    verdict.write(Agreement("a", "m", "math", [GREEDY_RIGHT]), path)
    model, config = configured(ScriptedBackend("a", "m", url="http://127.0.0.1:1"), table)
    with pytest.raises(EngineFailed, match="backend a"):
        async with asyncio.timeout(10):
            await check_agreement(model, config)
    assert verdict.read(path) == Agreement("a", "m", "math", [GREEDY_RIGHT])
