"""What a backend tells of itself, read from vLLM's Prometheus text. A missing name is an error, never a zero."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from profiler.measure import Counters

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_USAGE = "vllm:kv_cache_usage_perc"
GENERATED = "vllm:generation_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
CACHE_CONFIG = "vllm:cache_config_info"


class MetricMissing(Exception):
    """The engine exports no metric of that name: the version differs, or the URL is not vLLM's."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the backend's /metrics has no {name}")
        self.name = name


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Summed over the engine's data-parallel ranks; `kv_usage`: the fullest rank, 0 to 1; `generated`: tokens since it
    was started, None for one that tells none."""

    running: float
    waiting: float
    kv_usage: float
    generated: float | None = None


def parse(text: str) -> EngineLoad:
    """Raises MetricMissing for an absent name and ValueError for text that is not Prometheus'."""
    names = (RUNNING, WAITING, KV_USAGE, *((GENERATED,) if f"\n{GENERATED}" in text else ()))
    found = _samples(text, *names)
    generated = sum(found[GENERATED]) if GENERATED in found else None
    return EngineLoad(sum(found[RUNNING]), sum(found[WAITING]), max(found[KV_USAGE]), generated)


def parse_counters(text: str) -> Counters:
    """Raises as `parse` does; an engine that does not speculate has accepted nothing."""
    generated = sum(_samples(text, GENERATED)[GENERATED])
    accepted = sum(_samples(text, ACCEPTED)[ACCEPTED]) if f"\n{ACCEPTED}" in text else 0.0
    return Counters(generated, accepted)


def kv_capacity_tokens(text: str) -> float | None:
    """Tokens that the KV cache holds; None where the engine does not tell."""
    for line in text.splitlines():
        if line.startswith(CACHE_CONFIG):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
            if blocks.isdigit() and size.isdigit():
                return float(int(blocks) * int(size))
    return None


def _samples(text: str, *names: str) -> dict[str, list[float]]:
    wanted: dict[str, list[float]] = {name: [] for name in names}
    # The page has hundreds of histogram lines, and comes from every backend twice a second: parse only ours.
    text = f"\n{text}\n"
    lines = [line for name in names for line in _lines(text, name)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name in wanted:
                wanted[sample.name].append(sample.value)
    for name, values in wanted.items():
        if not values:
            raise MetricMissing(name)
    return wanted


def _lines(text: str, start: str) -> Iterator[str]:
    """Those that start so; every line of the text has a line end on both sides."""
    at = text.find(f"\n{start}")
    while at >= 0:
        end = text.find("\n", at + 1)
        yield text[at + 1 : end]
        at = text.find(f"\n{start}", end)
