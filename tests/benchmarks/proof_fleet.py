"""What the proof runs on: ten engines timed by the shipped H200 profiles, two models that answer with stored samples,
and the workloads. Everything is written below build/proof, as an operator's own files.

The service sees the profiles as shipped. The engines differ from them as real ones do: where nobody measured a
tensor-parallel degree (`modelled`), the engine is off by a constant factor, drawn once from that profile's own residual
spread; every engine's pace also moves by the residual of the measured profile.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import yaml

import profiler
from profiler import profile_file, quality_file
from profiler.loadtest.workload import ArrivalsConfig, ClassConfig, PhaseConfig, SloConfig, Workload
from profiler.profile_file import Profile
from profiler.quality_file import StoredQuestion
from strategies.registry import Registry

SHIPPED = Path(profiler.__file__).parent / "profiles"
POOLS = Path(profiler.__file__).parent / "tinymath" / "quality"
LENGTH_FACTOR = 4  # tinymath's answers are short: this long, they take a large model seconds, as reasoning does
MAX_NUM_SEQS = 64
MAX_NUM_BATCHED_TOKENS = 2048  # less than the GPU's default: a burst of prompts holds up those that decode for less
GPU_HOUR_USD = 3.0
ANY, LARGE, SMALL = "any", "large", "small"
POOL_OF = {LARGE: "tinymath-m", SMALL: "tinymath-s"}
TASK = "tinymath"
TRUTH_SEED = 5


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One engine of the fleet. `profile`: the shipped file it is timed by."""

    name: str
    model: str
    profile: str
    gpus: int


def _kind(model: str, gpus: int, drafts: str = "") -> EngineKind:
    size = {LARGE: "8b", SMALL: "1.7b"}[model]
    modelled = "-modelled" if gpus > 1 else ""
    name = f"{model}-tp{gpus}{drafts}"
    return EngineKind(name, model, f"h200-qwen3-{size}-tp{gpus}{drafts}{modelled}.json", gpus)


ENGINES = (
    _kind(LARGE, 1),
    _kind(LARGE, 1, "-ngram"),
    _kind(LARGE, 2),
    _kind(LARGE, 2, "-ngram"),
    _kind(LARGE, 4),
    _kind(LARGE, 4, "-ngram"),
    _kind(SMALL, 1),
    _kind(SMALL, 1, "-ngram"),
    _kind(SMALL, 2, "-ngram"),
    _kind(SMALL, 4),
)


@dataclass(frozen=True, slots=True)
class FleetFiles:
    """`config`: what the service reads; `truth`: what the engines are; `patient`: as `config`, its tables without
    early stops; `in_turn`: as `config`, but the service gives no priorities, and engines serve who came first."""

    config: Path
    truth: Path
    patient: Path
    in_turn: Path


def write_fleet(folder: Path) -> FleetFiles:
    """All files of the fleet."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ENGINES:
        told = _limited(profile_file.read(SHIPPED / kind.profile))
        profile_file.write(told, folder / f"{kind.name}.json")
        profile_file.write(_truth(told, kind), folder / f"{kind.name}.truth.json")
    for model, pool in POOL_OF.items():
        _write_pool(model, pool, folder)
    return FleetFiles(
        config=_write_config(folder, "fleet"),
        truth=_write_config(folder, "truth", ".truth"),
        patient=_write_config(folder, "patient"),
        in_turn=_write_config(folder, "in-turn", by_priority=False),
    )


def _limited(profile: Profile) -> Profile:
    return msgspec.structs.replace(profile, max_num_seqs=MAX_NUM_SEQS)


def _truth(told: Profile, kind: EngineKind) -> Profile:
    """The engine behind a profile."""
    if not told.environment.get("modelled"):
        return told
    measured = profile_file.read(SHIPPED / kind.profile.replace(f"tp{kind.gpus}", "tp1").replace("-modelled", ""))
    factor = exp(told.residual_sigma * Random(f"{TRUTH_SEED} {kind.name}").gauss(0.0, 1.0))
    step = told.step_time
    slower = replace(
        step,
        step_s=tuple(seconds * factor for seconds in step.step_s),
        c_kv_s=step.c_kv_s * factor,
        c_shared_s=step.c_shared_s * factor,
        p_tok_s=step.p_tok_s * factor,
    )
    return msgspec.structs.replace(told, step_time=slower, residual_sigma=measured.residual_sigma)


def true_factor(kind: EngineKind) -> float:
    """How much slower than its profile an engine is."""
    told = profile_file.read(SHIPPED / kind.profile)
    return _truth(told, kind).step_time.step_s[0] / told.step_time.step_s[0]


def _write_pool(model: str, pool: str, folder: Path) -> None:
    """Samples and tables of a model, every length scaled; also the tables of votes that wait for all."""
    questions = [_longer(question) for question in quality_file.read_samples(POOLS / f"{pool}.{TASK}.samples.jsonl")]
    table = json.loads((POOLS / f"{pool}.{TASK}.quality.json").read_bytes())
    for curve in table["curves"]:
        curve["lengths"] = _scaled(curve["lengths"])
        curve["later"] = _scaled(curve.get("later", []))
    for budget in table["budgets"]:
        budget["tokens"] = _scaled(budget["tokens"])
    table["lengths"] = None
    table["model"] = model
    quality = msgspec.convert(table, quality_file.Quality)
    lines = b"".join(msgspec.json.encode(question) + b"\n" for question in questions)
    for name, told in ((model, quality), (f"{model}-patient", _patient(quality, questions))):
        quality_file.write(told, folder / f"{name}.{TASK}.quality.json")
        (folder / f"{name}.{TASK}.samples.jsonl").write_bytes(lines)


def _patient(quality: quality_file.Quality, questions: list[StoredQuestion]) -> quality_file.Quality:
    """The table of a proxy that knows no early stop: votes wait for every branch."""
    registry = Registry.installed()
    curves = [curve for curve in quality.curves if curve.strategy == "none"]
    for n in (2, 3, 4, 5, 6, 8, 10, 12, 16):
        strategy = registry.build("self-consistency", {"n": n, "stop": "all"})
        params = strategy.params.model_dump()
        curves.append(quality_file.curve("self-consistency", params, strategy.shape(), questions, greedy=False))
    return msgspec.structs.replace(quality, curves=curves, budgets=[], agreement=[])


def _longer(question: StoredQuestion) -> StoredQuestion:
    samples = [msgspec.structs.replace(s, tokens=s.tokens * LENGTH_FACTOR) for s in question.samples]
    greedy = msgspec.structs.replace(question.greedy, tokens=question.greedy.tokens * LENGTH_FACTOR)
    return msgspec.structs.replace(question, greedy=greedy, samples=samples)


def _scaled(lengths: Any) -> Any:
    return [_scaled(row) for row in lengths] if isinstance(lengths, list) else lengths * LENGTH_FACTOR


def read_pool(folder: Path, model: str) -> list[StoredQuestion]:
    """A model's scaled samples."""
    return list(quality_file.read_samples(folder / f"{model}.{TASK}.samples.jsonl"))


def _write_config(folder: Path, name: str, suffix: str = "", *, by_priority: bool = True) -> Path:
    tables = "-patient" if name == "patient" else ""
    models: list[dict[str, Any]] = []
    for model in (LARGE, SMALL):
        backends = [_backend(kind, folder, suffix, by_priority=by_priority) for kind in ENGINES if kind.model == model]
        quality = {TASK: f"{model}{tables}.{TASK}.quality.json"}
        models.append({"name": model, "task": TASK, "quality": quality, "backends": backends})
    models.append({"name": ANY, "any_of": [LARGE, SMALL]})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"traces": {"path": None}, "models": models}))
    return path


def _backend(kind: EngineKind, folder: Path, suffix: str, *, by_priority: bool) -> dict[str, Any]:
    args: dict[str, Any] = {"max-num-seqs": MAX_NUM_SEQS, "max-num-batched-tokens": MAX_NUM_BATCHED_TOKENS}
    if by_priority:
        args["scheduling-policy"] = "priority"
    speculative = profile_file.read(folder / f"{kind.name}.json").environment.get("speculative")
    return {
        "name": kind.name,
        "url": f"http://{kind.name}:8000",
        "tensor_parallel_size": kind.gpus,
        "gpus": kind.gpus,
        "gpu_hour_usd": GPU_HOUR_USD,
        "speculative": speculative,
        "profile": f"{kind.name}{suffix}.json",
        "launch": {"model": kind.model, "args": args},
    }


# -- traffic --

CLASSES = (
    ClassConfig(name="interactive", share=0.5, slo=SloConfig(latency_ms=12_000)),
    ClassConfig(name="careful", share=0.3, slo=SloConfig(latency_ms=25_000, quality=0.60)),
    ClassConfig(name="batch", share=0.2, slo=SloConfig(latency_ms=60_000, quality=0.70, objective="cost")),
)


@dataclass(frozen=True, slots=True)
class Load:
    """A low level, a step, a high level: requests/s and seconds each."""

    low: float
    high: float
    low_s: float
    high_s: float


FULL = Load(low=4, high=30, low_s=25, high_s=25)
QUICK = Load(low=4, high=30, low_s=10, high_s=10)
SWEEP = tuple(Load(low=4, high=high, low_s=25, high_s=25) for high in (8, 14, 22, 30, 40))
PROCESSES = {"poisson": None, "bursty": 3.0}  # coefficient of variation of the gaps


def workload(process: str, load: Load, seed: int = 1) -> Workload:
    """Labelled questions in three classes."""
    cv = PROCESSES[process]
    phases = [PhaseConfig(rate=load.low, for_s=load.low_s), PhaseConfig(rate=load.high, for_s=load.high_s)]
    arrivals = ArrivalsConfig(process="poisson" if cv is None else "gamma", cv=cv, phases=phases)
    return Workload(arrivals=arrivals, classes=list(CLASSES), seed=seed, task=TASK, model=ANY)


def right_answers(pools: Sequence[Sequence[StoredQuestion]]) -> dict[str, frozenset[str]]:
    """Per question the ways in which its right answer was written."""
    found: dict[str, set[str]] = {}
    for questions in pools:
        for question in questions:
            right = found.setdefault(question.question, {question.answer})
            right |= {s.answer for s in (question.greedy, *question.samples) if s.correct and s.answer is not None}
    return {question: frozenset(answers) for question, answers in found.items()}
