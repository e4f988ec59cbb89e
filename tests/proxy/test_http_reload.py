"""The configuration is read again while the proxy serves: no request notices, and what stays keeps what it has."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from http_rig import Events, Fleet, RunningProxy, chat, vote
from scripted_backend import says, until

from proxy import reload
from proxy.client_keys import hash_key
from proxy.correction import Forecast

LIMIT_S = 60  # a reload builds tables in a thread, which takes long on a machine with much else to do


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at only where a test says so."""
    monkeypatch.setattr(reload, "POLL_EVERY_S", 3600)


async def two_then(fleet: Fleet, *first: str, **sections: Any) -> RunningProxy:
    """A watched proxy over those of the backends a and b."""
    await fleet.backend("a")
    await fleet.backend("b")
    proxy = await fleet.proxy(watched=True, **sections)
    fleet.write(*first, **sections)
    assert await proxy.reloader.reload()
    return proxy


async def test_backends_come_and_go_under_load_and_no_request_fails(fleet: Fleet) -> None:
    proxy = await two_then(fleet, "a")
    a, b = fleet.scripted("a"), fleet.scripted("b")
    held, ended = asyncio.Event(), asyncio.Event()
    a.will(says("late", when=held))
    late = await proxy.connect()  # waits as long as it takes
    await late.post(chat(stream=True))
    await a.generation(0)
    statuses: list[int] = []

    async def ask_on() -> None:
        while not ended.is_set():
            statuses.append((await proxy.ask(vote(2) if len(statuses) % 2 else None)).status_code)

    load = [asyncio.create_task(ask_on()) for _ in range(4)]
    left = proxy.service.catalog.by_name["a"].pool
    for names in ("a", "b"), ("b",), ("a", "b"), ("b",):
        fleet.write(*names)
        asked = len(statuses)
        assert await proxy.reloader.reload()
        assert set(proxy.service.catalog.by_name) == set(names)
        assert all(backend.health.serving for backend in proxy.service.catalog.backends), "looked at before its traffic"
        await until(lambda asked=asked: len(statuses) > asked + 4)
    await until(lambda: sum(generation.requests for generation in proxy.reloader._old) == 1)
    seen, asked = len(a.generations), len(statuses)
    await until(lambda: len(statuses) > asked + 4)
    assert len(a.generations) == seen, "what has left gets nothing new"
    ended.set()
    await asyncio.gather(*load)
    assert set(statuses) == {200}
    assert left.open_connections > 0, "what runs on it goes on"
    held.set()
    assert b'"finish_reason": "stop"' in await late.read_until(b"[DONE]")
    late.leave()
    await until(lambda: left.open_connections == 0)
    assert b.generations


async def test_a_backend_that_stays_keeps_connections_load_and_corrections(fleet: Fleet) -> None:
    proxy = await two_then(fleet, "a")
    a, held = fleet.scripted("a"), asyncio.Event()
    a.will(says("one", when=held))
    before = proxy.service.catalog.by_name["a"]
    before.correction.observe(9.0, Forecast(1.0, 2.0, 0.95))
    running = asyncio.create_task(proxy.ask())
    await a.generation(0)
    a.usd_per_hour = 7200.0
    fleet.write()
    assert await proxy.reloader.reload()
    after = proxy.service.catalog.by_name["a"]
    assert (after.in_flight, after.correction.bias) == (1, before.correction.bias) != (0, 1.0)
    assert after.pool is before.pool
    assert after.pace is before.pace and after.overrun is before.overrun
    assert after.spending is before.spending, "the fleet's time goes on, and from now on at the new price"
    assert after.pricing.at(0.0).gpu_hour_usd == 7200.0 and after.spending._pricing is after.pricing
    held.set()
    assert (await running).status_code == 200
    assert after.in_flight == 0
    page = (await proxy.client.get("/metrics")).text
    assert 'paretoproxy_config_reloads_total{result="ok"} 2.0' in page
    assert 'paretoproxy_requests_total{model="m",outcome="answered"' in page
    costs = [trace["branches"][0]["cost_usd"] / trace["branches"][0]["gpu_seconds"] for trace in [await proxy.trace()]]
    assert costs == [pytest.approx(3.6 / 3600)], "it costs what it cost when it started"


async def test_what_votes_told_is_known_after_a_reload(fleet: Fleet) -> None:
    proxy = await two_then(fleet, "a")
    assert (await proxy.ask(vote(4))).status_code == 200
    [expected] = [w.expected for w in proxy.service.catalog.served["m"].watches.values() if w.expected is not None]
    assert await proxy.reloader.reload()
    assert proxy.service.catalog.served["m"].watches["math"].expected == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("models: [", "fleet.yaml:1"),
        ("models: []\n", "fleet.yaml:1: models"),
        (
            "server: {prot: 1}\nmodels: [{name: m, backends: [{name: a, url: 'http://h'}]}]\n",
            "server.prot: unknown key",
        ),
        ("models: [{name: m, backends: [{name: a, url: 'http://h', profile: bad.json}]}]\n", "bad.json"),
        ("server: {api_keys: none.yaml}\nmodels: [{name: m, backends: [{name: a, url: 'http://h'}]}]\n", "none.yaml"),
    ],
)
async def test_a_bad_file_changes_nothing_and_says_what_is_wrong(
    fleet: Fleet, tmp_path: Path, text: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = await two_then(fleet, "a")
    (tmp_path / "bad.json").write_text("{}")
    path, before = fleet.write("a"), proxy.service
    path.write_text(text)
    assert not await proxy.reloader.reload()
    assert proxy.service is before
    told = (await proxy.client.get("/ready")).json()
    assert told["ready"] and problem in told["configuration"]["problem"]
    assert problem in caplog.text
    assert 'paretoproxy_config_reloads_total{result="failed"} 1.0' in (await proxy.client.get("/metrics")).text
    assert (await proxy.ask()).status_code == 200
    fleet.write("a", "b")
    assert await proxy.reloader.reload()
    assert (await proxy.client.get("/ready")).json()["configuration"]["problem"] is None


async def test_a_new_one_that_is_down_gets_no_request_until_it_serves(fleet: Fleet) -> None:
    proxy = await two_then(fleet, "a")
    a, b = fleet.scripted("a"), fleet.scripted("b")
    b.healthy = False
    fleet.write()
    assert await proxy.reloader.reload()
    assert {(await proxy.ask()).status_code for _ in range(6)} == {200}
    assert b.generations == []
    b.healthy = True
    await until(lambda: proxy.service.catalog.by_name["b"].health.serving)
    a.healthy = False
    await until(lambda: not proxy.service.catalog.by_name["a"].health.serving)
    assert (await proxy.ask()).status_code == 200
    assert len(b.generations) == 1


async def test_breakers_and_outliers_follow(fleet: Fleet) -> None:
    proxy = await two_then(fleet, "a")
    fleet.write()
    assert await proxy.reloader.reload()
    reliability = proxy.service.reliability
    assert reliability.outliers is not None and reliability.outliers.catalog is proxy.service.catalog
    page = (await proxy.client.get("/metrics")).text
    assert 'paretoproxy_backend_state{backend="b",state="closed"} 1.0' in page


async def test_changed_files_are_noticed_and_a_bad_one_is_read_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "POLL_EVERY_S", 0.05)
    proxy = await two_then(fleet, "a")
    fleet.write("b")
    await until(lambda: "b" in proxy.service.catalog.by_name, LIMIT_S)
    before = proxy.service
    fleet.write("b").write_text("models: [")
    await until(lambda: proxy.reloader.told()["problem"] is not None, LIMIT_S)
    assert proxy.service is before
    await asyncio.sleep(0.5)
    assert proxy.reloader._counts["failed"] == 1


async def test_keys_follow_their_file_when_a_link_is_swapped(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes does it: `..data` points to another folder from one moment to the next."""
    monkeypatch.setattr(reload, "POLL_EVERY_S", 0.05)
    for number, key in enumerate(("old-key", "new-key")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "keys.yaml").write_text(yaml.safe_dump([key]))
    os.symlink("..0", tmp_path / "..data")
    os.symlink("..data/keys.yaml", tmp_path / "keys.yaml")
    proxy = await two_then(fleet, "a", server={"api_keys": "keys.yaml"})

    async def status(key: str) -> int:
        return (await proxy.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code

    assert (await status("old-key"), await status("new-key")) == (200, 401)
    before = proxy.service
    os.symlink("..1", tmp_path / "..swap")
    (tmp_path / "..swap").replace(tmp_path / "..data")
    await until(lambda: proxy.service is not before, LIMIT_S)
    assert (await status("old-key"), await status("new-key")) == (401, 200)


async def test_what_needs_a_restart_is_named(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    proxy = await two_then(fleet, "a")
    fleet.write(server={"port": 1234, "max_body_bytes": 1024})
    assert await proxy.reloader.reload()
    assert proxy.reloader.told()["restart_needed_for"] == ["server.port"]
    assert "server.port has changed" in caplog.text
    assert (await proxy.ask(chat(user="x" * 2000))).status_code == 413, "the rest is in force"
    assert isinstance(await proxy.stream(chat()), Events)


async def test_a_key_is_counted_on_across_a_reload(fleet: Fleet, tmp_path: Path) -> None:
    entry = {"name": "a", "hash": hash_key("key-of-a"), "limits": {"requests_per_minute": 1}}
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    proxy = await two_then(fleet, "a", server={"api_keys": "keys.yaml"})
    assert (await proxy.ask(authorization="Bearer key-of-a")).status_code == 200
    assert await proxy.reloader.reload()
    assert (await proxy.ask(authorization="Bearer key-of-a")).status_code == 429
