"""What an engine generates for a branch after its connection was closed is learnt from the engine's own counter, and
counted from then on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from http_rig import Fleet, RunningProxy, chat
from scripted_backend import Received, ScriptedBackend, begins, says, until

from proxy.overrun import DOUBT

FOUR = "\\boxed{4}"
TOKENS, SEEN, LATE = 4, 2, 5  # of a whole answer; of a cut one until it is cut; and after


class Counter(dict[str, float]):
    """The page of an engine that notices late."""

    def __init__(self, backend: ScriptedBackend) -> None:
        super().__init__(backend.metrics)
        self._backend = backend

    def items(self) -> Any:
        generated = sum(self._tokens(request) for request in self._backend.generations)
        told: Iterable[tuple[str, float]] = super().items()
        return [*told, ("generation_tokens_total", float(generated))]

    @staticmethod
    def _tokens(request: Received) -> int:
        return SEEN + LATE if request.cancelled else TOKENS if request.over.is_set() else SEEN


async def cut_two(proxy: RunningProxy, backend: ScriptedBackend) -> list[dict[str, Any]]:
    """The rows of the two branches that the first to finish leaves behind."""
    asked = len(backend.generations)
    backend.will(says(FOUR, tokens=TOKENS))
    answer = await proxy.ask(chat(tts={"strategy": "first-finish", "n": 3, "m": 1}))
    await until(lambda: all(request.over.is_set() for request in backend.generations[asked:]))
    trace_id = answer.json()["usage"]["tts"]["trace_id"]
    path = f"/v1/traces/{trace_id}"
    while (found := await proxy.client.get(path)).status_code != 200:
        pass
    trace: dict[str, Any] = found.json()
    return [row for row in trace["branches"] if row["outcome"] == "cancelled"]


async def test_a_relayed_stream_that_its_client_leaves_is_booked_so_too(fleet: Fleet) -> None:
    backend = await fleet.backend()
    backend.otherwise = begins(FOUR, tokens=TOKENS, after=SEEN)
    proxy = await fleet.proxy()
    overrun = proxy.service.catalog.by_name["a"].overrun
    overrun.per_cut = float(LATE)

    async with await proxy.connect() as client:
        await client.post(chat(stream=True))
        await until(lambda: any(request.sent_events > SEEN for request in backend.generations))
        client.leave()
    (row,) = (await proxy.trace())["branches"]

    assert (row["completion_tokens"], row["estimated_tokens"]) == (SEEN + LATE, SEEN + LATE)
    backend.otherwise = says(FOUR, tokens=TOKENS)
    events = await proxy.stream(chat(stream_options={"include_usage": True}))
    assert events.usage is not None and events.usage["completion_tokens"] == TOKENS
    whole = (await proxy.trace(outcome="answered"))["branches"][0]
    assert (whole["completion_tokens"], whole.get("estimated_tokens", 0)) == (TOKENS, 0)


async def test_cut_branches_are_booked_with_what_the_engine_generates_afterwards(fleet: Fleet) -> None:
    backend = await fleet.backend()
    backend.metrics = Counter(backend)
    backend.otherwise = begins(FOUR, tokens=TOKENS, after=SEEN)
    proxy = await fleet.proxy()
    looks = len(backend.received)
    await until(lambda: len(backend.received) > looks + 4)

    before = await cut_two(proxy, backend)
    overrun = proxy.service.catalog.by_name["a"].overrun
    await until(lambda: overrun.per_cut > 0)
    learnt = overrun.per_cut
    after = await cut_two(proxy, backend)

    assert learnt == pytest.approx(2 * LATE / (2 + DOUBT), rel=0.01)
    assert [row["completion_tokens"] for row in before] == [SEEN, SEEN]
    assert sorted(row["estimated_tokens"] for row in after) == [0, 1], "0.83 each, in whole tokens"
    assert [row["completion_tokens"] - row["estimated_tokens"] for row in after] == [SEEN, SEEN]
