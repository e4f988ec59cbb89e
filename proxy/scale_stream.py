"""The streamed answer of a scaled request: keep-alives while undecided, then the winner's chunks, usage, [DONE]."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from proxy import reply
from proxy.asgi import Send
from proxy.branch import BranchStream
from proxy.call import Call
from proxy.errors import ProxyError
from proxy.fanout import Run
from proxy.sse import DONE, KEEP_ALIVE, event
from proxy.upstream.connection import Exchange, Headers
from strategies.base import Answer, Outcome

KEEP_ALIVE_EVERY_S = 2.0
PAUSE_AT_EVENTS = 256


class Events:
    """Payloads on their way to the client while the strategy runs: a lone branch's own (`content`), whose backend is
    paused while too many wait, or the vote so far."""

    def __init__(self, *, content: bool) -> None:
        self.content = content
        self.waiting: deque[bytes] = deque()
        self.arrived = asyncio.Event()
        self.run: Run | None = None
        self._paused: Exchange | None = None

    def put(self, payload: bytes) -> None:
        self.waiting.append(payload)
        self.arrived.set()
        if self.content and len(self.waiting) > PAUSE_AT_EVENTS and self._paused is None and self.run is not None:
            self._paused = self.run.branches[-1].exchange
            if self._paused is not None:
                self._paused.pause()

    def take(self) -> list[bytes]:
        """All that wait, in order."""
        taken = list(self.waiting)
        self.waiting.clear()
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.resume()
        return taken


class VoteSoFar:
    """`tts.progress`: after every finished branch a reasoning delta that tells the vote."""

    def __init__(self, events: Events, branches: int, trace_id: str, model: str) -> None:
        self._events = events
        self._branches = branches
        self._trace_id = trace_id
        self._model = model
        self._created = int(time.time())
        self._arrived = 0
        self._votes: dict[int, int] = {}
        self._written: dict[int, str] = {}

    def add(self, answer: Answer | None) -> None:
        """One more branch has finished, with this answer."""
        self._arrived += 1
        if answer is not None:
            self._votes[answer.group] = self._votes.get(answer.group, 0) + 1
            self._written.setdefault(answer.group, answer.text)
        total = f" of {self._branches}" if self._arrived <= self._branches else ""  # a strategy may have further waves
        text = f"{self._arrived}{total} samples finished"
        if self._votes:
            leader = max(self._votes, key=self._votes.__getitem__)
            text += f"; {self._votes[leader]} say {self._written[leader]}"
        self._events.put(reply.reasoning_chunk(f"{text}\n", self._trace_id, self._model, self._created))


class StreamedReply:
    """One SSE response. `sent_content`: the client has part of an answer, so no other backend may start over."""

    def __init__(self, send: Send, call: Call) -> None:
        self._send = send
        self._call = call
        self._created = int(time.time())
        self.started = False
        self.sent_content = False
        self._id: str | None = None

    async def start(self, headers: Headers) -> None:
        """Status, headers and a first comment: the stream is valid from here on. A second plan changes no header."""
        if self.started:
            return
        self.started = True
        own = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await self._send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
        await self._write(KEEP_ALIVE)

    async def while_running(self, strategy: Coroutine[Any, Any, Outcome], run: Run, events: Events | None) -> Outcome:
        """Run the strategy in a task of its own; meanwhile relay what events there are, and keep the stream alive."""
        if events is not None:
            events.run = run
        task = asyncio.get_running_loop().create_task(strategy)
        try:
            if events is None:
                while not (await asyncio.wait({task}, timeout=KEEP_ALIVE_EVERY_S))[0]:
                    await self._write(KEEP_ALIVE)
            else:
                task.add_done_callback(lambda _: events.arrived.set())
                await self._relay_events(task, events)
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if events is not None:
                events.run = None  # it knows the events: leave no cycle behind

    async def _relay_events(self, task: asyncio.Task[Outcome], events: Events) -> None:
        while not task.done() or events.waiting:
            if not events.waiting:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_EVERY_S):
                        await events.arrived.wait()
                except TimeoutError:
                    await self._write(KEEP_ALIVE)
            events.arrived.clear()
            if not events.waiting:
                continue
            taken = events.take()
            if events.content:
                self.sent_content = True
            else:  # the winner's chunks follow under the id that these have
                self._id = reply.id_of(taken[0])
            await self._write(b"".join(event(reply.chunk(payload, 0)) for payload in taken))

    async def finish(self, winners: Sequence[BranchStream], usage: reply.Usage, trace_id: str, model: str) -> None:
        """The winners' chunks (those not sent live), an ending for a cut one, the usage where asked for, [DONE]."""
        call, chunks = self._call, list[bytes]()
        shape: bytes | None = None  # a chunk that the last one is like
        for index, branch in enumerate(winners):
            events = branch.events if self.sent_content else reply.events_of(branch, call.chat)
            if not self.sent_content:
                chunks += [reply.chunk(payload, index) for payload in events]
            last = events[-1] if events else None
            shape = shape or last
            if branch.finish_reason is None:
                chunks.append(reply.final_chunk(last, index, call.chat, trace_id, model, self._created))
        if call.include_usage:
            chunks.append(reply.usage_chunk(shape, usage, call.chat, trace_id, model, self._created))
        if self._id is not None:
            chunks = [reply.with_id(chunk, self._id) for chunk in chunks]
        await self._write(b"".join(map(event, [*chunks, DONE])), more=False)

    async def fail(self, error: ProxyError) -> None:
        """An error after the status line: OpenAI clients raise it from this event."""
        body = msgspec.json.format(error.body(), indent=-1)  # a backend's own body may have newlines; an event may not
        await self._write(event(body) + event(DONE), more=False)

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
