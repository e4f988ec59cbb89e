"""What a backend's time and tokens cost, and since when: prices change, and a trace keeps the rate that it used."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from math import inf
from typing import TypeVar

import msgspec

from profiler.profile_file import Profile
from proxy.config import BackendConfig, GpuPriceStep, TokenPriceStep

NO_GPU_PRICE = "the backend has no gpu_hour_usd"
NO_TOKEN_PRICE = "no price per token is configured"
S = TypeVar("S", GpuPriceStep, TokenPriceStep)


class TokenRate(msgspec.Struct, frozen=True, omit_defaults=True):
    """USD per million tokens. `cached`: of prompt tokens that came from the prefix cache; None: as other prompt
    tokens."""

    prompt: float
    completion: float
    cached: float | None = None


class Rate(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one backend costs from one moment on. `…_since`: when the price came into force (ISO 8601, UTC); null where
    it always was. `no_…`: why a price is not known. `marginal_gpu_s`: GPU-seconds that one more generated token adds;
    null without a profile."""

    gpus: float = 1.0
    gpu_hour_usd: float | None = None
    gpu_hour_since: str | None = None
    no_gpu_price: str | None = None
    tokens: TokenRate | None = None
    tokens_since: str | None = None
    no_token_price: str | None = None
    marginal_gpu_s: float | None = None

    def usd(self, gpu_seconds: float) -> float | None:
        """Null where the GPU-hour has no price."""
        return None if self.gpu_hour_usd is None else gpu_seconds * self.gpu_hour_usd / 3600


class Pricing:
    """The rates of one backend over time."""

    def __init__(self, config: BackendConfig, profile: Profile) -> None:
        gpu_hour, tokens = _steps(config.gpu_hour_usd), _tokens(config)
        self._starts = sorted({*(step.since.timestamp() for step in gpu_hour), *(s.since.timestamp() for s in tokens)})
        slope = None if profile.assumed else float(f"{config.gpus * profile.token_time.mean_slope_s:.6g}")
        self._rates = [_rate(config, slope, at) for at in (-inf, *self._starts)]

    def at(self, unix_s: float) -> Rate:
        """The rate in force; one object per rate."""
        return self._rates[bisect_right(self._starts, unix_s) if self._starts else 0]

    def next_change(self, unix_s: float) -> float:
        """When another rate comes into force, Unix seconds; infinite where none does."""
        index = bisect_right(self._starts, unix_s)
        return self._starts[index] if index < len(self._starts) else inf


def _steps(price: float | Sequence[GpuPriceStep] | None) -> Sequence[GpuPriceStep]:
    return () if price is None or isinstance(price, int | float) else price


def _tokens(config: BackendConfig) -> Sequence[TokenPriceStep]:
    price = config.usd_per_million_tokens
    return price if isinstance(price, list) else ()


def _rate(config: BackendConfig, slope: float | None, at: float) -> Rate:
    gpu_hour_usd = gpu_since = no_gpu = None
    if isinstance(config.gpu_hour_usd, int | float):
        gpu_hour_usd = float(config.gpu_hour_usd)
    elif steps := _steps(config.gpu_hour_usd):
        step = _in_force(steps, at)
        gpu_hour_usd, gpu_since = (step.usd, _iso(step.since)) if step is not None else (None, None)
        no_gpu = None if step is not None else f"the backend has no gpu_hour_usd before {_iso(steps[0].since)}"
    price, tokens, tokens_since, no_tokens = config.usd_per_million_tokens, None, None, None
    if isinstance(price, list):
        found = _in_force(price, at)
        tokens_since = _iso(found.since) if found is not None else None
        no_tokens = None if found is not None else f"no price per token is known before {_iso(price[0].since)}"
        price = found
    if price is not None:
        tokens = TokenRate(price.prompt, price.completion, price.cached)
    return Rate(config.gpus, gpu_hour_usd, gpu_since, no_gpu, tokens, tokens_since, no_tokens, slope)


def _in_force(steps: Sequence[S], at: float) -> S | None:
    """The last one that has begun; steps are in order of time."""
    begun = [step for step in steps if step.since.timestamp() <= at]
    return begun[-1] if begun else None


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
