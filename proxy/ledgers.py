"""What a request cost, accounted in several ways (contracts §8). A price that is unknown is null with a reason,
never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from proxy.backend import Backend


class Amount(msgspec.Struct, frozen=True, omit_defaults=True):
    """`usd` is null with a `reason` where it cannot be known."""

    gpu_seconds: float | None = None
    usd: float | None = None
    reason: str | None = None


_UNUSED = Amount(reason="no backend was used")
_NO_PROFILE = Amount(reason="the backend has no profile")
_NOT_BILLED = Amount(reason="no price per token is configured")


class Ledgers(msgspec.Struct, frozen=True):
    """`paper_cost_per_token`: GPUs × latency / generated tokens, GPU-seconds per token (arXiv 2509.19645)."""

    attributed: Amount
    exclusive: Amount
    marginal: Amount
    billed: Amount
    paper_cost_per_token: float | None


class Part(NamedTuple):
    """What a request did on one backend. `attributed_gpu_s`: its branches' shares, losers included; `wall_s`: from the
    first one's start to the last one's end; `tokens`: generated."""

    backend: Backend
    attributed_gpu_s: float
    wall_s: float
    tokens: int


def of_request(parts: Sequence[Part]) -> Ledgers:
    """Summed over the backends that the request used."""
    if not parts:
        return Ledgers(_UNUSED, _UNUSED, _UNUSED, _UNUSED, None)
    exclusive_gpu_s = sum(part.backend.config.gpus * part.wall_s for part in parts)
    tokens = sum(part.tokens for part in parts)
    return Ledgers(
        attributed=_sum([_priced(part.attributed_gpu_s, part.backend.config.gpu_hour_usd) for part in parts]),
        exclusive=_sum([_priced(p.backend.config.gpus * p.wall_s, p.backend.config.gpu_hour_usd) for p in parts]),
        marginal=_sum([_marginal(part) for part in parts if part.tokens or len(parts) == 1]),
        billed=_NOT_BILLED,
        paper_cost_per_token=round(exclusive_gpu_s / tokens, 12) if tokens else None,
    )


def by_backend(parts: Sequence[Part]) -> dict[str, Ledgers]:
    """Of each backend by itself, where there are several."""
    return {part.backend.name: of_request([part]) for part in parts} if len(parts) > 1 else {}


def _marginal(part: Part) -> Amount:
    config, profile = part.backend.config, part.backend.profile
    if profile.assumed:
        return _NO_PROFILE
    return _priced(config.gpus * profile.token_time.mean_slope_s * part.tokens, config.gpu_hour_usd)


def _sum(amounts: Sequence[Amount]) -> Amount:
    """Null, with the first reason, as soon as one is."""
    if len(amounts) == 1:
        return amounts[0]
    seconds, usd = total([a.gpu_seconds for a in amounts]), total([a.usd for a in amounts])
    reason = next((amount.reason for amount in amounts if amount.reason is not None), None)
    return Amount(None if seconds is None else round(seconds, 9), usd, reason)


def of_gpu_seconds(backend: Backend, gpu_seconds: float) -> Amount:
    """The backend's time at its price."""
    return _priced(gpu_seconds, backend.config.gpu_hour_usd)


def usd(backend: Backend, gpu_seconds: float) -> float | None:
    """Null where the backend has no price."""
    return _usd(gpu_seconds, backend.config.gpu_hour_usd)


def _usd(gpu_seconds: float, gpu_hour_usd: float | None) -> float | None:
    return None if gpu_hour_usd is None else gpu_seconds * gpu_hour_usd / 3600


def total(amounts: Sequence[float | None]) -> float | None:
    """A sum that is null as soon as one part is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _priced(gpu_seconds: float, gpu_hour_usd: float | None) -> Amount:
    """Kept to the nanosecond: a request pays for every digit that is stored."""
    reason = "the backend has no gpu_hour_usd" if gpu_hour_usd is None else None
    return Amount(round(gpu_seconds, 9), _usd(gpu_seconds, gpu_hour_usd), reason)
