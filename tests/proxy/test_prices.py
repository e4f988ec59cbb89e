"""Prices as an operator writes them: one number, steps in time, per token; and the rate that a moment has."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from profiler.profile_file import wide_prior
from proxy.config import BackendConfig, ConfigError, load
from proxy.gpu_time import GpuTime
from proxy.prices import Pricing, Rate, TokenRate
from proxy.spending import Spending


def _configured(folder: Path, **prices: Any) -> BackendConfig:
    path = folder / "fleet.yaml"
    backend = {"name": "b", "url": "http://b:1", **prices}
    path.write_text(yaml.safe_dump({"models": [{"name": "m", "backends": [backend]}]}))
    return load(path, {}).models[0].backends[0]


def _pricing(folder: Path, **prices: Any) -> Pricing:
    return Pricing(_configured(folder, **prices), wide_prior("b"))


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_plain_price_was_always_so(tmp_path: Path) -> None:
    pricing = _pricing(tmp_path, gpu_hour_usd=3, gpus=2)
    assert pricing.at(0.0) is pricing.at(2e9) == Rate(gpus=2, gpu_hour_usd=3.0)


def test_a_rate_says_since_when_it_is_in_force_and_before_the_first_step_nothing_is_known(tmp_path: Path) -> None:
    steps = [{"from": "2026-01-01T00:00Z", "usd": 3.0}, {"from": "2026-07-01T12:00+02:00", "usd": 2.5}]
    pricing = _pricing(tmp_path, gpu_hour_usd=steps)
    assert pricing.at(_at("2026-06-30")) == Rate(gpu_hour_usd=3.0, gpu_hour_since="2026-01-01T00:00:00Z")
    assert pricing.at(_at("2026-07-01T10:00")) == Rate(gpu_hour_usd=2.5, gpu_hour_since="2026-07-01T10:00:00Z")
    before = pricing.at(_at("2025-12-31"))
    assert before.usd(3600.0) is None
    assert before.no_gpu_price == "the backend has no gpu_hour_usd before 2026-01-01T00:00:00Z"
    assert pricing.next_change(_at("2026-02-01")) == _at("2026-07-01T10:00")


def test_both_kinds_of_price_change_by_themselves(tmp_path: Path) -> None:
    tokens = [{"from": "2026-02-01", "prompt": 1.0, "completion": 4.0, "cached": 0.5}]
    pricing = _pricing(tmp_path, gpu_hour_usd=[{"from": "2026-01-01", "usd": 3.0}], usd_per_million_tokens=tokens)
    january, february = pricing.at(_at("2026-01-15")), pricing.at(_at("2026-02-01"))
    assert (january.gpu_hour_usd, january.tokens) == (3.0, None)
    assert january.no_token_price == "no price per token is known before 2026-02-01T00:00:00Z"
    assert (february.gpu_hour_usd, february.tokens) == (3.0, TokenRate(prompt=1.0, completion=4.0, cached=0.5))


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ({"gpu_hour_usd": -1}, "gpu_hour_usd: Input should be greater than or equal to 0"),
        ({"gpu_hour_usd": float("nan")}, "gpu_hour_usd"),
        ({"gpu_hour_usd": []}, "at least 1 item"),
        ({"gpu_hour_usd": [{"from": "2026-01-01", "dollars": 3}]}, "gpu_hour_usd[0].dollars: unknown key"),
        (
            {"gpu_hour_usd": [{"from": "2026-02-01", "usd": 3}, {"from": "2026-01-01", "usd": 2}]},
            "steps must be in order of time",
        ),
        ({"gpu_hour_usd": [{"from": datetime(2026, 1, 1), "usd": 3}]}, "in which time zone, as in 2026-01-01T00:00Z"),
        ({"gpu_hour_usd": [{"from": "soon", "usd": 3}]}, "gpu_hour_usd[0].from: Input should be a valid datetime"),
        ({"usd_per_million_tokens": {"prompt": 1}}, "usd_per_million_tokens.completion: Field required"),
        ({"usd_per_million_tokens": 2}, "usd_per_million_tokens"),
    ],
)
def test_a_price_that_is_none_is_an_error_that_says_where(tmp_path: Path, prices: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _configured(tmp_path, **prices)
    assert said in str(caught.value) and "models[0].backends[0]." in str(caught.value)


@given(
    steps=st.dictionaries(st.integers(0, 2_000_000_000), st.floats(0, 1e6), min_size=1, max_size=8),
    offset=st.sampled_from([-1.0, -1e-6, 0.0, 1e-6, 1.0]),
    data=st.data(),
)
def test_at_any_boundary_the_step_that_has_begun_is_in_force(
    steps: dict[int, float], offset: float, data: st.DataObject
) -> None:
    starts = sorted(steps)
    listed = [{"from": datetime.fromtimestamp(start, UTC), "usd": steps[start]} for start in starts]
    config = BackendConfig.model_validate({"name": "b", "url": "http://b:1", "gpu_hour_usd": listed})
    at = data.draw(st.sampled_from(starts)) + offset
    rate = Pricing(config, wide_prior("b")).at(at)
    begun = bisect_right(starts, at)
    assert rate.gpu_hour_usd == (steps[starts[begun - 1]] if begun else None)
    assert (rate.gpu_hour_usd is None) == (rate.no_gpu_price is not None)


def test_what_passed_before_the_account_was_opened_has_its_price_too() -> None:
    now = 0.0
    gpu_time = GpuTime(1, lambda: now)
    now = 3600.0
    config = BackendConfig(name="a", url="http://a:1", gpu_hour_usd=2.0)
    idle = Spending(gpu_time, Pricing(config, wide_prior("a")), lambda: 0.0).told()["idle"]
    assert (idle["gpu_seconds"], idle["usd"]) == (3600.0, 2.0)
