"""Runs strategies on labelled questions through a running proxy, and keeps what each request was, cost and took.

All settings are asked each question in turn, so that whatever changes meanwhile changes for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from profiler.marking import Generated, Marking
from profiler.runs import AUTO, UNANSWERED, Run, Span, waves_of
from profiler.tasks import Task, TaskQuestion

LIMITS = frozenset({"latency_ms", "ttft_ms", "tpot_ms", "cost_usd", "quality", "objective"})  # of `slo`
TRACE_WAIT_S = 5.0
TRIES = 5


class AskFailed(Exception):
    """The proxy did not answer a question; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A strategy as a request pins it. `params`: its own, beside what it has by default, and limits of the SLO
    (`latency_ms=2000`); of `auto`, the planner's own choice, limits alone."""

    strategy: str
    params: dict[str, Any]
    greedy: bool = False

    @property
    def limits(self) -> dict[str, Any]:
        return {name: value for name, value in self.params.items() if name in LIMITS}

    @property
    def own(self) -> dict[str, Any]:
        return {name: value for name, value in self.params.items() if name not in LIMITS}

    @classmethod
    def parse(cls, text: str) -> Setting:
        """`best-of-n:n=8,scorer=reward`; `none:greedy` is one answer at temperature 0. Raises ValueError."""
        name, _, rest = text.partition(":")
        params: dict[str, Any] = {}
        greedy = False
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if part == "greedy" and name == "none":
                greedy = True
            elif part == "greedy":
                params["greedy"] = True
            elif not equals:
                raise ValueError(f"{text!r}: expected NAME:key=value,… (or NAME:greedy), got {part!r}")
            else:
                params[key] = _value(value)
        return cls(name, params, greedy)


def _value(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


@dataclass(frozen=True, slots=True)
class Asking:
    """Whom to ask what. `temperature`: of sampled requests; `parallel`: requests at a time."""

    url: str
    model: str
    task: Task
    temperature: float = 1.0
    max_tokens: int | None = None
    parallel: int = 1
    api_key: str | None = None


async def ask_all(
    asking: Asking, settings: Sequence[Setting], done: frozenset[tuple[str, str]] = frozenset()
) -> AsyncIterator[Run]:
    """Every question with every setting, but those of `done`: (question, setting's key). Raises AskFailed,
    httpx.HTTPError."""
    headers = {"authorization": f"Bearer {asking.api_key}"} if asking.api_key else {}
    jobs = [
        (question, setting)
        for question in asking.task.questions
        for setting in settings
        if (question.question, key_of(setting)) not in done
    ]
    async with httpx.AsyncClient(base_url=asking.url, timeout=600, headers=headers, trust_env=False) as client:
        gate, pending = asyncio.Semaphore(asking.parallel), set[asyncio.Task[Run]]()

        async def one(question: TaskQuestion, setting: Setting) -> Run:
            try:
                return await _ask(client, asking, question, setting)
            finally:
                gate.release()

        try:
            for question, setting in jobs:
                await gate.acquire()
                pending.add(asyncio.create_task(one(question, setting)))
                for task in [task for task in pending if task.done()]:
                    pending.discard(task)
                    yield task.result()
            while pending:
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    yield task.result()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)


def key_of(setting: Setting) -> str:
    """One text per setting, as the client gave it."""
    told = [f"{name}={value}" for name, value in sorted(setting.params.items())] + ["greedy"] * setting.greedy
    return f"{setting.strategy}{':' if told else ''}{','.join(told)}"


async def _ask(client: httpx.AsyncClient, asking: Asking, question: TaskQuestion, setting: Setting) -> Run:
    auto = setting.strategy == AUTO
    body: dict[str, Any] = {
        "model": asking.model,
        "messages": [{"role": "user", "content": question.question}],
        # An SLO, however loose: without any the plainest request passes through, and nothing is told of it.
        "slo": {"latency_ms": 600_000, **setting.limits},
        "tts": {"strategy": setting.strategy, **setting.own},
    }
    if not auto and not setting.params.get("greedy"):  # these are for requests that leave the temperature open
        body["temperature"] = 0 if setting.greedy else asking.temperature
    if asking.max_tokens is not None:
        body["max_tokens"] = asking.max_tokens
    for attempt in range(TRIES):
        trace_id = uuid4().hex
        context = {"traceparent": f"00-{trace_id}-{trace_id[:16]}-01"}
        began = time.perf_counter()
        response = await client.post("/v1/chat/completions", json=body, headers=context)
        latency_ms = (time.perf_counter() - began) * 1e3
        if response.status_code != 503:
            break
        await asyncio.sleep(attempt + 1.0)  # an engine or a reward model that does not serve now
    if setting.limits and response.status_code == 504:  # too late with nothing to show: an answer that is not right
        return _missed(asking, setting, question, await written_trace(client, trace_id))
    if response.status_code != 200:
        raise AskFailed(f"{key_of(setting)}: the proxy answered {response.status_code}: {response.text[:300]}")
    answer = response.json()
    tts = answer["usage"]["tts"]
    trace = await written_trace(client, tts["trace_id"])
    backend = trace["plan"]["backend"]
    own = [row for row in trace["branches"] if row["backend"] == backend and row.get("end_ms") is not None]
    waves, covered_ms = waves_of([Span(r["start_ms"], r["end_ms"], r.get("completion_tokens", 0)) for r in own])
    aside = sum(row["gpu_seconds"] for row in trace["branches"] if row["backend"] != backend)
    message = answer["choices"][0]["message"]
    return Run(
        model=trace["plan"]["model"],
        task=asking.task.name,
        strategy=setting.strategy,
        params=_params(setting, trace),
        greedy=setting.greedy,
        question=question.question,
        correct=await _correct(_text(message), question, asking.task),
        latency_ms=round(latency_ms, 3),
        tokens=answer["usage"]["completion_tokens"],
        waves=waves,
        cost_usd=tts["cost_usd"],
        aside_ms=round(max(0.0, trace["latency_ms"] - covered_ms), 3),
        aside_gpu_s=round(aside, 9),
        backend=backend,
        key=key_of(setting),
        note=tts.get("note"),
        limits={} if auto else setting.limits,
    )


def _params(setting: Setting, trace: dict[str, Any]) -> dict[str, Any]:
    """By which runs of one setting are told together: with a strategy's defaults, unless some may have had no plan."""
    if setting.strategy == AUTO:
        return setting.params
    return setting.own if setting.limits else trace["plan"].get("params", {})


def _missed(asking: Asking, setting: Setting, question: TaskQuestion, trace: dict[str, Any]) -> Run:
    """It cost all the same."""
    return Run(
        model=asking.model,
        task=asking.task.name,
        strategy=setting.strategy,
        params=_params(setting, trace),
        question=question.question,
        correct=False,
        latency_ms=round(trace["latency_ms"], 3),
        tokens=trace.get("completion_tokens", 0),
        waves=[],
        cost_usd=(trace.get("ledgers") or {}).get("attributed", {}).get("usd"),
        key=key_of(setting),
        note=UNANSWERED,
        limits={} if setting.strategy == AUTO else setting.limits,
    )


def _text(message: dict[str, Any]) -> str:
    reasoning, content = message.get("reasoning") or message.get("reasoning_content"), message.get("content") or ""
    return f"<think>{reasoning}</think>{content}" if reasoning else content


async def _correct(text: str, question: TaskQuestion, task: Task) -> bool:
    return (await Marking(task.answers, question.answer).mark(Generated(text, 0, ""))).correct


async def written_trace(client: httpx.AsyncClient, trace_id: str) -> dict[str, Any]:
    """Of a running proxy. Raises AskFailed where it is not written in time."""
    end = time.monotonic() + TRACE_WAIT_S
    while time.monotonic() < end:
        response = await client.get(f"/v1/traces/{trace_id}")
        if response.status_code == 200:
            found: dict[str, Any] = response.json()
            return found
        await asyncio.sleep(0.02)
    raise AskFailed(f"the trace {trace_id} was not written within {TRACE_WAIT_S:g} s; are traces turned off?")
