"""The profile file: raw cells, coefficients, residuals and range of one backend, as JSON with a schema version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from profiler.steptime import Cell, StepTime

SCHEMA = 1


class ProfileError(ValueError):
    """A profile file that cannot be used; the message names the file and what to do."""


class Range(msgspec.Struct, frozen=True):
    """What was measured: beyond it a prediction is an extrapolation."""

    max_batch: int
    max_prompt: int
    max_output: int


class Profile(msgspec.Struct, frozen=True):
    """`residual_sigma`: standard deviation of log(measured / predicted) latency; `environment`: as measured on."""

    backend: str
    environment: dict[str, Any]
    cells: list[Cell]
    step_time: StepTime
    residual_sigma: float
    residual_quantiles: dict[str, float]
    range: Range
    max_num_seqs: int
    schema: int = SCHEMA


def make(backend: str, environment: dict[str, Any], cells: list[Cell], max_num_seqs: int) -> Profile:
    """Fit `cells` into a profile. Raises FitError."""
    from profiler.steptime import fit

    step_time, residuals = fit(cells)
    quantiles = {f"p{q}": round(float(np.quantile(residuals, q / 100)), 4) for q in (5, 50, 95)}
    return Profile(
        backend=backend,
        environment=environment,
        cells=cells,
        step_time=step_time,
        residual_sigma=float(max(0.03, np.sqrt(np.mean(residuals**2)))),
        residual_quantiles=quantiles,
        range=Range(
            max(cell.batch for cell in cells),
            max(cell.prompt for cell in cells),
            max(cell.output for cell in cells),
        ),
        max_num_seqs=max_num_seqs,
    )


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
    """Replace the file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1))
    temporary.replace(path)


def wide_prior(backend: str) -> Profile:
    """What is assumed of a backend without a profile: a mid-range GPU, wrong by a factor of two either way."""
    return Profile(
        backend=backend,
        environment={"prior": True},
        cells=[],
        step_time=StepTime(c0_s=0.015, c_tok_s=2e-4, c_kv_s=2e-8, p0_s=0.03, p_tok_s=5e-5),
        residual_sigma=0.7,
        residual_quantiles={},
        range=Range(256, 8192, 8192),
        max_num_seqs=256,
    )
