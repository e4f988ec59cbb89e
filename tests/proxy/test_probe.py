"""What a look at a backend makes of it: one late answer says nothing, two in a row or a bad status do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from http_rig import Fleet
from scripted_backend import ScriptedBackend

from proxy.backend import Backend, open_backend
from proxy.config import BackendConfig
from proxy.probe import probe

LATE_S = 0.05


@pytest.fixture
async def engine(fleet: Fleet) -> ScriptedBackend:
    return await fleet.backend("a")


@pytest.fixture
async def backend(engine: ScriptedBackend) -> AsyncIterator[Backend]:
    opened = open_backend(BackendConfig(name="a", url=engine.url), "m", None, lambda: 0.0)
    yield opened
    await opened.pool.aclose()


async def test_one_late_answer_does_not_take_a_backend_out(engine: ScriptedBackend, backend: Backend) -> None:
    engine.late = {"/health"}
    await probe(backend, LATE_S)
    assert backend.health.serving
    engine.late = set()
    await probe(backend)
    engine.late = {"/health"}
    await probe(backend, LATE_S)
    assert backend.health.serving, "only late answers in a row count"


async def test_two_late_answers_in_a_row_do_and_say_so(engine: ScriptedBackend, backend: Backend) -> None:
    engine.late = {"/health"}
    await probe(backend, LATE_S)
    await probe(backend, LATE_S)
    assert not backend.health.serving
    assert backend.health.problem == "/health: no answer within 0.05 s, 2 times in a row"
    engine.late = set()
    await probe(backend)
    assert backend.health.serving


async def test_late_metrics_leave_the_load_as_it_was_and_the_backend_in(
    engine: ScriptedBackend, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    engine.metrics["num_requests_running"] = 3.0
    await probe(backend)
    engine.late = {"/metrics"}
    await probe(backend, LATE_S)
    assert backend.health.serving and backend.gpu_time.others == 3.0
    assert "backend a: /metrics: no answer within 0.05 s" in caplog.text


async def test_a_bad_status_or_a_refused_connection_counts_at_once(engine: ScriptedBackend, backend: Backend) -> None:
    engine.healthy = False
    await probe(backend)
    assert backend.health.problem == "/health answered 503"
    engine.healthy = True
    await probe(backend)
    assert backend.health.serving
    await engine.stop()
    await probe(backend)
    assert not backend.health.serving
    assert backend.health.problem is not None and backend.health.problem.startswith("/health: cannot connect")
