"""The benchmark's mock backend speaks vLLM's HTTP as far as the proxy needs it, and the load generator counts right."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import httpx
import pytest
from bench_load import Load, compile_c
from bench_servers import Bench, Stack, free_port, mock_backend

SOURCES = Path(__file__).parent
REQUEST = {"model": "mock", "messages": [{"role": "user", "content": "6*7"}]}

pytestmark = pytest.mark.skipif(
    which("gcc") is None or which("taskset") is None, reason="needs gcc and taskset, as the benchmarks do"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    core = min(os.sched_getaffinity(0))
    bench = Bench(folder, SOURCES.parents[1], core, core, free_port())
    with mock_backend(compile_c(SOURCES / "mock_backend.c", folder), bench.mock_port, core, folder / "mock.log"):
        yield bench


@pytest.fixture
def client(bench: Bench) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{bench.mock_port}", trust_env=False) as client:
        yield client


def test_an_answer_has_a_message_and_usage(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=REQUEST).json()
    assert answer["choices"][0]["message"]["content"].endswith(r"The answer is \boxed{42}.")
    assert answer["usage"]["completion_tokens"] == 300


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_ends_with_finish_reason_usage_and_done(client: httpx.Client, path: str) -> None:
    text = client.post(path, json={**REQUEST, "stream": True}).text
    *events, done, rest = text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert (done, rest) == ("data: [DONE]", "")
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 72


def test_load_metrics_and_models_have_vllms_names(client: httpx.Client) -> None:
    metrics = client.get("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{engine="0",model_name="mock"}} 0.0' in metrics
    assert client.get("/v1/models").json()["data"][0]["id"] == "mock"
    assert client.get("/health").status_code == client.get("/version").status_code == 200
    assert client.post("/tokenize", json=REQUEST).status_code == 404


def test_pipelined_requests_are_answered_in_order(bench: Bench) -> None:
    requests = b"".join(
        b"GET %s HTTP/1.1\r\nhost: mock\r\n%s\r\n" % pair
        for pair in ((b"/version", b""), (b"/nowhere", b""), (b"/health", b"connection: close\r\n"))
    )
    with socket.create_connection(("127.0.0.1", bench.mock_port)) as peer:
        for part in (requests[:30], requests[30:]):  # a request may come in pieces
            peer.sendall(part)
        answers = b"".join(iter(lambda: peer.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"404", b"200"]


def test_every_paced_stream_runs_and_is_ended(bench: Bench, client: httpx.Client) -> None:
    load = Load(compile_c(SOURCES / "load.c", bench.folder), bench, seconds=0.3)
    figures = load.streams(Stack("direct", bench.mock_port, bench.mock_port, None))
    assert figures.per_second > 0
    assert figures.errors == 0
    assert 'vllm:num_requests_running{engine="0",model_name="mock"} 0.0' in client.get("/metrics").text


def test_requests_that_fail_are_errors_not_throughput(bench: Bench) -> None:
    binary = compile_c(SOURCES / "load.c", bench.folder)
    numbers = ["--port", str(bench.mock_port), "--seconds", "0.05", "--warmup", "0", "--connections", "2"]
    # a body length that the mock cannot know: it answers 411 and closes
    done = subprocess.run(
        [binary, "requests", *numbers, "--header", "transfer-encoding: chunked"], capture_output=True, check=True
    )
    counted = json.loads(done.stdout)
    assert counted["count"] == 0
    assert counted["errors"] > 0
