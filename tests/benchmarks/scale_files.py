"""For `scale_fleet.py`: a fleet of any size from what the package ships, and a server with vLLM's metrics page."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import profiler.profiles
import profiler.tinymath

PROFILES = sorted(Path(profiler.profiles.__file__).parent.glob("*.json"))
TINYMATH = Path(profiler.tinymath.__file__).parent
TASK, CHOICE_OF_FOUR, CHOICE_OF_ALL = "tinymath", "any-4", "any-all"


def write_fleet(folder: Path, backends: int, models: int, port: int) -> Path:
    """The configuration file. Every model has a quality table and a tokenizer folder of its own, copies of the two that
    there are; backends take the shipped profiles in turn, so that replicas of one engine share a file."""
    entries: list[dict[str, Any]] = []
    for index in range(models):
        size = "sm"[index % 2]
        quality, weights = folder / f"m{index}.quality.json", folder / f"m{index}"
        tables = TINYMATH / "quality"
        shutil.copyfile(tables / f"tinymath-{size}.tinymath.quality.json", quality)
        (folder / f"m{index}.samples.jsonl").symlink_to(tables / f"tinymath-{size}.tinymath.samples.jsonl")
        ignore = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(TINYMATH / "weights" / size, weights, ignore=ignore)
        of_model = range(index, backends, models)
        entries.append(
            {
                "name": f"m{index}",
                "task": TASK,
                "quality": {TASK: str(quality)},
                "tokenizer": str(weights),
                "backends": [_backend(number, port) for number in of_model],
            }
        )
    names = [entry["name"] for entry in entries]
    entries.append({"name": CHOICE_OF_FOUR, "any_of": names[:4]})
    entries.append({"name": CHOICE_OF_ALL, "any_of": names})
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"traces": {"path": None}, "models": entries}))
    return path


def _backend(number: int, port: int) -> dict[str, Any]:
    profile = PROFILES[number % len(PROFILES)]
    url = f"http://127.0.0.1:{port}"
    return {"name": f"b{number}", "url": url, "gpu_hour_usd": 3.0, "profile": str(profile)}


# The names, labels and bucket counts of a vLLM 0.26 server's own /metrics.
_TIMES = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 40_000)
_HISTOGRAMS = {
    "time_to_first_token_seconds": _TTFT,
    "inter_token_latency_seconds": _TPOT,
    "request_time_per_output_token_seconds": _TPOT,
    **{f"{of}_seconds": _TIMES for of in ("e2e_request_latency", "request_queue_time", "request_inference_time")},
    **{f"{of}_seconds": _TIMES for of in ("request_prefill_time", "request_decode_time")},
    **{f"request_{of}_tokens": _COUNTS for of in ("prompt", "generation", "max_num_generation", "params_max")},
    "request_prefill_kv_computed_tokens": _COUNTS,
    "iteration_tokens_total": _COUNTS,
    "request_params_n": (1, 2, 5, 10, 20),
}
_GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "engine_sleep_state")
_COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "external_prefix_cache_queries", "mm_cache_queries")
_MORE_COUNTERS = (
    "external_prefix_cache_hits",
    "mm_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "generation_tokens",
)
_PATHS = ("/health", "/metrics", "/v1/models", "/tokenize", "/v1/chat/completions", "/v1/completions")


def metrics_page() -> bytes:
    """As long as an engine's: what it counts itself, and what its web server does."""
    registry = CollectorRegistry()
    labels = {"engine": "0", "model_name": "m"}
    for name in _GAUGES:
        Gauge(f"vllm:{name}", name, labels, registry=registry).labels(**labels).set(3)
    for name in (*_COUNTERS, *_MORE_COUNTERS):
        Counter(f"vllm:{name}", name, labels, registry=registry).labels(**labels).inc(12345)
    success = Counter("vllm:request_success", "Finished", [*labels, "finished_reason"], registry=registry)
    for reason in ("stop", "length", "abort", "error", "repetition"):
        success.labels(**labels, finished_reason=reason).inc(17)
    for name, buckets in _HISTOGRAMS.items():
        Histogram(f"vllm:{name}", name, labels, registry=registry, buckets=buckets).labels(**labels).observe(1.7)
    served = Histogram("http_request_duration_seconds", "Latency", ["handler", "method"], registry=registry)
    for path in _PATHS:
        served.labels(path, "POST").observe(0.2)
    return generate_latest(registry)


class _Engine(asyncio.Protocol):
    """Answers /health, and /metrics with the page; knows no other request."""

    def __init__(self, page: bytes) -> None:
        self._answers = {b"GET /health": _answer(b""), b"GET /metrics": _answer(page)}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answers[data[: data.index(b" HTTP")]])


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def _serve() -> None:
    page = metrics_page()
    server = await asyncio.get_running_loop().create_server(lambda: _Engine(page), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def engines() -> Iterator[int]:
    """The port of a process that stands for every engine of a fleet."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
