"""The load tester's way to a server: the data path's own client, without a task, a queue or a copy per chunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from profiler.loadtest import LoadTestError
from profiler.loadtest.result import Result
from profiler.loadtest.schedule import Planned
from proxy.load_answers import Answer, StreamedAnswer, WholeAnswer
from proxy.trace_context import new_id
from proxy.upstream.connection import Exchange
from proxy.upstream.errors import UpstreamError
from proxy.upstream.fetch import fetch
from proxy.upstream.pool import Limits, Origin, Pool
from proxy.upstream.request import RequestHead

CHAT = "/v1/chat/completions"
GET_TIMEOUT_S = 10.0
TRACE_LOOKS, TRACE_LOOK_EVERY_S = 15, 0.2
TRACES_AT_A_TIME = 16


class Unreachable(LoadTestError):
    """Nothing usable answers at the URL."""


class HttpCaller:
    """Implements `profiler.loadtest.result.Caller` against any server that speaks OpenAI's HTTP.

    Every request has a trace id of ours (W3C `traceparent`), under which the proxy's traces have its costs, also where
    the client left before the answer.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        api_key: str | None = None,
        timeout_s: float = 120.0,
        max_connections: int = 65_536,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`url`: with or without `/v1`. `clock`: seconds; uvloop's own counts whole milliseconds. Raises Unreachable
        for a URL that is none."""
        try:
            origin = Origin.parse(url.rstrip("/").removesuffix("/v1"))
        except ValueError as error:
            raise Unreachable(f"--url: {error}") from None
        limits = Limits(
            max_connections=max_connections, connect_timeout_s=timeout_s, read_timeout_s=2 * timeout_s + GET_TIMEOUT_S
        )
        self.model = model
        self._url, self._origin, self._api_key = url, origin, api_key
        self._timeout_s, self._clock = timeout_s, clock
        self._pool = Pool(origin, limits)
        self._chat = RequestHead(origin, "POST", CHAT, api_key)

    async def aclose(self) -> None:
        await self._pool.aclose()

    # -- before --

    async def find_model(self) -> str:
        """The model to ask for: the one that was set, else the server's first. Raises Unreachable."""
        try:
            status, body = await self._get("/v1/models")
            names = [str(card["id"]) for card in msgspec.json.decode(body)["data"]] if status == 200 else []
        except (UpstreamError, TimeoutError) as error:
            raise Unreachable(f"no server answers at {self._url}: {error}") from None
        except (msgspec.DecodeError, KeyError, TypeError):
            raise Unreachable(f"what answers at {self._url}/v1/models is no OpenAI-compatible server") from None
        if status in (401, 403):
            raise Unreachable(f"{self._url} wants an API key (status {status}): give --api-key")
        if self.model:
            return self.model  # not looked up: a suffix such as `model@self-consistency:4` is in no list
        if not names:
            raise Unreachable(f"{self._url} lists no model (status {status}): give --model")
        self.model = names[0]
        return self.model

    # -- during --

    async def ask(self, request: Planned) -> Result:
        result = Result.of(request)
        result.trace_id = new_id()
        answer: Answer = StreamedAnswer(result, self._clock) if request.stream else WholeAnswer(result, self._clock)
        body = msgspec.json.encode(request.members(self.model))
        lines = _lines({"traceparent": f"00-{result.trace_id}-{result.trace_id[:16]}-01", **request.controls()})
        patience_s = self._timeout_s if request.leave_after_s is None else request.leave_after_s
        exchange = self._send(self._chat.with_body(body, lines), answer)
        try:
            async with asyncio.timeout(min(patience_s, self._timeout_s)):
                await answer.done
        except TimeoutError:
            if request.leave_after_s is not None and request.leave_after_s < self._timeout_s:
                result.outcome = "cancelled"
            else:
                result.outcome, result.error = "error", f"no whole answer within {self._timeout_s:g} s"
        finally:
            exchange.cancel()  # closes the connection, unless the answer is whole
        return result

    def _send(self, request: bytes, answer: Answer) -> Exchange:
        answer.began = self._clock()
        return self._pool.send(request, answer)

    # -- after --

    async def read_traces(self, results: list[Result], progress: Callable[[], None] = lambda: None) -> int:
        """Complete the results from the proxy's traces: the exclusive cost, and what only they tell of answers that
        never came. Returns how many were found; 0 where the server keeps none."""
        waiting = [result for result in results if result.trace_id is not None]
        answered = [result for result in results if result.outcome == "answered"]
        is_other = bool(answered) and all(result.strategy is None for result in answered)  # no `x-tts-…` header
        if not waiting or is_other or not await self._has_traces(waiting[-1]):
            return 0
        left, found = iter(waiting), 0

        async def work() -> None:
            nonlocal found
            for result in left:
                is_there = await self._read_trace(result)  # not `+=` over it: that would add to an old sum
                found += is_there
                progress()

        async with asyncio.TaskGroup() as group:
            for _ in range(TRACES_AT_A_TIME):
                group.create_task(work())
        return found

    async def _has_traces(self, result: Result) -> bool:
        """Traces appear within a second; the last one last."""
        for _ in range(TRACE_LOOKS):
            try:
                status, body = await self._get(f"/v1/traces/{result.trace_id}")
            except (UpstreamError, TimeoutError):
                return False
            if status == 200:
                return True
            if b"trace_not_found" not in body:
                return False
            await asyncio.sleep(TRACE_LOOK_EVERY_S)
        return True  # a trace was dropped, perhaps; others may be there

    async def _read_trace(self, result: Result) -> bool:
        try:
            status, body = await self._get(f"/v1/traces/{result.trace_id}")
            trace = msgspec.json.decode(body, type=_Trace) if status == 200 else None
        except (UpstreamError, TimeoutError, msgspec.DecodeError):
            return False
        if trace is None:
            return False
        if trace.ledgers is not None:
            result.exclusive_usd = trace.ledgers.exclusive.usd
            result.cost_usd = trace.ledgers.attributed.usd if result.cost_usd is None else result.cost_usd
            result.gpu_seconds = (
                trace.ledgers.attributed.gpu_seconds if result.gpu_seconds is None else result.gpu_seconds
            )
        if trace.plan is not None and result.strategy is None:
            result.strategy, result.n, result.backend = trace.plan.strategy, trace.plan.n, trace.plan.backend
        return True

    async def _get(self, path: str) -> tuple[int, bytes]:
        return await fetch(
            self._pool, RequestHead(self._origin, "GET", path, self._api_key).with_body(b""), GET_TIMEOUT_S
        )


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


class _Amount(msgspec.Struct, frozen=True):
    gpu_seconds: float | None = None
    usd: float | None = None


class _Ledgers(msgspec.Struct):
    attributed: _Amount = _Amount()
    exclusive: _Amount = _Amount()


class _Plan(msgspec.Struct):
    strategy: str | None = None
    n: int | None = None
    backend: str | None = None


class _Trace(msgspec.Struct):
    ledgers: _Ledgers | None = None
    plan: _Plan | None = None
