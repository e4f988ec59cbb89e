"""What a run is judged by, and whether the bars are met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import proof_fleet as fleets
from proof_run import CLAIRVOYANT, FIXED, PARETOPROXY, Ran, Row

LIMIT_MS = {one.name: float(one.slo.latency_ms or 0) for one in fleets.CLASSES}
GOODPUT_BAR, ACCURACY_BAR, ATTAINMENT_BAR, CLAIRVOYANT_BAR = 2.0, 0.05, 0.95, 0.8
# Who counts as equal: a fixed policy may be this much worse in what is held equal. In favour of the fixed ones.
EQUAL_ACCURACY, EQUAL_GOODPUT = 0.01, 0.95


def good(row: Row) -> bool:
    """Answered in time, from at least one branch that had ended: a fragment is no answer."""
    return row.done > 0 and row.latency_ms <= LIMIT_MS[row.slo_class]


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates are per second of sending. `accuracy`: of answered requests; `right_per_s`: right answers in time.
    `attainment`: of all requests, per class; `of_feasible`: of those that the policy predicted to be feasible."""

    goodput: float
    goodput_high: float
    accuracy: float
    error: float
    right_per_s: float
    attainment: dict[str, float]
    of_feasible: dict[str, float]
    feasible: dict[str, float]
    mean_n: float
    on_large: float
    gpu_s_per_right: float


def measure(ran: Ran) -> Measured:
    rows, high = ran.rows, [row for row in ran.rows if row.at_s >= ran.high_from_s]
    answered = [row for row in rows if row.done]
    accuracy = _share([row.correct for row in answered])
    right = [row for row in rows if good(row) and row.correct]
    classes = {name: [row for row in rows if row.slo_class == name] for name in LIMIT_MS}
    return Measured(
        goodput=sum(map(good, rows)) / ran.lasts_s,
        goodput_high=sum(map(good, high)) / (ran.lasts_s - ran.high_from_s),
        accuracy=accuracy,
        error=1.96 * sqrt(accuracy * (1 - accuracy) / max(1, len(answered))),
        right_per_s=len(right) / ran.lasts_s,
        attainment={name: _share([good(row) for row in own]) for name, own in classes.items()},
        of_feasible={name: _share([good(row) for row in own if row.feasible]) for name, own in classes.items()},
        feasible={name: _share([row.feasible for row in own]) for name, own in classes.items()},
        mean_n=sum(row.n for row in rows) / len(rows),
        on_large=_share([row.backend.startswith(fleets.LARGE) for row in rows]),
        gpu_s_per_right=sum(row.gpu_s for row in rows) / max(1, len(right)),
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else float("nan")


@dataclass(frozen=True, slots=True)
class Bars:
    """Of one process. Rivals are names of fixed policies: the best at equal accuracy (by goodput), and at equal
    goodput (by accuracy); None where no fixed policy is equal at all."""

    as_accurate: str | None
    goodput_ratio: float
    as_good: str | None
    accuracy_gain: float
    worst_class: str
    worst_attainment: float
    of_clairvoyant: float

    @property
    def beats_fixed(self) -> bool:
        return self.goodput_ratio >= GOODPUT_BAR or self.accuracy_gain >= ACCURACY_BAR

    @property
    def met(self) -> bool:
        return self.beats_fixed and self.worst_attainment >= ATTAINMENT_BAR and self.of_clairvoyant >= CLAIRVOYANT_BAR


def mean(runs: Sequence[Measured]) -> Measured:
    """Of a policy's runs that differ by seed: the means of what the sweep compares, the rest of the first."""

    def over(values: Iterable[float]) -> float:
        return sum(values) / len(runs)

    return replace(
        runs[0],
        goodput=over(one.goodput for one in runs),
        accuracy=over(one.accuracy for one in runs),
        error=over(one.error for one in runs) / sqrt(len(runs)),
        right_per_s=over(one.right_per_s for one in runs),
        of_feasible={name: over(one.of_feasible[name] for one in runs) for name in runs[0].of_feasible},
    )


def rivals_of(ours: Measured, measured: Mapping[str, Measured]) -> tuple[str | None, str | None]:
    """The best fixed policy that is as accurate (by goodput), and that with as much goodput (by accuracy)."""
    rivals = {name: one for name, one in measured.items() if name in FIXED}
    accurate = {name: one for name, one in rivals.items() if one.accuracy >= ours.accuracy - EQUAL_ACCURACY}
    as_good = {name: one for name, one in rivals.items() if one.goodput >= ours.goodput * EQUAL_GOODPUT}
    first = max(accurate, key=lambda name: accurate[name].goodput, default=None)
    second = max(as_good, key=lambda name: as_good[name].accuracy, default=None)
    return first, second


def bars(measured: Mapping[str, Measured]) -> Bars:
    """`measured`: by policy, of one process."""
    ours = measured[PARETOPROXY]
    first, second = rivals_of(ours, measured)
    worst = min(ours.of_feasible, key=lambda name: ours.of_feasible[name])
    return Bars(
        as_accurate=first,
        goodput_ratio=ours.goodput / measured[first].goodput if first else float("inf"),
        as_good=second,
        accuracy_gain=ours.accuracy - measured[second].accuracy if second else float("inf"),
        worst_class=worst,
        worst_attainment=ours.of_feasible[worst],
        of_clairvoyant=ours.goodput / measured[CLAIRVOYANT].goodput,
    )
