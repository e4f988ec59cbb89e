"""The profile file: raw cells, coefficients, residuals and range of one backend, as JSON with a schema version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from profiler import files
from profiler.cells import Cell, merged
from profiler.fit import fit, log_errors
from profiler.steptime import StepTime

SCHEMA = 2
SMALLEST_SIGMA = 0.03
# What is assumed of the residuals before any is seen, as so many cells: few held-out cells say little, and those that
# were fitted say less.
ASSUMED_SIGMA, ASSUMED_CELLS = 0.1, 2


class ProfileError(ValueError):
    """A profile file that cannot be used; the message names the file and what to do."""


class Range(msgspec.Struct, frozen=True):
    """What was measured: beyond it a prediction is an extrapolation."""

    max_batch: int
    max_prompt: int
    max_output: int


class Errors(msgspec.Struct, frozen=True):
    """Relative errors of one predicted quantity on cells that the fit never saw (`held_out`), or, where there are
    none, on those that it did."""

    median: float
    worst: float
    cells: int
    held_out: bool


class Profile(msgspec.Struct, frozen=True):
    """`acceptance_length`: tokens that a step gives a branch of the model's own task, 1 without speculation.

    `residual_sigma`: standard deviation of log(measured / predicted) latency, `residual_quantiles` its 5th, 50th and
    95th percentile, from held-out cells; `errors`: per quantity; `environment`: as measured on.
    """

    backend: str
    environment: dict[str, Any]
    cells: list[Cell]
    step_time: StepTime
    residual_sigma: float
    residual_quantiles: dict[str, float]
    range: Range
    max_num_seqs: int
    acceptance_length: float = 1.0
    errors: dict[str, Errors] = {}
    schema: int = SCHEMA

    @property
    def assumed(self) -> bool:
        """Nothing was measured: `wide_prior`."""
        return bool(self.environment.get("prior"))

    @property
    def token_time(self) -> StepTime:
        """The step time per generated token of every running branch."""
        if self.acceptance_length == 1.0:
            return self.step_time
        return self.step_time.per_token(self.acceptance_length)


def make(
    backend: str,
    environment: dict[str, Any],
    cells: Sequence[Cell],
    max_num_seqs: int,
    acceptance_length: float | None = None,
) -> Profile:
    """Fit `cells` into a profile; without an `acceptance_length` of the task, the cells' own. Raises FitError."""
    cells = merged(cells)
    step_time = fit(cells)
    plain = [cell for cell in cells if not cell.spec.beside]
    held_out = [cell for cell in plain if cell.held_out]
    judged = held_out or plain
    errors = log_errors(step_time, judged)
    residuals = errors["latency"]
    return Profile(
        backend=backend,
        environment=environment,
        cells=cells,
        step_time=step_time,
        residual_sigma=_sigma(residuals),
        residual_quantiles={f"p{q}": round(float(np.quantile(residuals, q / 100)), 4) for q in (5, 50, 95)},
        range=Range(
            max(cell.spec.batch for cell in cells),
            max(cell.spec.prompt for cell in cells),
            max(cell.spec.output for cell in cells),
        ),
        max_num_seqs=max_num_seqs,
        acceptance_length=acceptance_length or float(np.mean([cell.acceptance_length for cell in plain])),
        errors={name: _errors(of, bool(held_out)) for name, of in errors.items()},
    )


def _sigma(residuals: np.ndarray) -> float:
    squares = float((residuals**2).sum()) + ASSUMED_CELLS * ASSUMED_SIGMA**2
    return max(SMALLEST_SIGMA, float(np.sqrt(squares / (len(residuals) + ASSUMED_CELLS))))


def _errors(logs: np.ndarray, held_out: bool) -> Errors:
    off = np.abs(np.expm1(-logs))  # |predicted − measured| / measured
    return Errors(round(float(np.median(off)), 4), round(float(off.max()), 4), len(off), held_out)


def read(path: Path) -> Profile:
    """Raises ProfileError."""
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is not a profile ({error}); measure it again with `paretoproxy profile`") from error
    if profile.schema != SCHEMA:
        raise ProfileError(f"{path} has schema {profile.schema}, this version reads {SCHEMA}; measure it again")
    return profile


def write(profile: Profile, path: Path) -> None:
    files.replace(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))


def wide_prior(backend: str) -> Profile:
    """What is assumed of a backend without a profile: a mid-range GPU, wrong by a factor of two either way."""
    return Profile(
        backend=backend,
        environment={"prior": True},
        cells=[],
        step_time=StepTime.linear(c0_s=0.015, c_tok_s=2e-4, c_kv_s=2e-8, p0_s=0.03, p_tok_s=5e-5),
        residual_sigma=0.7,
        residual_quantiles={},
        range=Range(256, 8192, 8192),
        max_num_seqs=256,
    )
