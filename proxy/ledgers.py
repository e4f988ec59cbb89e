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
        nothing = Amount(reason="no backend was used")
        return Ledgers(nothing, nothing, nothing, nothing, None)
    gpus, step = backend.config.gpus, backend.profile.step_time
    marginal = gpus * step.c_tok_s * tokens
    has_profile = bool(backend.profile.cells)
    return Ledgers(
        attributed=_priced(backend, attributed_gpu_s),
        exclusive=_priced(backend, gpus * wall_s),
        marginal=_priced(backend, marginal) if has_profile else Amount(reason="the backend has no profile"),
        billed=Amount(reason="no price per token is configured"),
        paper_cost_per_token=gpus * wall_s / tokens if tokens else None,
    )


def usd(backend: Backend, gpu_seconds: float) -> float | None:
    """Null where the backend has no price."""
    price = backend.config.gpu_hour_usd
    return None if price is None else gpu_seconds * price / 3600


def total(amounts: Sequence[float | None]) -> float | None:
    """A sum that is null as soon as one part is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _priced(backend: Backend, gpu_seconds: float) -> Amount:
    price = usd(backend, gpu_seconds)
    if price is None:
        return Amount(gpu_seconds, None, f"backend {backend.name} has no gpu_hour_usd")
    return Amount(gpu_seconds, price)
