"""The demo fleet's real engines, started once per session, each profiled, with the proxy in front as a user would
run it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from reranker_fleet import make_weights, with_a_reranker

from profiler import quality_file
from profiler.quality_file import StoredQuestion
from proxy.backend import Backend, open_backend
from proxy.bench import EngineBench
from proxy.config import Config, load

ROOT = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = ROOT / ".venv-vllm/bin/python"
START_TIMEOUT_S = 900
WITH_A_RERANKER = "RERANKER" in os.environ  # a sixth engine takes two cores half a minute to start: only when asked for


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("real")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo's YAML on other ports and with files of its own, its engines up. Gives the YAML's path."""
    if not ENGINE_PYTHON.exists():
        pytest.fail("the engines' environment is missing; run `make .venv-vllm/ready`")
    folder = tmp_path_factory.mktemp("fleet")
    text = (ROOT / "examples/demo-fleet.yaml").read_text()
    text = text.replace("../.demo", str(folder)).replace("../profiler", str(ROOT / "profiler"))
    text = text.replace("127.0.0.1:81", "127.0.0.1:82").replace("port: 8000", "port: 8200")
    path = folder / "fleet.yaml"
    told = _without(yaml.safe_load(text), "s-tp2")
    if WITH_A_RERANKER:
        make_weights(str(ENGINE_PYTHON), folder / "reranker")
        told = with_a_reranker(told, folder / "reranker", 8207)
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    arguments = ["up", "--config", str(path), "--engine-python", str(ENGINE_PYTHON), "--logs", str(folder / "logs")]
    with _running(arguments, folder / "up.log") as up:
        _until(lambda: "all engines are up" in (folder / "up.log").read_text(), up, folder / "up.log")
        for backend in ("s-tp1", "m-tp1"):
            command = [sys.executable, "-m", "proxy.cli", "profile", "--config", str(path), "--backend", backend]
            command += ["--budget", "20s", "--no-agreement"]
            subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
        # The speculating one shares the quick engine's profile: it is here for right answers, not right times.
        (folder / "profiles/s-ngram.json").write_bytes((folder / "profiles/s-tp1.json").read_bytes())
        yield path


def _without(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The fleet without a backend: two ranks spin on both cores even when idle, and make every test twice as long."""
    for model in config["models"]:
        model["backends"] = [backend for backend in model.get("backends", ()) if backend["name"] != name]
        if not model["backends"]:
            del model["backends"]
    return config


@pytest.fixture(scope="session")
def config(fleet: Path) -> Config:
    return load(fleet)


@pytest.fixture(scope="session")
def proxy_url(fleet: Path, config: Config) -> Iterator[str]:
    """`paretoproxy serve` over the fleet."""
    with serving(fleet, f"http://{config.server.host}:{config.server.port}") as url:
        yield url


@contextlib.contextmanager
def serving(path: Path, url: str) -> Iterator[str]:
    """`paretoproxy serve` over that configuration, once every backend has been asked what it can."""
    log = path.with_suffix(".proxy.log")
    with _running(["serve", "--config", str(path)], log) as process:
        _until(lambda: _answers(url), process, log)
        yield url


class _running:
    """A `paretoproxy` command as a process; interrupted, and waited for, on leaving."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._arguments, self._log = arguments, log

    def __enter__(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy.cli", *self._arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(90)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def _until(ready: object, process: subprocess.Popen[bytes], log: Path) -> None:
    assert callable(ready)
    end = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"it did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        told = httpx.get(f"{url}/ready", timeout=2).json()
        return bool(told["ready"]) and all(one["capabilities"] for one in told["backends"].values())
    except httpx.HTTPError:
        return False


def backend_named(config: Config, name: str) -> Backend:
    """A backend of the fleet, outside the proxy."""
    for model in config.models:
        for backend in model.backends:
            if backend.name == name:
                return open_backend(backend, model.name, None, time.monotonic)
    raise LookupError(name)


@pytest.fixture
async def bench(config: Config, request: pytest.FixtureRequest) -> AsyncIterator[EngineBench]:
    """Direct access to the engine that the test names by parameter."""
    backend = backend_named(config, request.param)
    yield EngineBench(backend)
    await backend.pool.aclose()


def pool_of(model: str) -> list[StoredQuestion]:
    """The stored samples that the model's accuracy table was derived from."""
    folder = ROOT / "profiler/tinymath/quality"
    return list(quality_file.read_samples(folder / f"{model}.tinymath.samples.jsonl"))


async def running_on(url: str) -> float:
    """Requests that an engine says it runs or queues."""
    from proxy.load_metrics import parse

    async with httpx.AsyncClient() as client:
        load_now = parse((await client.get(f"{url}/metrics")).text)
    return load_now.running + load_now.waiting


async def until_idle(url: str, seconds: float) -> float:
    """Seconds until the engine runs nothing; fails after `seconds`."""
    began = time.monotonic()
    while await running_on(url):
        assert time.monotonic() - began < seconds, "the engine still runs cancelled branches"
        await asyncio.sleep(0.05)
    return time.monotonic() - began
