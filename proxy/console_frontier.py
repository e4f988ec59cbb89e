"""All candidates for a model and an SLO under the load now, as the console draws them: columns instead of rows, and no
ranking (which costs a look per candidate): only the planner's choice is marked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from proxy.aliases import named
from proxy.asking import question
from proxy.call import parse
from proxy.candidates import Candidates
from proxy.config import SloDefaults
from proxy.plan_view import left_out
from proxy.planner import best_row, count_dropped
from proxy.plans import Ask
from proxy.service import Service

MOST_POINTS = 1500  # what a browser draws twice a second


class Wanted(msgspec.Struct, frozen=True):
    """What the sliders say. None: no limit; `prompt_tokens` None: as the task's questions have."""

    model: str
    latency_ms: float | None = None
    cost_usd: float | None = None
    quality: float | None = None
    objective: str = "quality"
    prompt_tokens: int | None = None
    task: str | None = None
    greedy: bool = False


class SettingView(msgspec.Struct, frozen=True):
    model: str
    strategy: str
    params: dict[str, Any]
    n: int
    prior: bool


class Columns(msgspec.Struct, frozen=True):
    """One entry per candidate. `latency_ms`: at the percentile, as the deadline leaves it; `uncut_ms`: without it;
    `over`: one bit per limit of the view that the candidate breaks."""

    backend: list[int]
    setting: list[int]
    latency_ms: list[float]
    uncut_ms: list[float]
    median_ms: list[float]
    cost_usd: list[float | None]
    gpu_seconds: list[float]
    accuracy: list[float]
    accuracy_lower: list[float]
    tokens: list[float]
    over: list[int]


class FrontierView(msgspec.Struct, frozen=True):
    """`chosen`: an index into the columns. `dropped`: candidates per reason; `left_out`: backends that are no
    candidates at all, with the reason. `total`: candidates of which `columns` holds at most `MOST_POINTS`."""

    model: str
    task: str | None
    percentile: float
    prompt_tokens: float
    note: str | None
    considered: int
    dropped: dict[str, int]
    left_out: dict[str, str]
    feasible: bool
    gave_up: list[str]
    chosen: int | None
    total: int
    limits: list[str]
    backends: list[str]
    settings: list[SettingView]
    columns: Columns


class Look(NamedTuple):
    """The planner's columns at one moment, and what they were asked for; nothing in it changes any more."""

    ask: Ask
    model: str
    note: str | None
    percentile: float
    candidates: Candidates
    violations: dict[str, np.ndarray]
    left_out: dict[str, str]


def look(service: Service, wanted: Wanted) -> Look:
    """Asks the planner what a chat completion with these controls would ask it; costs as much as one decision, and has
    to be on the loop. Raises ProxyError."""
    body = msgspec.json.encode(_body(wanted))
    call, models = named(parse("/v1/chat/completions", [], body, SloDefaults()), service.catalog)
    asked = question(call, models, service.registry, 1.0)
    tokens = float(wanted.prompt_tokens or round(models[0].table(asked.ask.task).mean_prompt_tokens))
    ask = replace(asked.ask, prompt_tokens=tokens)
    candidates = Candidates(ask, models)
    violations = {} if candidates.empty else candidates.violations()
    out = left_out(models, ask.greedy)
    return Look(ask, call.model, asked.note, service.config.slo.percentile, candidates, violations, out)


def view(seen: Look) -> FrontierView:
    """In any thread."""
    candidates, violations = seen.candidates, seen.violations
    empty = FrontierView(
        model=seen.model,
        task=seen.ask.task,
        percentile=seen.percentile,
        prompt_tokens=seen.ask.prompt_tokens,
        note=seen.note,
        considered=sum(candidates.dropped.values()),
        dropped=candidates.dropped,
        left_out=seen.left_out,
        feasible=False,
        gave_up=[],
        chosen=None,
        total=0,
        limits=[],
        backends=[backend.name for block in candidates.blocks for backend in block.served.backends],
        settings=_settings(candidates),
        columns=Columns([], [], [], [], [], [], [], [], [], [], []),
    )
    if candidates.empty:
        return empty
    chosen = best_row(candidates, violations)
    gave_up = [limit for limit, over in violations.items() if over[chosen] > 0]
    considered, dropped = count_dropped(candidates, violations)
    rows = np.flatnonzero(candidates.alive)
    shown = _thinned(candidates, rows, chosen)
    return msgspec.structs.replace(
        empty,
        considered=considered,
        dropped=dropped,
        feasible=not gave_up,
        gave_up=gave_up,
        chosen=int(np.searchsorted(shown, chosen)),
        total=len(rows),
        limits=list(violations),
        columns=_columns(candidates, shown, _over(violations, len(candidates.alive))),
    )


def _body(wanted: Wanted) -> dict[str, Any]:
    limits = {"latency_ms": wanted.latency_ms, "cost_usd": wanted.cost_usd, "quality": wanted.quality}
    slo = {name: limit for name, limit in limits.items() if limit is not None}
    return {
        "model": wanted.model,
        "messages": [{"role": "user", "content": "?"}],
        "slo": {**slo, "objective": wanted.objective},
        **({"tts": {"task": wanted.task}} if wanted.task is not None else {}),
        **({"temperature": 0} if wanted.greedy else {}),
    }


def _over(violations: dict[str, np.ndarray], candidates: int) -> np.ndarray:
    """Per candidate the bits of the limits that it breaks."""
    bits = np.zeros(candidates, int)
    for position, over in enumerate(violations.values()):
        bits |= (over > 0).astype(int) << position
    return bits


def _thinned(candidates: Candidates, rows: np.ndarray, marked: int) -> np.ndarray:
    """At most `MOST_POINTS` rows, ascending: the best ones by latency and by cost, the marked one, and of the rest
    every so many-th."""
    if len(rows) <= MOST_POINTS:
        return rows
    best = [
        _undominated(rows, values[rows], candidates.lower[rows]) for values in (candidates.tail_s, candidates.gpu_s)
    ]
    keep = np.concatenate([*best, [marked]]).astype(int)[-MOST_POINTS:]
    room = MOST_POINTS - len(keep)
    rest = rows[np.linspace(0, len(rows) - 1, room).astype(int)] if room > 0 else rows[:0]
    thinned: np.ndarray = np.unique(np.concatenate([keep, rest]))
    return thinned


def _undominated(rows: np.ndarray, price: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """The rows that no cheaper one equals in accuracy."""
    order = np.lexsort((-accuracy, price))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(accuracy[order])[:-1]])
    best: np.ndarray = rows[order[accuracy[order] > best_before]]
    return best


def _settings(candidates: Candidates) -> list[SettingView]:
    return [
        SettingView(block.served.name, s.strategy, s.params, s.branches, s.prior)
        for block in candidates.blocks
        for s in block.settings
    ]


def _columns(candidates: Candidates, rows: np.ndarray, over: np.ndarray) -> Columns:
    backend, setting = np.empty(len(candidates.alive), int), np.empty(len(candidates.alive), int)
    gap, tokens = np.empty(len(candidates.alive)), np.empty(len(candidates.alive))
    first_backend = first_setting = 0
    for block in candidates.blocks:
        backends, settings = len(block.served.backends), len(block.settings)
        part = slice(block.start, block.start + backends * settings)
        backend[part] = np.repeat(np.arange(backends), settings) + first_backend
        setting[part] = np.tile(np.arange(settings), backends) + first_setting
        gap[part] = np.tile([s.accuracy - s.accuracy_lower for s in block.settings], backends)
        tokens[part] = np.tile(block.table.mean_tokens, backends)
        first_backend, first_setting = first_backend + backends, first_setting + settings
    usd = candidates.gpu_s[rows] * candidates.price[rows]
    return Columns(
        backend=backend[rows].tolist(),
        setting=setting[rows].tolist(),
        latency_ms=_digits(candidates.tail_s[rows] * 1e3),
        uncut_ms=_digits(candidates.uncut_s[rows] * 1e3),
        median_ms=_digits(candidates.median_s[rows] * 1e3),
        cost_usd=[None if value != value else value for value in _digits(usd)],
        gpu_seconds=_digits(candidates.gpu_s[rows]),
        accuracy=np.round((candidates.lower + gap)[rows], 4).tolist(),
        accuracy_lower=np.round(candidates.lower[rows], 4).tolist(),
        tokens=np.round(tokens[rows]).tolist(),
        over=over[rows].tolist(),
    )


def _digits(values: np.ndarray) -> list[float]:
    """Four digits of each: what is drawn needs no more, and the answer is half as long."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.abs(values))))
        rounded = np.where(np.isfinite(scale), np.round(values * scale) / scale, values)
    digits: list[float] = rounded.tolist()
    return digits
