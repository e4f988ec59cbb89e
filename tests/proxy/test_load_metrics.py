"""A backend's load from vLLM's metrics page."""

import pytest

from proxy.load_metrics import KV_USAGE, RUNNING, WAITING, EngineLoad, MetricMissing, parse

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 70.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:e2e_request_latency_seconds_bucket{le="0.3"} 12.0
"""


def test_ranks_are_summed_and_the_fullest_cache_counts() -> None:
    assert parse(PAGE) == EngineLoad(running=5, waiting=1, kv_usage=0.75)


def test_the_tokens_that_it_has_generated_are_read_where_it_tells_them() -> None:
    told = 'vllm:generation_tokens_total{engine="0"} 700.0\nvllm:generation_tokens_total{engine="1"} 300.0\n'
    assert parse(PAGE + told).generated == 1000


@pytest.mark.parametrize("name", [RUNNING, WAITING, KV_USAGE])
def test_a_missing_name_is_an_error_that_names_it_never_a_zero(name: str) -> None:
    page = "\n".join(line for line in PAGE.splitlines() if not line.startswith(name + "{"))
    with pytest.raises(MetricMissing, match=name) as raised:
        parse(page)
    assert raised.value.name == name


def test_the_first_and_the_last_line_count_too() -> None:
    lines = [f'{name}{{engine="0"}} 1.0' for name in (RUNNING, WAITING, KV_USAGE)]
    assert parse("\n".join(lines)) == EngineLoad(running=1, waiting=1, kv_usage=1)


def test_a_page_that_is_not_vllms_is_an_error() -> None:
    with pytest.raises(MetricMissing):
        parse("<html>hello</html>")
    with pytest.raises(ValueError):
        parse(PAGE.replace(" 3.0", " three"))
