"""What all strategies have in common, on scripted backends: every branch that the trace calls cancelled was seen to be
cancelled, and no other; and nothing is left open, whatever ends the request."""

from __future__ import annotations

import json

import pytest
from every_setting import EVERY_SETTING, EVERY_STRATEGY, SMALL, tts_of
from http_rig import Fleet, RunningProxy, chat
from raw_server import Peer
from scripted_backend import Play, Received, ScriptedBackend, dies, drips, says, until

from proxy.service import FinishTime
from strategies.registry import Registry

SOLVED = "2 + 2 = 4\n\\boxed{4}"
ENDLESS = drips(0.004)

whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def test_no_installed_strategy_is_left_out() -> None:
    assert {setting.split()[0] for setting in SMALL} == set(Registry.installed().names)


class Bed:
    """Two backends of a model, one of the model that judges it and that it escalates to, and each kind of scorer."""

    def __init__(self, proxy: RunningProxy, backends: list[ScriptedBackend]) -> None:
        self.proxy = proxy
        self.backends = backends

    @classmethod
    async def made(cls, fleet: Fleet) -> Bed:
        backends = [await fleet.backend("a"), await fleet.backend("b"), await fleet.backend("j", "large")]
        for kind in ("outcome", "process", "reranker"):
            await fleet.pooled(kind)
        proxy = await fleet.proxy(first_model={"judge": "large", "larger_model": "large"})
        proxy.service.finish_time = FinishTime(mean_s=0.1, deviation_s=0.0)  # as a machine that is not in a hurry
        for backend in backends:
            await proxy.asked_what_it_can(backend.name)
        return cls(proxy, backends)

    def play(self, play: Play, *, first: Play | None = None) -> None:
        """All generations; `first`: the one that arrives first, wherever."""
        firsts = [first] if first is not None else []

        async def turn(peer: Peer, request: Received) -> None:
            await (firsts.pop() if firsts else play)(peer, request)

        for backend in self.backends:
            backend.otherwise = turn

    @property
    def generations(self) -> list[Received]:
        return [request for backend in self.backends for request in backend.generations]

    async def every_cancel_was_seen(self, died: int = 0) -> int:
        """How many there were. `died`: generations that ended themselves; a branch that waits to be sent once more is
        cancelled without anybody to see it, as is one whose request has not arrived yet."""
        trace = await self.proxy.trace()
        names = {backend.name for backend in self.backends}
        told = [row for row in trace["branches"] if row["backend"] in names]
        cancelled = [row for row in told if row["outcome"] == "cancelled"]
        unheard = [row for row in cancelled if row.get("first_token_ms") is None]
        await until(lambda: all(request.over.is_set() for request in self.generations))
        seen = [request.cancelled for request in self.generations]
        assert 0 <= len(cancelled) - seen.count(True) <= died + len(unheard), (told, seen)
        assert -len(unheard) <= len(seen) - len(told) <= died, (told, seen)
        return seen.count(True)


async def solves(peer: Peer, request: Received) -> None:
    """A step where steps are asked for, and an answer after the second; a grade or a choice where one is asked for."""
    asked = request.json
    written = asked.get("prompt") or asked["messages"][-1]["content"]
    step = "\n" in (asked.get("stop") or ()) and "2 + 2" not in str(written)[-12:]
    tops = [[-0.01, -4.0, -5.0, -6.0, -7.0]] * 12
    await says("2 + 2 = 4\n" if step else SOLVED, tokens=8, tops=tops)(peer, request)


@whole_or_streamed
@EVERY_SETTING
async def test_answered(fleet: Fleet, setting: str, stream: bool) -> None:
    bed = await Bed.made(fleet)
    bed.play(solves)
    body = chat(tts=tts_of(setting))

    if stream:
        events = await bed.proxy.stream(body)
        text, finishes = events.text, events.finish_reasons
    else:
        answer = await bed.proxy.ask(body)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        text, finishes = choice["message"]["content"], [choice["finish_reason"]]

    assert "\\boxed{4}" in text and finishes == ["stop"]
    await bed.every_cancel_was_seen()


@EVERY_STRATEGY
@pytest.mark.parametrize(
    ("stream", "first"), [(False, ENDLESS), (True, solves)], ids=["whole, none is done", "streamed, one is done"]
)
async def test_a_deadline_cancels_whatever_still_runs(fleet: Fleet, setting: str, stream: bool, first: Play) -> None:
    bed = await Bed.made(fleet)
    bed.play(ENDLESS, first=first)

    answer = await bed.proxy.ask(chat(tts=tts_of(setting), stream=stream), x_slo_latency_ms="400")

    assert answer.status_code in (200, 504), answer.text
    cancelled = await bed.every_cancel_was_seen()
    assert cancelled > 0 or (len(bed.generations) == 1 and first is solves)


@whole_or_streamed
@EVERY_STRATEGY
async def test_a_branch_that_fails_is_no_failed_request(fleet: Fleet, setting: str, stream: bool) -> None:
    bed = await Bed.made(fleet)
    bed.play(solves, first=dies(SOLVED, after=1))

    if stream:
        events = await bed.proxy.stream(chat(tts=tts_of(setting)), x_slo_latency_ms="60000")
        text = events.text
    else:
        answer = await bed.proxy.ask(chat(tts=tts_of(setting)), x_slo_latency_ms="60000")
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["message"]["content"]

    if not (stream and setting == "none"):  # the client has a lone streamed answer's text when its backend dies
        assert "\\boxed{4}" in text
    await bed.every_cancel_was_seen(died=1)


@whole_or_streamed
@EVERY_STRATEGY
async def test_a_client_that_leaves_takes_everything_with_it(fleet: Fleet, setting: str, stream: bool) -> None:
    bed = await Bed.made(fleet)
    bed.play(ENDLESS)

    async with await bed.proxy.connect() as client:
        await client.post(json.dumps(chat(tts=tts_of(setting), stream=stream)).encode())
        await until(lambda: any(request.sent_events > 3 and not request.over.is_set() for request in bed.generations))
        client.leave()

    assert await bed.every_cancel_was_seen() > 0
    assert (await bed.proxy.trace())["outcome"] == "client_gone"
