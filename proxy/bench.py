"""The profiler's way to an engine: through the proxy's own client and metering, so that what is measured is what
will run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from profiler.measure import Counters, Timing
from proxy import load_metrics
from proxy.backend import Backend, open_backend
from proxy.branch import BranchStream
from proxy.config import BackendConfig
from proxy.fanout import Run
from proxy.upstream.errors import UpstreamError
from proxy.upstream.fetch import fetch
from proxy.upstream.pool import Limits
from proxy.upstream_body import VOTE_STREAM_INTERVAL

GET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 30.0


def open_to_measure(config: BackendConfig, model: str) -> Backend:
    """With patience: where engines outnumber the cores a connection may take seconds, and no client waits for it.
    Raises as `open_backend` does."""
    return open_backend(config, model, None, time.monotonic, Limits(connect_timeout_s=CONNECT_TIMEOUT_S))


class EngineFailed(Exception):
    """A branch of a measurement failed; the message says how."""


class EngineBench:
    """Implements `profiler.measure.Bench` over one backend, and samples chats for quality tables."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def run(self, prompts: Sequence[Sequence[int]], output: int) -> list[Timing]:
        """Raises EngineFailed."""
        return [_timing(branch) for branch in await self._run(self._completions(prompts, output))]

    async def run_beside(
        self, beside: Sequence[Sequence[int]], beside_output: int, prompts: Sequence[Sequence[int]], output: int
    ) -> tuple[list[Timing], list[Timing]]:
        """`prompts` come when all `beside` have a first token. Raises EngineFailed."""
        requests = self._completions(beside, beside_output)
        run = self._run_of(requests)
        async with run.sample(len(requests)) as arrivals:
            while not all(branch.first_token_at or branch.ended_at for branch in run.branches):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            came = await self.run(prompts, output)
            async for _ in arrivals:
                pass
        return [_timing(branch) for branch in self._finished(run)], came

    async def counters(self) -> Counters:
        """Raises EngineFailed, MetricMissing."""
        return load_metrics.parse_counters(await self.metrics())

    async def metrics(self) -> str:
        """The engine's /metrics page. Raises EngineFailed."""
        return (await self.get("/metrics")).decode(errors="replace")

    async def get(self, path: str) -> bytes:
        """What the engine serves there. Raises EngineFailed."""
        where = f"backend {self._backend.name} at {self._backend.config.url}: {path}"
        try:
            status, body = await fetch(self._backend.pool, self._backend.get(path), GET_TIMEOUT_S)
        except (UpstreamError, TimeoutError) as error:
            raise EngineFailed(f"{where}: {error}") from error
        if status != 200:
            raise EngineFailed(f"{where} answered {status}")
        return body

    def _completions(self, prompts: Sequence[Sequence[int]], output: int) -> list[bytes]:
        """Without what traffic does not send: `min_tokens` and `allowed_token_ids` take paths of their own through an
        engine's sampler, which with drafts cost it several times a step of a small model."""
        head = self._backend.head("/v1/completions")
        common = {"model": self._backend.model, "max_tokens": output, "ignore_eos": True, **_STREAMED}
        if self._backend.config.sampling == "greedy":
            common["temperature"] = 0
        return [head.with_body(msgspec.json.encode({**common, "prompt": list(prompt)})) for prompt in prompts]

    async def chat(
        self, question: str, count: int, *, temperature: float, max_tokens: int, logprobs: bool = False
    ) -> list[BranchStream]:
        """`count` full answers to one question, sampled together; `token_logprobs` reads what `logprobs` asks for.
        Raises EngineFailed."""
        body: dict[str, Any] = {
            "model": self._backend.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": temperature,
            "max_tokens": max_tokens,
            **_STREAMED,
        }
        if logprobs:
            body["logprobs"] = True
        request = self._backend.head("/v1/chat/completions").with_body(msgspec.json.encode(body))
        return await self._run([request] * count)

    async def _run(self, requests: Sequence[bytes]) -> list[BranchStream]:
        run = self._run_of(requests)
        async with run.sample(len(requests)) as arrivals:
            async for _ in arrivals:
                pass
        return self._finished(run)

    def _run_of(self, requests: Sequence[bytes]) -> Run:
        return Run(self._backend, lambda _, index, every=0: (self._backend, requests[index]), None, decide_by=None)

    def _finished(self, run: Run) -> list[BranchStream]:
        if run.failed:
            branch = run.failed[0]
            raise EngineFailed(f"backend {self._backend.name}: {branch.error or f'it answered {branch.refusal}'}")
        return run.branches


def _timing(branch: BranchStream) -> Timing:
    began, ended = branch.started_at, branch.ended_at or branch.started_at
    return Timing((branch.first_token_at or began) - began, ended - began, branch.completion_tokens)


_STREAMED = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "stream_interval": VOTE_STREAM_INTERVAL,
}
