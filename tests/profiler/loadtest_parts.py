"""Workloads and results for the load tester's tests, and servers that exist in virtual time only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import yaml

from profiler.loadtest.result import Result
from profiler.loadtest.schedule import Planned
from profiler.loadtest.workload import Workload, load


def workload(**members: Any) -> Workload:
    """One class with a deadline of a second, ten requests a second for ten seconds, unless told otherwise."""
    return Workload.model_validate(
        {
            "arrivals": {"process": "constant", "rate": 10, "for_s": 10},
            "prompt_tokens": 10,
            "classes": [{"name": "one", "slo": {"latency_ms": 1000}}],
            **members,
        }
    )


def written(folder: Path, text: str | dict[str, Any]) -> Workload:
    path = folder / "load.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return load(path)


def result(index: int = 0, **members: Any) -> Result:
    """An answer after 100 ms that met its SLO, sent on time, unless told otherwise."""
    at_s = members.pop("at_s", float(index))
    told = {"slo_class": "one", "outcome": "answered", "status": 200, "latency_ms": 100.0, "met": True, **members}
    return Result(index=index, at_s=at_s, **{"sent_s": at_s, **told})


class Answers:
    """A caller that answers each request after the same time, without end of capacity."""

    def __init__(self, after_s: float = 0.1) -> None:
        self.after_s = after_s
        self.asked: list[tuple[float, Planned]] = []
        self.cancelled = 0

    async def ask(self, request: Planned) -> Result:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.asked.append((began, request))
        try:
            await asyncio.sleep(self.after_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = Result.of(request)
        answer.outcome, answer.status, answer.latency_ms = "answered", 200, (loop.time() - began) * 1e3
        return answer


class OneAtATime(Answers):
    """A caller with a single server behind it, which takes `after_s` for each request: its capacity is 1/after_s."""

    def __init__(self, after_s: float) -> None:
        super().__init__(after_s)
        self._free_at = 0.0

    async def ask(self, request: Planned) -> Result:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._free_at = max(self._free_at, began) + self.after_s
        await asyncio.sleep(self._free_at - began)
        answer = Result.of(request)
        answer.outcome, answer.status, answer.latency_ms = "answered", 200, (loop.time() - began) * 1e3
        return answer
