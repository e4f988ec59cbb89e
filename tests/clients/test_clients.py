"""The clients of docs/clients.md, in their own packages, against a running proxy: chat, streams, tools, structured
output, responses, SLO headers.

`make clients` installs them (`.venv-clients`, `node_modules`); without them these tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PYTHON = ROOT / ".venv-clients/bin/python"
NODE = shutil.which("node")
SCRIPTS = sorted((HERE / "say").iterdir())


@pytest.fixture(scope="module")
def proxy_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`paretoproxy serve` over one engine."""
    folder = tmp_path_factory.mktemp("clients")
    engine_port, port = _free_port(), _free_port()
    config = {
        "server": {"port": port},
        "traces": {"path": str(folder / "traces.db")},
        "models": [
            {"name": "m", "answers": "math", "backends": [{"name": "a", "url": f"http://127.0.0.1:{engine_port}"}]}
        ],
    }
    (folder / "fleet.yaml").write_text(yaml.safe_dump(config))
    serve = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(folder / "fleet.yaml")]
    with (folder / "log").open("wb") as log:
        started = [
            subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            for command in ([sys.executable, str(HERE / "engine.py"), str(engine_port)], serve)
        ]
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(url, folder / "log")
        yield url
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_client_reaches_what_it_needs(script: Path, proxy_url: str) -> None:
    if script.suffix == ".mjs":
        if NODE is None or not (HERE / "node_modules").is_dir():
            pytest.skip("the clients in JavaScript are not installed (make clients)")
        command = [NODE, str(script), proxy_url]
    else:
        if not PYTHON.exists():
            pytest.skip("the clients in Python are not installed (make clients)")
        command = [str(PYTHON), str(script), proxy_url]
    began = time.time()
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert 10_000 in _latency_limits(proxy_url, since=began), "its headers came through"


def _latency_limits(url: str, since: float) -> set[float]:
    """That the requests demanded which arrived since then, once all of them are written."""
    time.sleep(0.5)
    told = httpx.get(f"{url}/v1/traces", params={"limit": 100, "since": since}, trust_env=False).json()["data"]
    return {trace["slo"]["latency_ms"] for trace in told if "latency_ms" in trace["slo"]}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _until_ready(url: str, log: Path) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ready", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail(log.read_text())
