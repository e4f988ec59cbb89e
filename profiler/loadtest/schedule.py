"""A workload into the requests of one run, each with its time: the same seed gives the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Any

import numpy as np

from profiler.loadtest import LoadTestError, trace_file
from profiler.loadtest.arrivals import arrival_times
from profiler.loadtest.trace_file import Arrival
from profiler.loadtest.workload import ClassConfig, Workload
from profiler.tasks import Answers, Task, TaskQuestion, load_task

MAX_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Planned:
    """One request to send `at_s` seconds after the start. `leave_after_s`: when its client loses patience.

    Either `question` (with how its `answers` are compared) or `prompt_tokens`, the length of a made-up prompt.
    """

    index: int
    at_s: float
    slo_class: ClassConfig
    stream: bool
    leave_after_s: float | None
    question: TaskQuestion | None
    answers: Answers | None
    prompt_tokens: int | None
    output_tokens: int | None
    ignore_eos: bool
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """A made-up prompt starts with words of its own, so that no prefix cache makes it free; its length is about
        right: one short common word is one token in most vocabularies, and the chat template adds some."""
        if self.question is not None:
            return self.question.question
        words = self.prompt_tokens or 1
        own = Random(self.index).choices(_WORDS, k=min(words, 16))
        return " ".join(own + ["the"] * (words - len(own)))

    def members(self, model: str) -> dict[str, Any]:
        """The body of the chat completion."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": self.prompt}], **self.body}
        if self.output_tokens is not None:
            body["max_tokens"] = self.output_tokens
            if self.ignore_eos:
                body["ignore_eos"] = True
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def controls(self) -> dict[str, str]:
        """The SLO and the pins as headers, which servers that know them not ignore."""
        slo, tts = (part.model_dump(exclude_none=True) for part in (self.slo_class.slo, self.slo_class.tts))
        named = [*(("x-slo", *item) for item in slo.items()), *(("x-tts", *item) for item in tts.items())]
        return {f"{kind}-{key.replace('_', '-')}": _shown(value) for kind, key, value in named}


_WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "group",
]


@dataclass(frozen=True, slots=True)
class Schedule:
    """`lasts_s`: how long the workload sends for; rates are counted over it."""

    requests: Sequence[Planned]
    lasts_s: float


def schedule(workload: Workload) -> Schedule:
    """Raises LoadTestError, TaskError."""
    rng = Random(workload.seed)
    arrivals, lasts_s = _arrivals(workload)
    tasks = _Questions(workload)
    weights = [one.share for one in workload.classes]
    requests = []
    for index, (at_s, arrival) in enumerate(arrivals):
        one = rng.choices(workload.classes, weights)[0]
        leaves = one.leave is not None and rng.random() < one.leave.share
        question, answers = tasks.next(one)
        lengths = arrival if question is None and one.prompt_tokens is None and workload.prompt_tokens is None else None
        requests.append(
            Planned(
                index=index,
                at_s=at_s,
                slo_class=one,
                stream=rng.random() < one.stream,
                leave_after_s=rng.uniform(0, one.leave.within_s) if leaves and one.leave else None,
                question=question,
                answers=answers,
                prompt_tokens=None if question else one.prompt_tokens or workload.prompt_tokens or _prompt(lengths),
                output_tokens=one.output_tokens or workload.output_tokens or (lengths and lengths.output_tokens),
                ignore_eos=workload.ignore_eos,
                body={**workload.body, **one.body},
            )
        )
    return Schedule(requests, lasts_s)


def _prompt(lengths: Arrival | None) -> int:
    assert lengths is not None  # the workload's validation saw to it
    return lengths.prompt_tokens


def _arrivals(workload: Workload) -> tuple[list[tuple[float, Arrival | None]], float]:
    told = workload.arrivals
    if told.trace is not None:
        read = trace_file.read(told.trace, until_s=told.for_s, speedup=told.speedup)
        _limit(len(read))
        return [(arrival.at_s, arrival) for arrival in read], told.for_s or max(read[-1].at_s, 1e-3)
    phases = told.as_phases()
    _limit(sum(phase.expected for phase in phases))
    times = list(arrival_times(phases, told.process, np.random.default_rng(workload.seed), told.cv or 1.0))
    if not times:
        raise LoadTestError("the workload sends no request: raise its rate or its `for_s`")
    return [(at_s, None) for at_s in times], sum(phase.for_s for phase in phases)


def _limit(requests: float) -> None:
    if requests > MAX_REQUESTS:
        raise LoadTestError(f"the workload sends {requests:.0f} requests, at most {MAX_REQUESTS}: shorten `for_s`")


class _Questions:
    """Each class goes round its task's questions in order; classes of one task share them."""

    def __init__(self, workload: Workload) -> None:
        self._default = workload.task
        names = {one.task or workload.task for one in workload.classes if one.prompt_tokens is None}
        self._tasks: dict[str, tuple[Task, Iterator[TaskQuestion]]] = {}
        for name in filter(None, names):
            task = load_task(name)
            self._tasks[name] = task, cycle(task.questions)

    def next(self, one: ClassConfig) -> tuple[TaskQuestion | None, Answers | None]:
        name = None if one.prompt_tokens is not None else one.task or self._default
        if name is None:
            return None, None
        task, questions = self._tasks[name]
        return next(questions), task.answers


def _shown(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
