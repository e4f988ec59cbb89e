"""Faults under load on real sockets, and what must hold whatever happens.

    clients ──► the proxy ──► FaultProxy ──► backend a
                        └───────────────────► backend b, which nothing ever happens to

Each fault is made many times at random points while clients ask all the time. What must hold: every request ends by its
deadline; none fails while its client has no byte of an answer, as b could serve it; there is exactly one trace of each;
and afterwards connections, file descriptors, tasks and objects are as many as before.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from fault_proxy import FaultProxy
from http_rig import CHAT, Fleet, RunningProxy, chat, vote
from scripted_backend import ScriptedBackend, speaks, until

from proxy.correction import Correction

CLIENTS = 6
DEADLINE_S = 5.0
READ_TIMEOUT_S = 2.0  # after which a request without a deadline goes elsewhere
MARGIN_S = 3.0  # the machine may have much else to do
LEVEL_LIMIT_S, LOOK_EVERY_S, LOOKS = 20.0, 0.06, 10
OBJECTS_MARGIN = 1000
HOST = "backend.test"

KINDS: dict[str, dict[str, Any]] = {
    "plain": chat(),
    "plain-stream": chat(stream=True),
    "single-stream": chat(stream=True, tts={"strategy": "none"}),
    "vote": vote(3),
    "vote-stream": {**vote(3), "stream": True},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what its client saw. `status` 0: no answer; `whole`: the answer ended as it should, without an
    error in it; `said`: the client had some of the answer itself."""

    id: str
    kind: str
    took_s: float
    status: int
    whole: bool
    said: bool

    @property
    def limit_s(self) -> float:
        return (2 * READ_TIMEOUT_S if self.kind.startswith("plain") else DEADLINE_S) + MARGIN_S

    @property
    def failed(self) -> bool:
        """Visibly, though another backend could have served: not one that was under way, nor one out of time."""
        late = self.status == 504 and self.took_s > DEADLINE_S - 1
        return not (self.whole and self.status == 200) and not self.said and not late


@dataclass(slots=True)
class Level:
    """What the process holds."""

    fds: int
    tasks: int
    connections: int
    objects: int

    def and_least(self, other: Level) -> Level:
        return Level(
            min(self.fds, other.fds),
            min(self.tasks, other.tasks),
            min(self.connections, other.connections),
            min(self.objects, other.objects),
        )

    def exceeds(self, other: Level) -> bool:
        return (
            self.fds > other.fds
            or self.tasks > other.tasks
            or self.connections > other.connections
            or self.objects > other.objects + OBJECTS_MARGIN
        )


@dataclass(slots=True)
class Found:
    """Of one kind of fault. `broken`: streams that ended in an error after the client had some of them."""

    fault: str
    times: int
    requests: int
    broken: int
    hung: int
    failed: int
    lost_traces: int
    double_traces: int
    slowest_s: float
    before: Level
    after: Level
    examples: list[str] = field(default_factory=list)

    @property
    def leaked(self) -> bool:
        return self.after.exceeds(self.before)

    @property
    def holds(self) -> bool:
        return not (self.hung or self.failed or self.lost_traces or self.double_traces or self.leaked)


class Bed:
    """The proxy with its two backends, and the clients. `offset_s`: how wrong the wall clock is."""

    def __init__(self, proxy: RunningProxy, a: FaultProxy, scripted: list[ScriptedBackend], store: Path) -> None:
        self.proxy, self.faulty, self._scripted, self._store = proxy, a, scripted, store
        self.other: FaultProxy | None = None  # where the name leads after the next change
        self.address = "127.0.0.2"
        self.offset_s = 0.0
        self._number = 0

    async def run(self, fault: str, times: int, seed: int = 0) -> Found:
        """`times` of it under load."""
        make, random = FAULTS[fault], Random(seed)
        await self._load(lambda: asyncio.sleep(0.3), random)  # what is made once is made
        before = await self._level(None)

        async def faults() -> None:
            for _ in range(times):
                await self._within_an_answer(random)
                await make(self, random)

        asked = await self._load(faults, random)
        after = await self._level(before, ours=len(asked))
        return self._judge(fault, times, asked, before, after)

    async def _load(self, meanwhile: Callable[[], Awaitable[None]], random: Random) -> list[Asked]:
        """Everything that was asked until it was over."""
        over, asked = asyncio.Event(), list[Asked]()

        async def client(choose: Random) -> None:
            while not over.is_set():
                self._number += 1
                asked.append(await self._ask(f"r{self._number}", choose.choice(list(KINDS))))

        clients = [asyncio.create_task(client(Random(random.random()))) for _ in range(CLIENTS)]
        try:
            await meanwhile()
        finally:
            over.set()
            await asyncio.gather(*clients)
        return asked

    async def _ask(self, name: str, kind: str) -> Asked:
        body = json.dumps(KINDS[kind]).encode()
        deadline = "" if kind.startswith("plain") else f"x-slo-latency-ms: {DEADLINE_S * 1e3:.0f}\r\n"
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: p\r\nconnection: close\r\nx-request-id: {name}\r\n{deadline}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        began, answer = time.monotonic(), b""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        try:
            writer.write(head.encode() + body)
            async with asyncio.timeout(30):
                while data := await reader.read(65536):
                    answer += data
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort()
        return _seen(name, kind, time.monotonic() - began, answer)

    async def _within_an_answer(self, random: Random) -> None:
        """A random moment at which the backend answers something: after a fault, once it is used again."""
        backend = self.proxy.service.catalog.by_name["a"]

        def answers() -> bool:
            # What the faults so far have taught of its speed, and what a late answer still may while this waits: the
            # planner would go on without it, and meet no more of them.
            backend.correction = Correction()
            return backend.in_flight > 0

        await until(answers, 20)
        await asyncio.sleep(random.uniform(0.0, 0.08))
        await until(answers, 20)

    async def _level(self, wanted: Level | None, ours: int = 0) -> Level:
        """What is held once nothing runs: the least of several looks, as probes come and go. With `wanted`, as soon as
        it is no more than that. `ours`: objects that this bed itself has made since."""
        await self.proxy.nothing_left()
        await until(lambda: not self._connections(), 20)
        least: Level | None = None
        for look in range(1, 1 + int(LEVEL_LIMIT_S / LOOK_EVERY_S)):
            for backend in self._scripted:
                backend.received.clear()
                backend.probes.clear()
                backend._server.peers[:] = [peer for peer in backend._server.peers if not peer.gone.is_set()]
            _forget_logged()
            gc.collect()
            seen = Level(_fds(), len(asyncio.all_tasks()), self._connections(), len(gc.get_objects()) - ours)
            least = seen if least is None else least.and_least(seen)
            if look >= LOOKS and (wanted is None or not least.exceeds(wanted)):
                break
            await asyncio.sleep(LOOK_EVERY_S)
        assert least is not None
        return least

    def _connections(self) -> int:
        return sum(backend.pool.open_connections for backend in self.proxy.service.catalog.backends)

    def _judge(self, fault: str, times: int, asked: list[Asked], before: Level, after: Level) -> Found:
        with closing(sqlite3.connect(self._store)) as database:
            rows = database.execute("SELECT json_extract(record, '$.request_id') FROM traces").fetchall()
        traces = Counter(row[0] for row in rows)
        hung = [one for one in asked if one.took_s > one.limit_s]
        failed = [one for one in asked if one.failed]
        return Found(
            fault=fault,
            times=times,
            requests=len(asked),
            broken=sum(not one.whole for one in asked) - len(failed),
            hung=len(hung),
            failed=len(failed),
            lost_traces=sum(traces[one.id] == 0 for one in asked),
            double_traces=sum(traces[one.id] > 1 for one in asked),
            slowest_s=round(max(one.took_s for one in asked), 3),
            before=before,
            after=after,
            examples=[f"{one}" for one in (*hung, *failed)][:5],
        )


def _seen(name: str, kind: str, took_s: float, answer: bytes) -> Asked:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    if kind.endswith("stream") and status == 200:
        ended = body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        return Asked(name, kind, took_s, status, ended and b'"error"' not in body, said=b'"content"' in body)
    length = re.search(rb"content-length: (\d+)", head)
    return Asked(name, kind, took_s, status, length is not None and len(body) == int(length[1]), said=bool(body))


def _forget_logged() -> None:
    """The test runner keeps every record of a test, with its traceback: hundreds of objects, none the proxy's."""
    for handler in logging.getLogger().handlers:
        if isinstance(kept := getattr(handler, "records", None), list):
            kept.clear()


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- the faults --


async def _kill(bed: Bed, random: Random) -> None:
    async with bed.faulty.killed():
        await asyncio.sleep(random.uniform(0, 0.1))


async def _stall(bed: Bed, random: Random) -> None:
    """Mostly shorter than anybody's patience, sometimes longer."""
    async with bed.faulty.stalled():
        await asyncio.sleep(READ_TIMEOUT_S * 1.3 if random.random() < 0.05 else random.uniform(0, 0.3))


async def _slow(bed: Bed, random: Random) -> None:
    async with bed.faulty.slow():
        await asyncio.sleep(random.uniform(0.05, 0.3))


async def _cut(bed: Bed, random: Random) -> None:
    bed.faulty.cut()


async def _reset(bed: Bed, random: Random) -> None:
    bed.faulty.reset()


async def _garbage(bed: Bed, random: Random) -> None:
    bed.faulty.garble()


async def _half_open(bed: Bed, random: Random) -> None:
    bed.faulty.lose()
    await asyncio.sleep(random.uniform(0, 0.1))


async def _dns_change(bed: Bed, random: Random) -> None:
    """The name leads elsewhere, and where it led nobody answers any more."""
    assert bed.other is not None
    before, bed.faulty, bed.other = bed.faulty, bed.other, bed.faulty
    await bed.faulty.start()
    bed.address = bed.faulty.host
    await before.stop()


async def _clock_jump(bed: Bed, random: Random) -> None:
    bed.offset_s = random.choice([-86_400.0, -3600.0, -1.0, 0.0, 1.0, 3600.0, 86_400.0])
    await asyncio.sleep(random.uniform(0, 0.05))


FAULTS: dict[str, Callable[[Bed, Random], Awaitable[None]]] = {
    "kill": _kill,
    "stall": _stall,
    "slow": _slow,
    "cut": _cut,
    "reset": _reset,
    "garbage": _garbage,
    "half-open": _half_open,
    "dns-change": _dns_change,
    "clock-jump": _clock_jump,
}


@asynccontextmanager
async def laid(
    folder: Path, set_attribute: Callable[[Any, str, Any], None], *, by_name: bool = False
) -> AsyncIterator[Bed]:
    """`set_attribute`: as of pytest's monkeypatch. `by_name`: the backend has a name that is looked up, which asyncio's
    own loop does through `socket`."""
    from proxy import probe

    set_attribute(probe, "HEALTH_EVERY_S", 0.05)
    set_attribute(probe, "LOAD_EVERY_S", 0.05)
    fleet = Fleet(folder)
    a, b = await fleet.backend("a"), await fleet.backend("b")
    for backend in (a, b):
        backend.otherwise = speaks("The answer is \\boxed{4}", every_s=0.008)
    port = int(a.url.rpartition(":")[2])
    faulty = FaultProxy(port, "127.0.0.2" if by_name else "127.0.0.1")
    await faulty.start()
    a._url = f"http://{HOST}:{faulty.port}" if by_name else faulty.url
    beds: list[Bed] = []
    if by_name:
        _look_up(set_attribute, beds)
    wall, wall_ns = time.time, time.time_ns
    set_attribute(time, "time", lambda: wall() + (beds[0].offset_s if beds else 0.0))
    set_attribute(time, "time_ns", lambda: wall_ns() + int((beds[0].offset_s if beds else 0.0) * 1e9))
    try:
        # Both come back at once: a backend that is out for long has no faults.
        breaker = {"open_s": 0.1, "max_open_s": 0.2}
        proxy = await fleet.proxy(reliability={"breaker": breaker, "outliers": None})
        for known in proxy.service.catalog.backends:
            limits = known.pool.limits
            known.pool.limits = replace(limits, read_timeout_s=READ_TIMEOUT_S, keepalive_s=0.4, sweep_every_s=0.1)
        await proxy.probed()
        await proxy.asked_what_it_can("a")
        await proxy.asked_what_it_can("b")
        bed = Bed(proxy, faulty, [a, b], folder / "traces.db")
        if by_name:
            bed.other = FaultProxy(port, "127.0.0.3")
            bed.other.listen_on(faulty.port)
        beds.append(bed)
        yield bed
    finally:
        a._url = None
        for each in (faulty, beds[0].other if beds else None):
            if each is not None:
                await each.stop()
        await fleet.close()


def _look_up(set_attribute: Callable[[Any, str, Any], None], beds: list[Bed]) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in (HOST, HOST.encode()):
            host = beds[0].address if beds else "127.0.0.2"
        return real(host, *args, **kwargs)

    set_attribute(socket, "getaddrinfo", getaddrinfo)
