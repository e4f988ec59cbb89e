"""Profiles of tensor-parallel degrees that nobody measured, from one or two that somebody did.

**Two degrees.** Every coefficient is taken as c(t) = a/t + b: a is work that t ranks share, b all-reduces and host
work. Two measured degrees give a and b. Both must be ≥ 0; where a measured pair says otherwise, the one that would be
negative is 0, the other fits the slower of the two measurements, and a note says so. The laws are per knot of g, of
both profiles' knots together; a step that would then fall with the batch is as long as the one before.

**One degree** t₀, under stated `Assumptions`. A step does host work h and 2 all-reduces per layer; the rest is shared:

    g(B, t)  = (g(B, t₀) − h − r(B, t₀)) · t₀/t + h + r(B, t)
    r(n, t)  = 2 · layers · (latency + 2 (t−1)/t · n · hidden · bytes / bandwidth), 0 for t = 1     (a ring's traffic)

with n tokens in the step: B, times those verified at once. A computed prompt token costs r's share per token, a prompt
one r's latency; of p0 one pass over the weights is shared; the rest of it, and what a further branch and its cached
prompt cost, stays. KV reads are shared by at most `kv_heads` ranks. What comes out is labelled as modelled, and its
residuals are wider than those of what it came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np

from profiler.profile_file import Profile, Range
from profiler.steptime import StepTime

# Standard deviation of the log latency that the law adds, per doubling from the nearest measured degree: judgement.
SIGMA_OF_TWO, SIGMA_OF_ONE = 0.10, 0.25


class ModellingError(ValueError):
    """Profiles that cannot be combined; the message says why."""


@dataclass(frozen=True, slots=True)
class Link:
    """Between the ranks: bytes per second each way, and seconds that one small all-reduce takes."""

    bandwidth_bytes_s: float
    latency_s: float


NVLINK_4 = Link(360e9, 10e-6)  # H100 and H200: 450 GB/s by the data sheet, of which 80% is assumed; latency is assumed


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What one measured degree does not tell. `host_s`: of a step, not shared; `bytes_per_value`: of activations;
    `tokens_per_branch`: in a step, 1 + the drafted ones (a draft model's own all-reduces are not counted)."""

    layers: int
    hidden: int
    kv_heads: int
    link: Link = NVLINK_4
    host_s: float = 1e-3
    bytes_per_value: int = 2
    tokens_per_branch: int = 1

    def reduce_s(self, tokens: float, degree: int) -> float:
        """Seconds that the all-reduces of one step of `tokens` tokens take."""
        return 0.0 if degree == 1 else 2 * self.layers * self.link.latency_s + tokens * self.reduce_token_s(degree)

    def reduce_token_s(self, degree: int) -> float:
        """Of those, what one more token costs."""
        traffic = 2 * (degree - 1) / degree * self.hidden * self.bytes_per_value
        return 2 * self.layers * traffic / self.link.bandwidth_bytes_s


@dataclass(frozen=True, slots=True)
class Predicted:
    """`notes`: where the measurements did not fit the law, in words."""

    step_time: StepTime
    notes: tuple[str, ...] = ()


def degree_of(profile: Profile) -> int:
    return int(profile.environment.get("tensor_parallel_size", 1))


def modelled(
    measured: Sequence[Profile], degree: int, name: str | None = None, assumptions: Assumptions | None = None
) -> Profile:
    """The profile of `degree` ranks from measured ones of one or two other degrees; from one under `assumptions`.

    Raises ModellingError: wrong number of profiles, equal degrees, different models or speculation, nothing assumed.
    """
    _check(measured, degree, assumptions)
    first = min(measured, key=degree_of)
    if len(measured) == 2:
        at, of = (degree_of(profile) for profile in measured), (profile.step_time for profile in measured)
        predicted = from_two(dict(zip(at, of, strict=True)), degree)
        assumed: dict[str, Any] = {"law": "each coefficient a/t + b, a and b ≥ 0"}
    else:
        assert assumptions is not None
        predicted = from_one(first.step_time, degree_of(first), degree, assumptions)
        assumed = {"law": "shared work/t, all-reduces and host work as assumed", **asdict(assumptions)}
    environment = {key: value for key, value in first.environment.items() if key not in _OF_THE_MEASUREMENT} | {
        "tensor_parallel_size": degree,
        "modelled": True,
        "modelled_from": [
            {"backend": profile.backend, "tensor_parallel_size": degree_of(profile)} for profile in measured
        ],
        "assumptions": assumed,
        "notes": list(predicted.notes),
    }
    return msgspec.structs.replace(
        first,
        backend=name or f"{first.backend}-tp{degree}-modelled",
        environment=environment,
        cells=[],
        step_time=predicted.step_time,
        residual_sigma=_sigma(measured, degree),
        residual_quantiles={},
        errors={},
        range=Range(*(min(ends) for ends in zip(*(_ends(profile.range) for profile in measured), strict=True))),
        max_num_seqs=min(profile.max_num_seqs for profile in measured),
    )


def from_two(measured: Mapping[int, StepTime], degree: int) -> Predicted:
    """`measured`: the step times of exactly two degrees."""
    (t1, low), (t2, high) = sorted(measured.items())
    notes: list[str] = []

    def law(what: str, at_t1: float, at_t2: float) -> float:
        a, b = (at_t1 - at_t2) / (1 / t1 - 1 / t2), (at_t2 * t2 - at_t1 * t1) / (t2 - t1)
        if a < -1e-12 * at_t1:
            notes.append(f"{what} grows from TP {t1} to {t2}: taken as not shared, at the larger value")
            a, b = 0.0, max(at_t1, at_t2)
        elif b < -1e-12 * at_t1:
            notes.append(f"{what} falls more than in proportion from TP {t1} to {t2}: taken as shared in full")
            a, b = max(at_t1 * t1, at_t2 * t2), 0.0
        return max(a, 0.0) / degree + max(b, 0.0)

    knots = tuple(sorted({*low.batches, *high.batches}))
    steps = [
        law(f"a step of {knot:g}", *pair) for knot, *pair in zip(knots, low.g_s(knots), high.g_s(knots), strict=True)
    ]
    scalars = {name: law(name, getattr(low, name), getattr(high, name)) for name in _SCALARS}
    stall = (low.stall + high.stall) / 2
    return Predicted(StepTime(knots, _never_falling(steps), stall=stall, **scalars), tuple(notes))


def from_one(measured: StepTime, t0: int, degree: int, assumed: Assumptions) -> Predicted:
    """`measured`: at degree `t0`."""
    shrink, notes = t0 / degree, list[str]()
    kv_shrink = min(t0, assumed.kv_heads) / min(degree, assumed.kv_heads)

    def moved(what: str, value_s: float, host_s: float, before_s: float, after_s: float) -> float:
        shared = value_s - host_s - before_s
        if shared < 0:
            notes.append(f"{what} is shorter than the host work and all-reduces assumed of it: taken as these alone")
        return max(0.0, shared) * shrink + min(host_s, value_s) + after_s

    def step(batch: float, seconds: float) -> float:
        tokens = batch * assumed.tokens_per_branch
        before, after = assumed.reduce_s(tokens, t0), assumed.reduce_s(tokens, degree)
        return moved(f"a step of {batch:g}", seconds, assumed.host_s, before, after)

    weights_s = max(0.0, min(measured.p0_s, measured.step_s[0]) - assumed.host_s - assumed.reduce_s(0, t0))
    rest_s = max(0.0, measured.p0_s - weights_s - assumed.reduce_s(0, t0))
    step_time = replace(
        measured,
        step_s=_never_falling([step(*knot) for knot in zip(measured.batches, measured.step_s, strict=True)]),
        c_kv_s=measured.c_kv_s * kv_shrink,
        c_shared_s=measured.c_shared_s * kv_shrink,
        p0_s=rest_s + weights_s * shrink + assumed.reduce_s(0, degree),
        p_tok_s=moved(
            "a prompt token", measured.p_tok_s, 0.0, assumed.reduce_token_s(t0), assumed.reduce_token_s(degree)
        ),
        p_tok2_s=measured.p_tok2_s * shrink,
    )
    return Predicted(step_time, tuple(notes))


_OF_THE_MEASUREMENT = ("date", "kv_cache_tokens")
_SCALARS = tuple(one.name for one in fields(StepTime) if one.name not in ("batches", "step_s", "stall"))


def _never_falling(steps: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(step) for step in np.maximum.accumulate(np.asarray(steps, float)))


def _ends(of: Range) -> tuple[int, int, int]:
    return of.max_batch, of.max_prompt, of.max_output


def _sigma(measured: Sequence[Profile], degree: int) -> float:
    doublings = min(abs(math.log2(degree / degree_of(profile))) for profile in measured)
    added = (SIGMA_OF_ONE if len(measured) == 1 else SIGMA_OF_TWO) * max(1.0, doublings)
    return math.hypot(max(profile.residual_sigma for profile in measured), added)


def _check(measured: Sequence[Profile], degree: int, assumptions: Assumptions | None) -> None:
    if len(measured) not in (1, 2):
        raise ModellingError(f"a degree is modelled from one or two measured profiles, not from {len(measured)}")
    if degree < 1:
        raise ModellingError(f"a tensor-parallel degree is at least 1, not {degree}")
    if any(profile.environment.get("modelled") for profile in measured):
        raise ModellingError("a modelled profile is no measurement; give the ones that it was modelled from")
    if len(measured) == 1 and assumptions is None:
        raise ModellingError(
            "one measured degree needs assumptions on what the ranks do not share; or measure a second"
        )
    for what in ("model", "speculative"):
        if len({repr(profile.environment.get(what)) for profile in measured}) > 1:
            raise ModellingError(f"the profiles are of different engines: `{what}` differs")
    if len({degree_of(profile) for profile in measured}) < len(measured):
        raise ModellingError(f"both profiles were measured at TP {degree_of(measured[0])}; two degrees are needed")
