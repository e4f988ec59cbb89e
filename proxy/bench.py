"""The profiler's way to an engine: through the proxy's own client and metering, so that what is measured is what
will run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from profiler.measure import Timing
from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.fanout import Run
from proxy.upstream_body import VOTE_STREAM_INTERVAL


class EngineFailed(Exception):
    """A branch of a measurement failed; the message says how."""


class EngineBench:
    """Implements `profiler.measure.Bench` over one backend, and samples chats for quality tables."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def run(self, prompts: Sequence[Sequence[int]], output: int) -> list[Timing]:
        """Raises EngineFailed."""
        head = self._backend.head("/v1/completions")
        requests = [
            head.with_body(
                msgspec.json.encode(
                    {
                        "model": self._backend.model,
                        "prompt": list(prompt),
                        "max_tokens": output,
                        "min_tokens": output,
                        "ignore_eos": True,
                        **_STREAMED,
                    }
                )
            )
            for prompt in prompts
        ]
        branches = await self._run(requests)
        return [
            Timing(
                (branch.first_token_at or branch.started_at) - branch.started_at,
                (branch.ended_at or branch.started_at) - branch.started_at,
                branch.completion_tokens,
            )
            for branch in branches
        ]

    async def chat(self, question: str, count: int, *, temperature: float, max_tokens: int) -> list[BranchStream]:
        """`count` full answers to one question, sampled together. Raises EngineFailed."""
        body: dict[str, Any] = {
            "model": self._backend.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": temperature,
            "max_tokens": max_tokens,
            **_STREAMED,
        }
        request = self._backend.head("/v1/chat/completions").with_body(msgspec.json.encode(body))
        return await self._run([request] * count)

    async def _run(self, requests: Sequence[bytes]) -> list[BranchStream]:
        run = Run(self._backend, requests.__getitem__, None, decide_by=None)
        async with run.sample(len(requests)) as arrivals:
            async for _ in arrivals:
                pass
        if run.failed:
            branch = run.failed[0]
            raise EngineFailed(f"backend {self._backend.name}: {branch.error or f'it answered {branch.refusal}'}")
        return run.branches


_STREAMED = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "stream_interval": VOTE_STREAM_INTERVAL,
}
