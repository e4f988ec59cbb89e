"""What a request cost, accounted in several ways (contracts §8). A price that is unknown is null with a reason,
never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from proxy.prices import NO_GPU_PRICE, NO_TOKEN_PRICE, Rate


class Amount(msgspec.Struct, frozen=True, omit_defaults=True):
    """`usd` is null with a `reason` where it cannot be known."""

    gpu_seconds: float | None = None
    usd: float | None = None
    reason: str | None = None


_UNUSED = Amount(reason="no backend was used")
_NO_PROFILE = Amount(reason="the backend has no profile")
ACCOUNTS = ("attributed", "exclusive", "marginal", "billed")
ADDITIVE = ("attributed", "marginal", "billed")


class Ledgers(msgspec.Struct, frozen=True):
    """`attributed`: shares of the GPUs' time; `exclusive`: as if the GPUs had done nothing else; `marginal`: what its
    tokens added to the steps that ran anyway; `billed`: at a price per token. `paper_cost_per_token`: GPUs × latency /
    generated tokens, GPU-seconds per token (arXiv 2509.19645); null where no token was generated.

    The `ADDITIVE` ones of a request are the sums of its branches'; branches run side by side, so the others are not.
    """

    attributed: Amount
    exclusive: Amount
    marginal: Amount
    billed: Amount
    paper_cost_per_token: float | None


class Part(NamedTuple):
    """What a request, or one branch of it, did on one backend at one rate. `attributed_gpu_s`: its branches' shares,
    losers included; `wall_s`: from the first one's start to the last one's end; `tokens`: generated; `cached_tokens`:
    of the prompt's, as far as the backend told."""

    rate: Rate
    attributed_gpu_s: float
    wall_s: float
    tokens: int
    prompt_tokens: int = 0
    cached_tokens: int = 0


def of_request(parts: Sequence[Part]) -> Ledgers:
    """Summed over the backends that the request used."""
    if not parts:
        return Ledgers(_UNUSED, _UNUSED, _UNUSED, _UNUSED, None)
    exclusive_gpu_s = sum(part.rate.gpus * part.wall_s for part in parts)
    tokens = sum(part.tokens for part in parts)
    return Ledgers(
        attributed=_sum([of_gpu_seconds(part.rate, part.attributed_gpu_s) for part in parts]),
        exclusive=_sum([of_gpu_seconds(part.rate, part.rate.gpus * part.wall_s) for part in parts]),
        marginal=_sum([_marginal(part) for part in parts]),
        billed=_sum([_billed(part) for part in parts]),
        paper_cost_per_token=round(exclusive_gpu_s / tokens, 12) if tokens else None,
    )


def unknown(reason: str) -> Ledgers:
    """Every account null for one reason."""
    amount = Amount(reason=reason)
    return Ledgers(amount, amount, amount, amount, None)


def of_gpu_seconds(rate: Rate, gpu_seconds: float) -> Amount:
    """Time at its price, kept to the nanosecond: a request pays for every digit that is stored."""
    usd = rate.usd(gpu_seconds)
    return Amount(round(gpu_seconds, 9), usd, (rate.no_gpu_price or NO_GPU_PRICE) if usd is None else None)


def _marginal(part: Part) -> Amount:
    slope = part.rate.marginal_gpu_s
    return _NO_PROFILE if slope is None else of_gpu_seconds(part.rate, slope * part.tokens)


def _billed(part: Part) -> Amount:
    usd = billed_usd(part.rate, part.prompt_tokens, part.cached_tokens, part.tokens)
    return Amount(usd=usd, reason=(part.rate.no_token_price or NO_TOKEN_PRICE) if usd is None else None)


def billed_usd(rate: Rate, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float | None:
    """Null where tokens have no price."""
    price = rate.tokens
    if price is None:
        return None
    cached = min(cached_tokens, prompt_tokens)
    cached_price = price.prompt if price.cached is None else price.cached
    micro_usd = (prompt_tokens - cached) * price.prompt + cached * cached_price + completion_tokens * price.completion
    return micro_usd / 1e6


def cost_usd(
    rate: Rate, gpu_seconds: float, prompt_tokens: int, cached_tokens: int | None, completion_tokens: int
) -> float | None:
    """What a branch cost: its share of the GPU's time, or, where GPU-hours have no price, its tokens."""
    usd = rate.usd(gpu_seconds)
    return billed_usd(rate, prompt_tokens, cached_tokens or 0, completion_tokens) if usd is None else usd


def _sum(amounts: Sequence[Amount]) -> Amount:
    """Null, with the first reason, as soon as one is."""
    if len(amounts) == 1:
        return amounts[0]
    seconds, usd = total([a.gpu_seconds for a in amounts]), total([a.usd for a in amounts])
    reason = next((amount.reason for amount in amounts if amount.reason is not None), None)
    return Amount(None if seconds is None else round(seconds, 9), usd, reason)


def total(amounts: Sequence[float | None]) -> float | None:
    """A sum that is null as soon as one part is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None
