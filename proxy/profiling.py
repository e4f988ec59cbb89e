"""Profiling one backend of a configuration: reach it, make sure that it is idle, measure, fit, write."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import platform
import random
import struct
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from profiler import check, profile_file
from profiler.cell_choice import CellChoice, Limits
from profiler.cell_log import CellLog
from profiler.fit import FitError
from profiler.measure import Measured, measure, measure_cell
from profiler.profile_file import Profile
from profiler.tasks import Task
from proxy import load_metrics
from proxy.backend import Backend
from proxy.bench import EngineBench, EngineFailed
from proxy.config import BackendConfig
from proxy.engine_flags import largest_graph_batch, max_num_batched_tokens, max_num_seqs

DEFAULT_MAX_LEN = 4096
VOCABULARY = range(5, 260)
# An n-gram drafter proposes only what the context has had before: after a prompt of four tokens it mostly finds
# something, so that verifying is part of what is measured, as under the traffic that one speculates for.
REPETITIVE = (40, 41, 42, 43)
IDLE_LOOKS, IDLE_LOOK_EVERY_S = 3, 0.3
TASK_QUESTIONS = 24

Progress = Callable[[list[Measured], Profile | None], None]


class EngineBusy(EngineFailed):
    """The engine runs requests of others: what is measured would not be its own speed."""


@dataclass(frozen=True, slots=True)
class Job:
    """`task`: the model's own, for the acceptance of drafts; `busy_ok`: measure beside others' requests."""

    backend: Backend
    path: Path
    budget_s: float
    task: Task | None = None
    busy_ok: bool = False

    @property
    def config(self) -> BackendConfig:
        return self.backend.config


async def profile(job: Job, progress: Progress) -> Profile:
    """Measure, fit and write. Raises EngineFailed, EngineBusy, EngineShared, FitError."""
    bench = EngineBench(job.backend)
    card, version = await _reach(job.backend, bench)
    await _idle(job, bench)
    limits = await _limits(job, bench, card)
    environment = {**_environment(job.config, card, version), "kv_cache_tokens": limits.kv_tokens}
    journal = CellLog.beside(job.path, environment)
    measured = journal.resume()
    choice = CellChoice(limits, job.budget_s)
    measuring = measure(bench, choice, _vocabulary(job.config), time.monotonic, measured, alone=not job.busy_ok)
    async with aclosing(measuring) as cells:
        async for one in cells:
            journal.append(one)
            measured.append(one)
            progress(measured, _fitted(job, environment, measured, limits))
    made = await _finish(job, bench, environment, measured, limits)
    profile_file.write(made, job.path)
    journal.remove()
    return made


async def check_profile(job: Job, cells: int = 6) -> check.Check:
    """Measure a few cells of the profile at `job.path` again. Raises as `profile` does, and ProfileError."""
    known = profile_file.read(job.path)
    bench, rng = EngineBench(job.backend), random.Random(time.time_ns())
    await _reach(job.backend, bench)
    await _idle(job, bench)
    vocabulary, again = _vocabulary(job.config), []
    await bench.run([[VOCABULARY[0]] * 32] * 2, 16)  # wakes the engine up
    for spec in check.specs_to_check(known, cells):
        again.append(await measure_cell(bench, spec, vocabulary, rng, alone=not job.busy_ok))
    return check.compare(known, again)


def _vocabulary(config: BackendConfig) -> tuple[int, ...]:
    return REPETITIVE if (config.speculative or {}).get("method") == "ngram" else tuple(VOCABULARY)


async def _finish(
    job: Job, bench: EngineBench, environment: dict[str, Any], measured: list[Measured], limits: Limits
) -> Profile:
    acceptance = None
    if job.config.speculative and job.task is not None:
        acceptance = await task_acceptance(bench, job.task)
    cells = [one.cell for one in measured]
    return profile_file.make(job.config.name, environment, cells, limits.max_batch, acceptance)


def _fitted(job: Job, environment: dict[str, Any], measured: list[Measured], limits: Limits) -> Profile | None:
    try:
        return profile_file.make(job.config.name, environment, [one.cell for one in measured], limits.max_batch)
    except FitError:
        return None


async def task_acceptance(bench: EngineBench, task: Task, questions: int = TASK_QUESTIONS) -> float:
    """Tokens that a step gives a branch on the task's own questions, greedy, by the engine's counters."""
    before = await bench.counters()
    for question in task.questions[:questions]:
        await bench.chat(question.question, 1, temperature=0, max_tokens=512)
    after = await bench.counters()
    generated, accepted = after.generated - before.generated, after.accepted - before.accepted
    return float(generated / max(generated - accepted, 1.0))


async def _idle(job: Job, bench: EngineBench) -> None:
    """Raises EngineBusy."""
    if job.busy_ok:
        return
    for _ in range(IDLE_LOOKS):
        load = load_metrics.parse(await bench.metrics())
        if load.running + load.waiting:
            raise EngineBusy(
                f"backend {job.config.name} runs {load.running + load.waiting:.0f} requests of others: measured beside "
                "them it looks slower than it is. Take it out of service, or give --busy-ok"
            )
        await asyncio.sleep(IDLE_LOOK_EVERY_S)


async def _limits(job: Job, bench: EngineBench, card: _Card) -> Limits:
    max_batch = max_num_seqs(job.config)
    if max_batch < 2:
        raise EngineFailed(
            f"backend {job.config.name} runs one request at a time (max-num-seqs {max_batch}): there are no batches to "
            "profile. Raise max-num-seqs, or leave `profile` out of its configuration"
        )
    max_len = card.max_model_len or DEFAULT_MAX_LEN
    kv_tokens = load_metrics.kv_capacity_tokens(await bench.metrics())
    cliff = largest_graph_batch(job.config)
    return Limits(max_batch, max_len, kv_tokens or float(max_len * max_batch), cliff=cliff)


class _Card(msgspec.Struct):
    """A model as the engine lists it."""

    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Version(msgspec.Struct):
    version: str | None = None


async def _reach(backend: Backend, bench: EngineBench) -> tuple[_Card, str | None]:
    """The engine's own card of the model, and vLLM's version. Raises EngineFailed."""
    try:
        version = msgspec.json.decode(await bench.get("/version"), type=_Version).version
        cards = msgspec.json.decode(await bench.get("/v1/models"), type=_Cards).data
    except msgspec.DecodeError as error:
        raise EngineFailed(f"backend {backend.name} at {backend.config.url} is no vLLM: {error}") from error
    card = next((card for card in cards if card.id == backend.model), None)
    if card is None:
        served = ", ".join(card.id for card in cards)
        raise EngineFailed(f"backend {backend.name} serves {served}, not {backend.model}")
    return card, version


def _environment(config: BackendConfig, card: _Card, version: str | None) -> dict[str, Any]:
    environment: dict[str, Any] = {
        "vllm": version,
        "model": card.id,
        "model_path": Path(card.root or "").name,
        "parameters": _parameters(config),
        "tensor_parallel_size": config.tensor_parallel_size,
        "speculative": config.speculative,
        "max_num_batched_tokens": max_num_batched_tokens(config),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
    return {key: value for key, value in environment.items() if value is not None}


def _parameters(config: BackendConfig) -> int | None:
    """The model's number of weights, where its safetensors files lie on this machine."""
    files = sorted(Path(config.launch.model).glob("*.safetensors")) if config.launch else []
    return sum(map(_weights_in, files)) or None


def _weights_in(path: Path) -> int:
    """From the file's header: eight bytes of length, then JSON with every tensor's shape."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    return int(sum(np.prod(entry["shape"]) for name, entry in tensors.items() if name != "__metadata__"))
