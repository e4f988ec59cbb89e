"""A backend's own load, read from vLLM's Prometheus text. A name that is missing is an error, never a zero."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_USAGE = "vllm:kv_cache_usage_perc"


class MetricMissing(Exception):
    """The engine exports no metric of that name: the version differs, or the URL is not vLLM's."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the backend's /metrics has no {name}")
        self.name = name


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Summed over the engine's data-parallel ranks; `kv_usage`: the fullest rank, 0 to 1."""

    running: float
    waiting: float
    kv_usage: float


def parse(text: str) -> EngineLoad:
    """Raises MetricMissing for an absent name and ValueError for text that is not Prometheus'."""
    wanted = {RUNNING: [], WAITING: [], KV_USAGE: []}  # type: dict[str, list[float]]
    # The page has hundreds of histogram lines; parse only ours.
    lines = [line for line in text.splitlines() if line.startswith((RUNNING, WAITING, KV_USAGE))]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name in wanted:
                wanted[sample.name].append(sample.value)
    for name, values in wanted.items():
        if not values:
            raise MetricMissing(name)
    return EngineLoad(sum(wanted[RUNNING]), sum(wanted[WAITING]), max(wanted[KV_USAGE]))
