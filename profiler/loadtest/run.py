"""The open loop: every request leaves at its time, whatever became of those before it.

Only the event loop's time and `asyncio.sleep` are used, so a loop of virtual time runs it as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from profiler.loadtest.result import Caller, Result, met
from profiler.loadtest.schedule import Planned, Schedule


class Watch(Protocol):
    """Is told as it happens; must be quick."""

    def sent(self, request: Planned) -> None: ...
    def ended(self, result: Result) -> None: ...


@dataclass(frozen=True, slots=True)
class Ran:
    """`results` in the order of their ends. `lasted_s`: the time that sending took, which rates are counted over.
    `unfinished`: sent, but stopped before their end; `unsent`: not sent at all. Both are 0 unless interrupted."""

    results: list[Result]
    lasted_s: float
    unfinished: int = 0
    unsent: int = 0

    @property
    def interrupted(self) -> bool:
        return bool(self.unfinished or self.unsent)


async def run(
    schedule: Schedule, caller: Caller, *, watch: Watch | None = None, stop: asyncio.Event | None = None
) -> Ran:
    """Send everything and wait for all answers, or until `stop` is set: then what runs is cancelled."""
    loop_run = _Run(schedule, caller, watch)
    sending = asyncio.create_task(loop_run.send_all())
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()  # raises what is a defect of ours
    finally:
        for task in (sending, stopping):
            task.cancel()
        await asyncio.gather(sending, stopping, return_exceptions=True)
    return loop_run.ran()


class _Run:
    def __init__(self, schedule: Schedule, caller: Caller, watch: Watch | None) -> None:
        self._schedule, self._caller, self._watch = schedule, caller, watch
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._results: list[Result] = []
        self._sent = 0
        self._stopped_s = 0.0

    async def send_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for planned in self._schedule.requests:
                    ahead_s = self._began + planned.at_s - self._loop.time()
                    await asyncio.sleep(max(ahead_s, 0))  # also when late: answers must be read meanwhile
                    self._sent += 1
                    group.create_task(self._one(planned))
        finally:
            self._stopped_s = self._loop.time() - self._began

    async def _one(self, planned: Planned) -> None:
        sent_s = self._loop.time() - self._began
        if self._watch is not None:
            self._watch.sent(planned)
        result = await self._caller.ask(planned)
        result.sent_s = sent_s
        result.met = met(result, planned.slo_class.slo)
        self._results.append(result)
        if self._watch is not None:
            self._watch.ended(result)

    def ran(self) -> Ran:
        total = len(self._schedule.requests)
        lasted_s = self._schedule.lasts_s
        if len(self._results) < total:  # interrupted: maybe before the end of sending
            lasted_s = max(min(lasted_s, self._stopped_s), 1e-9)
        return Ran(self._results, lasted_s, self._sent - len(self._results), total - self._sent)
