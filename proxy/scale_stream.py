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
from proxy.errors import ProxyError, envelope
from proxy.fanout import Run
from proxy.sse import DONE, KEEP_ALIVE, event
from proxy.upstream.connection import Headers
from strategies.base import Outcome

KEEP_ALIVE_EVERY_S = 2.0
PAUSE_AT_EVENTS = 256


class Events:
    """Payloads of a lone branch on their way to the client."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.arrived = asyncio.Event()

    def put(self, payload: bytes) -> None:
        self.waiting.append(payload)
        self.arrived.set()


class StreamedReply:
    """One SSE response. `sent_content`: the client has part of an answer, so no other backend may start over."""

    def __init__(self, send: Send, call: Call) -> None:
        self._send = send
        self._call = call
        self._created = int(time.time())
        self.started = False
        self.sent_content = False

    async def start(self, headers: Headers) -> None:
        """Status, headers and a first comment: the stream is valid from here on. A second plan changes no header."""
        if self.started:
            return
        self.started = True
        own = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await self._send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
        await self._write(KEEP_ALIVE)

    async def while_running(self, strategy: Coroutine[Any, Any, Outcome], run: Run, events: Events | None) -> Outcome:
        """Run the strategy in a task of its own; meanwhile relay a lone branch's events, or keep the stream alive."""
        task = asyncio.get_running_loop().create_task(strategy)
        try:
            if events is None:
                while not (await asyncio.wait({task}, timeout=KEEP_ALIVE_EVERY_S))[0]:
                    await self._write(KEEP_ALIVE)
            else:
                task.add_done_callback(lambda _: events.arrived.set())
                await self._relay_events(task, run, events)
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _relay_events(self, task: asyncio.Task[Outcome], run: Run, events: Events) -> None:
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
            paused = len(events.waiting) > PAUSE_AT_EVENTS
            exchange = run.branches[-1].exchange if run.branches else None
            if paused and exchange is not None:
                exchange.pause()
            chunks = [event(reply.chunk(payload, 0)) for payload in events.waiting]
            events.waiting.clear()
            self.sent_content = True
            await self._write(b"".join(chunks))
            if paused and exchange is not None:
                exchange.resume()

    async def finish(self, winners: Sequence[BranchStream], usage: reply.Usage, trace_id: str, model: str) -> None:
        """The winners' chunks (those not sent live), an ending for a cut one, the usage where asked for, [DONE]."""
        call, parts = self._call, list[bytes]()
        for index, branch in enumerate(winners):
            if not self.sent_content:
                parts += [event(reply.chunk(payload, index)) for payload in branch.events]
            if branch.finish_reason is None:
                last = branch.events[-1] if branch.events else None
                parts.append(event(reply.final_chunk(last, index, call.chat, trace_id, model, self._created)))
        if call.include_usage:
            last = winners[0].events[-1] if winners[0].events else None
            parts.append(event(reply.usage_chunk(last, usage, call.chat, trace_id, model, self._created)))
        parts.append(event(DONE))
        await self._write(b"".join(parts), more=False)

    async def fail(self, error: ProxyError) -> None:
        """An error after the status line: OpenAI clients raise it from this event."""
        await self._write(event(msgspec.json.encode(envelope(error))) + event(DONE), more=False)

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
