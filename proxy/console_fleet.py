"""The fleet as the console shows it: every backend's health, load, calibration, profile and verdicts, read as they are
now. Cheap enough for the loop; one reading serves all consoles for `FRESH_S`.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from profiler import verdict
from profiler.profile_file import Profile
from proxy.backend import Backend
from proxy.catalog import Catalog
from proxy.correction import QUANTILES
from proxy.service import Service

FRESH_S = 0.5
_encode = msgspec.json.Encoder().encode


class Inside(msgspec.Struct, frozen=True):
    """Of `known` requests, `within` ended inside their predicted quantile."""

    quantile: float
    within: int
    known: int


class ProfileView(msgspec.Struct, frozen=True):
    """`kind`: measured, modelled (from other tensor-parallel degrees) or assumed (the wide prior).

    `age_days`: None where the profile tells no date; `uncertainty`: one standard deviation of log(measured/predicted).
    """

    kind: str
    age_days: int | None
    uncertainty: float
    cells: int
    latency_error: float | None
    held_out: bool
    environment: dict[str, str]


class Unfit(msgspec.Struct, frozen=True):
    """A setting (`greedy` or `sampled`) whose requests may not run on the backend."""

    setting: str
    reason: str


class BackendView(msgspec.Struct, frozen=True):
    """`in_flight`: our branches; `others`, `waiting`, `kv_usage` (0 to 1): None while the engine has not told.

    `use`: `answers`, or `scores` for a reward or embedding model.
    """

    name: str
    model: str
    use: str
    tensor_parallel_size: int
    gpus: float
    gpu_hour_usd: float | None
    speculative: str | None
    checked: bool
    serving: bool
    problem: str | None
    metric_missing: str | None
    in_flight: int
    others: float | None
    waiting: float | None
    kv_usage: float | None
    seats: int
    bias: float
    spread: float
    seen: int
    inside: list[Inside]
    profile: ProfileView
    unfit: list[Unfit]


class ModelView(msgspec.Struct, frozen=True):
    """A name that clients may ask for. `accuracy`: per task, what recent votes are expected to have, and its drift."""

    name: str
    models: list[str]
    tasks: list[str]
    task: str | None
    accuracy: dict[str, tuple[float, int]]


class FleetView(msgspec.Struct, frozen=True):
    percentile: float
    latency_ms: float | None
    cost_usd: float | None
    traces_written: int
    traces_dropped: int
    models: list[ModelView]
    backends: list[BackendView]


class FleetReader:
    """Keeps the last reading, and what is read from files, per catalog."""

    def __init__(self, clock: Callable[[], float], today: Callable[[], datetime.date] = datetime.date.today) -> None:
        self._clock, self._today = clock, today
        self._body = b""
        self._read_at = float("-inf")
        self._catalog: Catalog | None = None
        self._day: datetime.date | None = None
        self._reasons: dict[str, dict[str, str]] = {}
        self._profiles: dict[str, ProfileView] = {}

    async def body(self, service: Service) -> bytes:
        """The view as JSON."""
        catalog, day = service.catalog, self._today()
        if self._catalog is not catalog or self._day != day:
            self._reasons = await asyncio.to_thread(_reasons, catalog.backends)
            self._profiles = {backend.name: _profile(backend.profile, day) for backend in catalog.by_name.values()}
            self._catalog, self._day = catalog, day
        elif self._clock() - self._read_at < FRESH_S:
            return self._body
        self._body, self._read_at = _encode(self._view(service)), self._clock()
        return self._body

    def _view(self, service: Service) -> FleetView:
        catalog, slo = service.catalog, service.config.slo
        answering = [self._backend(backend, "answers") for backend in catalog.backends]
        scoring = [self._backend(backend, "scores") for backend in catalog.pooled]
        return FleetView(
            percentile=slo.percentile,
            latency_ms=slo.defaults.latency_ms,
            cost_usd=slo.defaults.cost_usd,
            traces_written=service.traces.written,
            traces_dropped=service.traces.dropped,
            models=[_model(catalog, name) for name in catalog.names],
            backends=[*answering, *scoring],
        )

    def _backend(self, backend: Backend, use: str) -> BackendView:
        config, health, load, correction = backend.config, backend.health, backend.load, backend.correction
        return BackendView(
            name=backend.name,
            model=backend.model,
            use=use,
            tensor_parallel_size=config.tensor_parallel_size,
            gpus=config.gpus,
            gpu_hour_usd=backend.pricing.at(time.time()).gpu_hour_usd,
            speculative=_speculative(config.speculative),
            checked=health.checked,
            serving=health.serving,
            problem=health.problem,
            metric_missing=backend.metric_missing,
            in_flight=backend.in_flight,
            others=None if load is None else round(backend.gpu_time.others, 1),
            waiting=None if load is None else load.waiting,
            kv_usage=None if load is None else round(load.kv_usage, 3),
            seats=backend.profile.max_num_seqs,
            bias=round(correction.bias, 3),
            spread=round(correction.spread, 3),
            seen=correction.seen,
            inside=[Inside(q, correction.within[q], correction.known[q]) for q in QUANTILES],
            profile=self._profiles[backend.name],
            unfit=self._unfit(backend),
        )

    def _unfit(self, backend: Backend) -> list[Unfit]:
        found = [Unfit("sampled", "configured for greedy requests only")] if backend.config.sampling == "greedy" else []
        reasons = self._reasons.get(backend.name, {})
        plain = "answers differ from the model's quality table"
        return found + [Unfit(setting, reasons.get(setting, plain)) for setting in sorted(backend.disagrees)]


def _reasons(backends: Sequence[Backend]) -> dict[str, dict[str, str]]:
    """Per backend and setting why its last agreement test failed, from the files beside the profiles. Blocks."""
    found: dict[str, dict[str, str]] = {}
    for backend in backends:
        if backend.disagrees and backend.config.profile is not None:
            try:
                agreement = verdict.read(verdict.agreement_path(backend.config.profile))
            except verdict.AgreementError:
                continue  # it was read at start, and has been replaced since
            verdicts = agreement.verdicts if agreement is not None else []
            found[backend.name] = {one.setting: f"{one.reason} ({one.date})" for one in verdicts}
    return found


def _model(catalog: Catalog, name: str) -> ModelView:
    served = catalog.choices[name]
    watches = [(task, watch) for model in served for task, watch in model.watches.items()] if len(served) == 1 else []
    return ModelView(
        name=name,
        models=[model.name for model in served],
        tasks=sorted({task for model in served for task in model.tables if task is not None}),
        task=next((model.default_task for model in served if model.default_task), None),
        accuracy={task or "": (round(w.expected, 4), w.drift) for task, w in watches if w.expected is not None},
    )


def _speculative(config: dict[str, Any] | None) -> str | None:
    return None if config is None else str(config.get("method", "speculative"))


_SHOWN = ("gpu", "vllm", "dtype", "model_shape", "date")


def _profile(profile: Profile, today: datetime.date) -> ProfileView:
    environment, latency = profile.environment, profile.errors.get("latency")
    kind = "assumed" if profile.assumed else "modelled" if environment.get("modelled") else "measured"
    return ProfileView(
        kind=kind,
        age_days=_age_days(environment.get("date"), today),
        uncertainty=round(profile.residual_sigma, 3),
        cells=len(profile.cells),
        latency_error=latency.median if latency is not None else None,
        held_out=latency is not None and latency.held_out,
        environment={key: str(environment[key]) for key in _SHOWN if key in environment},
    )


def _age_days(date: object, today: datetime.date) -> int | None:
    try:
        return (today - datetime.date.fromisoformat(str(date)[:10])).days
    except ValueError:
        return None
