"""Answered requests of strategies on a labelled task: what stored samples cannot tell, runs do.

A strategy that votes over whole samples is replayed on stored ones (`replay.py`). Of one that searches, refines, asks a
judge or prunes, accuracy and cost are those of requests that were really made: one line of JSON each, and from them a
curve like any other, with the work of every wave for the prediction of its latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from profiler.quality_file import DRAWS, Curve, bootstrap_lower, read_lines

AUTO = "auto"  # the planner's choice: runs of it tell what it was worth, and are no strategy that it could choose
UNANSWERED = "the deadline came before any answer"  # a run's note
LEAST_QUESTIONS = 20  # fewer say nothing that a plan should rest on


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answered request of a pinned strategy.

    `waves`: tokens of the branches on the model's own backend, those that ran at the same time together, in order of
    time; `aside_ms`: what else was waited for (scores, judges, another model), `aside_gpu_s`: and what that took.
    `key`: the setting as it was asked for. `limits`: of the request's SLO; what a limit cuts is no measure of the
    setting itself.
    """

    model: str
    task: str
    strategy: str
    params: dict[str, Any]
    question: str
    correct: bool
    latency_ms: float
    tokens: int
    waves: list[list[int]]
    greedy: bool = False
    cost_usd: float | None = None
    aside_ms: float = 0.0
    aside_gpu_s: float = 0.0
    backend: str = ""
    key: str = ""
    note: str | None = None
    limits: dict[str, Any] = {}

    @property
    def setting(self) -> tuple[str, str, bool]:
        """What runs of one curve have in common."""
        told = msgspec.json.encode([self.params, self.limits], order="sorted").decode()
        return self.strategy, told, self.greedy


def path_beside(table: Path) -> Path:
    """Where the runs of a quality table's model and task are: `M.T.runs.jsonl` beside `M.T.quality.json`."""
    return table.with_name(table.name.removesuffix(".json").removesuffix(".quality") + ".runs.jsonl")


def read(path: Path) -> Iterator[Run]:
    """Lines of a runs file, none where there is no file. Raises QualityError."""
    return read_lines(path, Run)


def by_setting(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each setting, in order of its first run."""
    found: dict[tuple[str, str, bool], list[Run]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return list(found.values())


def curves(runs: Iterable[Run]) -> list[Curve]:
    """One per setting with runs of at least `LEAST_QUESTIONS` questions; `auto` is none, nor is one under limits."""
    settings = by_setting(run for run in runs if run.strategy != AUTO and not run.limits)
    return [curve(of) for of in settings if len({run.question for run in of}) >= LEAST_QUESTIONS]


def curve(runs: Sequence[Run]) -> Curve:
    """Of one setting; every run of it is a draw of its work."""
    by_question = np.array([np.mean([run.correct for run in of]) for of in _questions(runs)])
    ordered = sorted(runs, key=lambda run: sum(max(wave, default=0) for wave in run.waves))
    chosen = [ordered[i] for i in np.linspace(0, len(ordered) - 1, min(DRAWS, len(ordered))).round().astype(int)]
    count = max(1, *(len(run.waves) for run in chosen))
    waves = [_padded([run.waves[w] if w < len(run.waves) else [] for run in chosen]) for w in range(count)]
    first = runs[0]
    return Curve(
        strategy=first.strategy,
        params=first.params,
        greedy=first.greedy,
        accuracy=round(float(by_question.mean()), 4),
        accuracy_lower=round(bootstrap_lower(by_question), 4),
        lengths=waves[0],
        later=waves[1:],
        aside_s=round(float(np.mean([run.aside_ms for run in runs])) / 1e3, 6),
        aside_gpu_s=round(float(np.mean([run.aside_gpu_s for run in runs])), 9),
        runs=len(runs),
    )


def _questions(runs: Sequence[Run]) -> list[list[Run]]:
    ordered = sorted(runs, key=lambda run: run.question)
    return [list(of) for _, of in groupby(ordered, key=lambda run: run.question)]


def _padded(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each ascending, with zeros before for branches that were not started."""
    width = max(1, *(len(row) for row in rows))
    return [[0] * (width - len(row)) + sorted(row) for row in rows]


class Span(msgspec.Struct, frozen=True):
    """One branch of a request on the timeline, in milliseconds since the request came."""

    start_ms: float
    end_ms: float
    tokens: int


def waves_of(spans: Sequence[Span]) -> tuple[list[list[int]], float]:
    """Tokens of the branches that ran at the same time together, in order; and the milliseconds that they cover."""
    waves: list[list[int]] = []
    end_ms, covered_ms = float("-inf"), 0.0
    for span in sorted(spans, key=lambda span: span.start_ms):
        if span.start_ms >= end_ms:
            waves.append([])
            covered_ms += span.end_ms - span.start_ms
        else:
            covered_ms += max(0.0, span.end_ms - end_ms)
        waves[-1].append(span.tokens)
        end_ms = max(end_ms, span.end_ms)
    return waves, covered_ms
