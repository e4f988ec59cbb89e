"""The controls of one request: three spellings of one thing, read strictly into `Controls`.

A header beats the body's `slo`/`tts` objects, which beat the model suffix (`model@strategy:n`), which beats the
server's defaults. Whatever is malformed or unknown is an InvalidControl that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy.config import SloDefaults
from proxy.errors import InvalidControl

Objective = Literal["quality", "cost", "latency"]
OBJECTIVES: tuple[Objective, ...] = ("quality", "cost", "latency")
MODES = ("best-effort", "strict")
MAX_N = 256
MAX_LATENCY_MS = 24 * 3600 * 1000.0


@dataclass(frozen=True, slots=True)
class Slo:
    """What the client demands. None: no limit."""

    latency_ms: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    cost_usd: float | None = None
    quality: float | None = None
    objective: Objective = "quality"
    strict: bool = False

    @property
    def demanding(self) -> bool:
        """Whether there is anything to meet or to miss."""
        limits = (self.latency_ms, self.ttft_ms, self.tpot_ms, self.cost_usd, self.quality)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class Controls:
    """`given`: the client (or a default) set something, so this is no pass-through. `strategy` None or "auto": free."""

    slo: Slo = Slo()
    strategy: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    task: str | None = None
    progress: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    given: bool = False

    @property
    def pinned(self) -> str | None:
        return None if self.strategy in (None, "auto") else self.strategy

    @property
    def scaled(self) -> bool:
        """`none` pinned and nothing demanded is pass-through under another name."""
        if not self.given:
            return False
        demanded = self.slo != Slo() or self.max_tokens is not None
        refusable = self.n not in (None, 1) or bool(self.params)  # the planner's side tells why
        return self.pinned != "none" or demanded or refusable


def _number(low: float, high: float, what: str, *, above: bool = False) -> Callable[[str, Any], float]:
    def read(control: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) or _underscored(value) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (low < number <= high if above else low <= number <= high):  # NaN fails too
            raise InvalidControl(control, f"expected {what}, got {_shown(value)}")
        return number

    return read


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def read(control: str, value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) and not _underscored(value) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise InvalidControl(control, f"expected a whole number from {low} to {high}, got {_shown(value)}")
        return number

    return read


def _choice(*allowed: str) -> Callable[[str, Any], str]:
    def read(control: str, value: Any) -> str:
        if value not in allowed:
            raise InvalidControl(control, f"expected one of {', '.join(allowed)}, got {_shown(value)}")
        return str(value)

    return read


def _name(control: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 100 or not value.isprintable():
        raise InvalidControl(control, f"expected a name, got {_shown(value)}")
    return value


def _flag(control: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidControl(control, f"expected true or false, got {_shown(value)}")


def _underscored(value: Any) -> bool:
    """Python reads "1_0" as 10; a control does not."""
    return isinstance(value, str) and "_" in value


def _shown(value: Any) -> str:
    return repr(value)[:80]


_SLO: dict[str, Callable[[str, Any], Any]] = {
    "latency_ms": _number(0, MAX_LATENCY_MS, "milliseconds above 0, at most a day", above=True),
    "ttft_ms": _number(0, MAX_LATENCY_MS, "milliseconds above 0, at most a day", above=True),
    "tpot_ms": _number(0, MAX_LATENCY_MS, "milliseconds above 0, at most a day", above=True),
    "cost_usd": _number(0, 1e6, "US dollars above 0", above=True),
    "quality": _number(0, 1, "an accuracy from 0 to 1"),
    "objective": _choice(*OBJECTIVES),
    "mode": _choice(*MODES),
}
_TTS: dict[str, Callable[[str, Any], Any]] = {
    "strategy": _name,
    "n": _whole(1, MAX_N),
    "max_tokens": _whole(1, 10_000_000),
    "task": _name,
    "progress": _flag,
}
_HEADERS: dict[bytes, tuple[str, str]] = {
    **{f"x-slo-{key.replace('_', '-')}".encode(): ("slo", key) for key in _SLO},
    **{f"x-llm-d-slo-{key}-ms".encode(): ("slo", f"{key}_ms") for key in ("ttft", "tpot")},
    **{f"x-tts-{key.replace('_', '-')}".encode(): ("tts", key) for key in _TTS if key != "progress"},
}
_NUMBERS = frozenset({*_SLO, "n", "max_tokens"} - {"objective", "mode"})
CONTROL_HEADERS = tuple(sorted(name.decode() for name in _HEADERS))
_PREFIXES = (b"x-slo-", b"x-tts-", b"x-llm-d-slo-")


def split_model(model: str) -> tuple[str, str | None]:
    """`name@strategy:n` into name and suffix; a name without `@` has none."""
    name, at, suffix = model.rpartition("@")
    return (name, suffix) if at else (model, None)


def read(headers: list[tuple[bytes, bytes]], slo: Any, tts: Any, suffix: str | None, defaults: SloDefaults) -> Controls:
    """Merge the spellings. `slo`, `tts`: the body's members, None where absent. Raises InvalidControl."""
    if slo is None and tts is None and suffix is None and defaults.latency_ms is None and defaults.cost_usd is None:
        for name, _ in headers:
            if name.startswith(_PREFIXES):
                break
        else:
            return NO_CONTROLS  # the plain request, which most are
    slo_values: dict[str, Any] = {}
    tts_values: dict[str, Any] = {}
    params: dict[str, Any] = {}
    if suffix is not None:
        tts_values.update(_from_suffix(suffix))
    _from_body("slo", slo, _SLO, slo_values, None)
    _from_body("tts", tts, _TTS, tts_values, params)
    _from_headers(headers, slo_values, tts_values)
    given = bool(slo_values or tts_values or params)
    if defaults.latency_ms is not None and "latency_ms" not in slo_values:
        slo_values["latency_ms"], given = defaults.latency_ms, True
    if defaults.cost_usd is not None and "cost_usd" not in slo_values:
        slo_values["cost_usd"], given = defaults.cost_usd, True
    if not given:
        return NO_CONTROLS
    strict = slo_values.pop("mode", "best-effort") == "strict"
    if params and tts_values.get("strategy") in (None, "auto"):
        raise InvalidControl(f"tts.{next(iter(params))}", "unknown, or a parameter that needs tts.strategy to be set")
    return Controls(slo=Slo(**slo_values, strict=strict), params=params, given=True, **tts_values)


NO_CONTROLS = Controls()


def _from_suffix(suffix: str) -> dict[str, Any]:
    strategy, colon, n = suffix.partition(":")
    values: dict[str, Any] = {"strategy": _name("model suffix", strategy)}
    if colon:
        values["n"] = _TTS["n"]("model suffix", n)
    return values


def _from_body(
    member: str,
    given: Any,
    known: Mapping[str, Callable[[str, Any], Any]],
    values: dict[str, Any],
    params: dict[str, Any] | None,
) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise InvalidControl(member, f"expected an object, got {_shown(given)}")
    for key, value in given.items():
        if key in known:
            if value is not None:
                if isinstance(value, str) and key in _NUMBERS:  # only headers write numbers as text
                    raise InvalidControl(f"{member}.{key}", f"expected a number, got {_shown(value)}")
                values[key] = known[key](f"{member}.{key}", value)
        elif params is not None:
            params[key] = value  # the strategy's own; the registry checks them
        else:
            raise InvalidControl(f"{member}.{key}", f"unknown; known are {', '.join(known)}")


def _from_headers(headers: list[tuple[bytes, bytes]], slo_values: dict[str, Any], tts_values: dict[str, Any]) -> None:
    seen: set[tuple[str, str]] = set()
    for name, raw in headers:
        if not name.startswith(_PREFIXES):
            continue
        shown = name.decode("latin-1")
        if name not in _HEADERS:
            raise InvalidControl(shown, f"unknown control header; known are {', '.join(CONTROL_HEADERS)}")
        member, key = _HEADERS[name]
        if (member, key) in seen:
            raise InvalidControl(shown, "given twice")
        seen.add((member, key))
        value = raw.decode("latin-1").strip()
        target, known = (slo_values, _SLO) if member == "slo" else (tts_values, _TTS)
        target[key] = known[key](shown, value)
