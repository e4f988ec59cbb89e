"""Does a profile still hold? A few of its own cells are measured again and compared with what it says now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.cells import Cell, CellSpec
from profiler.fit import predict_latency_s
from profiler.profile_file import Profile

AT_LEAST = 0.10  # a drift that no plan would change for


@dataclass(frozen=True, slots=True)
class Check:
    """`ratio`: measured over predicted latency, median over cells; `allowed`: how far from 1 it may be."""

    ratio: float
    worst: float
    allowed: float
    cells: int

    @property
    def holds(self) -> bool:
        return bool(abs(np.log(self.ratio)) <= np.log1p(self.allowed))


def specs_to_check(profile: Profile, count: int) -> list[CellSpec]:
    """Of the measured cells the quick ones, spread over batch sizes."""
    plain = sorted((cell for cell in profile.cells if not cell.spec.beside), key=lambda cell: cell.latency_s)
    quick = sorted(plain[: max(count, len(plain) // 2)], key=lambda cell: cell.spec.batch)
    at = np.linspace(0, len(quick) - 1, min(count, len(quick))).round().astype(int)
    return [quick[index].spec for index in at]


def compare(profile: Profile, cells: Sequence[Cell]) -> Check:
    """The spread of the profile's own errors, over √cells, is allowed twice."""
    logs = np.log([cell.latency_s / predict_latency_s(profile.step_time, cell) for cell in cells])
    allowed = max(AT_LEAST, 2 * profile.residual_sigma * 1.25 / float(np.sqrt(len(cells))))
    worst = float(np.exp(logs[np.argmax(np.abs(logs))]))
    return Check(float(np.exp(np.median(logs))), worst, allowed, len(cells))
