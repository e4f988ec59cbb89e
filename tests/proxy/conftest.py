"""Event loops for the async tests here, the rig of the upstream client's tests, and the fleet of the proxy's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from collector import HttpCollector
from http_rig import Fleet
from postgres_server import PostgresServer, binaries
from upstream_rig import Rig

from proxy import catalog_build
from strategies.registry import Registry

_ON_UVLOOP = (
    "test_http_client_leaves",
    "test_http_backend_dies",
    "test_http_streaming",
    "test_http_backpressure",
    "test_faults",
)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The upstream client runs on both loops: they differ in what a closing transport allows. What `serve` runs on is
    uvloop, so the tests of leaving clients, dying backends and streams run there."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    name = item.path.name
    if name.startswith("test_upstream"):
        return loops
    wanted = "uvloop" if name.startswith(_ON_UVLOOP) else "asyncio"
    return {wanted: loops[wanted]}


@pytest.fixture(scope="session", autouse=True)
def _priors_once() -> Iterator[None]:
    """Priors follow from the installed strategies alone; a proxy simulates them at its start, for a third of a second.
    A reload keeps them, and so do the proxies of one session of tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_prior_settings", "rate_model"):
            patch.setattr(catalog_build, name, _once_per_registry(getattr(catalog_build, name)))
        yield


def _once_per_registry(compute: Callable[[Registry], object]) -> Callable[[Registry], object]:
    known: dict[tuple[object, ...], object] = {}

    def found(registry: Registry) -> object:
        key = tuple(registry)
        if key not in known:
            known[key] = compute(registry)
        return known[key]

    return found


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    await fleet.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server. Tests that stop it start it again."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb and postgres on the PATH or in /usr/lib/postgresql")
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """An empty trace store of each kind."""
    if request.param == "sqlite":
        return tmp_path / "traces.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpCollector]:
    """Ask for it before `fleet`, so that it is still there when the proxy sends its last."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    collector = HttpCollector()
    yield collector
    collector.stop()
