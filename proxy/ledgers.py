"""What a request cost, accounted in several ways (contracts §8). A price that is unknown is null with a reason,
never zero.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def of_request(backend: Backend | None, attributed_gpu_s: float, wall_s: float, tokens: int) -> Ledgers:
    """`attributed_gpu_s`: the branches' shares, losers included; `wall_s`: from the first branch's start to the
    last's end."""
    if backend is None:
        return Ledgers(_UNUSED, _UNUSED, _UNUSED, _UNUSED, None)
    config, profile = backend.config, backend.profile
    gpus, price = config.gpus, config.gpu_hour_usd
    exclusive_gpu_s = gpus * wall_s
    return Ledgers(
        attributed=_priced(attributed_gpu_s, price),
        exclusive=_priced(exclusive_gpu_s, price),
        marginal=_NO_PROFILE if profile.assumed else _priced(gpus * profile.token_time.mean_slope_s * tokens, price),
        billed=_NOT_BILLED,
        paper_cost_per_token=round(exclusive_gpu_s / tokens, 12) if tokens else None,
    )


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
