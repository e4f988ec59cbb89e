"""A whole proxy under uvicorn in the test's own loop, in front of scripted backends; and the proof that nothing
leaks."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml
from scripted_backend import ScriptedBackend, until
from scripted_pooled import ScriptedPooled

import proxy
from profiler import quality_file
from profiler.quality_sections import AgreementCurve
from proxy.cli.serve import server_for
from proxy.config import load
from proxy.live import Live
from proxy.reload import Reloader
from proxy.server import Server
from proxy.service import Service
from strategies.base import Strategy
from strategies.registry import Registry

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
CHAT = "/v1/chat/completions"


def chat(**members: Any) -> dict[str, Any]:
    """A chat completion's body."""
    return {"model": "m", "messages": QUESTION, **members}


def vote(n: int, **tts: Any) -> dict[str, Any]:
    """A chat completion that samples n answers and votes over all of them."""
    return chat(tts={"strategy": "self-consistency", "n": n, "stop": "all", **tts})


class Events:
    """An event stream as a client reads it. `comments`: the keep-alives; `done`: it ended with [DONE]."""

    def __init__(self, text: str) -> None:
        assert text.endswith("\n\n"), "an event stream ends with a whole event"
        blocks = text[:-2].split("\n\n")
        assert all("\n" not in block and block.startswith((":", "data: ")) for block in blocks), blocks
        payloads = [block[6:] for block in blocks if block.startswith("data: ")]
        self.comments = [block for block in blocks if block.startswith(":")]
        self.done = payloads[-1:] == ["[DONE]"]
        self.chunks: list[dict[str, Any]] = [json.loads(payload) for payload in payloads if payload != "[DONE]"]

    @property
    def text(self) -> str:
        """Of the choice 0, chat or completion."""
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ()) if choice["index"] == 0]
        return "".join(choice.get("delta", choice).get("content") or choice.get("text") or "" for choice in choices)

    @property
    def finish_reasons(self) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]

    @property
    def usage(self) -> dict[str, Any] | None:
        usages: list[dict[str, Any]] = [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]
        assert len(usages) <= 1, "usage is told once"
        return usages[0] if usages else None


class RunningProxy:
    """A started proxy, an HTTP client of it, and its service for what HTTP does not show."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.port = int(server.servers[0].sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.live: Live = server.lifespan.state["live"]
        self.client = httpx.AsyncClient(base_url=self.url, timeout=10, trust_env=False, verify=False)

    @property
    def service(self) -> Service:
        """What new requests get."""
        return self.live.service

    @property
    def reloader(self) -> Reloader:
        """Of one made with `watched`."""
        assert self.live.reloader is not None
        return self.live.reloader

    @property
    def server(self) -> Server:
        return self._server

    @property
    def server_tasks(self) -> set[asyncio.Task[None]]:
        """One per request that is being handled."""
        return self._server.server_state.tasks

    async def ask(self, body: dict[str, Any] | None = None, path: str = CHAT, **headers: str) -> httpx.Response:
        """POST a body; `x_slo_latency_ms="5"` is the header `x-slo-latency-ms: 5`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=chat() if body is None else body, headers=named)

    async def stream(self, body: dict[str, Any], path: str = CHAT, **headers: str) -> Events:
        """The same, streamed, once it has ended."""
        response = await self.ask({**body, "stream": True}, path, **headers)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return Events(response.text)

    async def connect(self) -> RawClient:
        return RawClient(*await asyncio.open_connection("127.0.0.1", self.port))

    async def trace(self, outcome: str | None = None) -> dict[str, Any]:
        """The only trace so far, or the only one of an outcome, once it is written."""
        traces: list[dict[str, Any]] = []
        async with asyncio.timeout(5):
            while not traces:
                answer = await self.client.get("/v1/traces", params={"outcome": outcome} if outcome else {})
                traces = answer.json()["data"]
        assert len(traces) == 1
        return traces[0]

    async def probed(self) -> None:
        """Every backend has been looked at."""
        await until(lambda: all(backend.health.checked for backend in self.service.catalog.by_name.values()))

    async def asked_what_it_can(self, name: str = "a") -> None:
        """The backend has told its capabilities."""
        await until(lambda: self.service.catalog.by_name[name].capabilities is not None)

    async def sees_load(self, name: str, others: float) -> None:
        """The backend of that name is known to run so many branches for others."""
        backend = next(backend for backend in self.service.catalog.backends if backend.name == name)
        await until(lambda: backend.gpu_time.others == others)

    async def nothing_left(self) -> None:
        """Raises where a request has left something running that no request needs any more."""
        backends = self.service.catalog.by_name.values()

        def idle() -> bool:
            return all(backend.in_flight == 0 and backend.pool.busy_connections == 0 for backend in backends)

        await until(lambda: idle() and not self.server_tasks, 3)
        assert not (ours := [task for task in asyncio.all_tasks() if _is_of_a_request(task)]), ours

    async def stop(self) -> None:
        await self.client.aclose()
        async with asyncio.timeout(10):
            await self._server.shutdown()


def _is_of_a_request(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    file = Path(code.co_filename) if code is not None else Path()
    package = Path(proxy.__file__).parent
    ours = ("probe.py", "fetch.py", "pool.py", "app.py", "export.py", "outliers.py", "reload.py")
    return file.is_relative_to(package) and file.name not in ours


class RawClient:
    """A client that is seen byte by byte, and that can leave whenever a test wants it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def post(self, body: bytes | dict[str, Any], path: str = CHAT, headers: str = "") -> None:
        """`headers`: further lines, each ending in CRLF."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: proxy\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def read_until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readuntil(mark)

    async def read_to_end(self) -> bytes:
        """What comes until the proxy closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()

    def leave(self) -> float:
        """Close now; the loop's time of it."""
        self.writer.transport.abort()
        return asyncio.get_running_loop().time()


class Fleet:
    """Makes backends and one proxy in front of them; `close` checks that they end without a rest."""

    def __init__(self, folder: Path) -> None:
        self.curves: list[quality_file.Curve] = []  # further ones of the quality table
        self._folder = folder
        self._backends: list[ScriptedBackend] = []
        self._pooled: list[ScriptedPooled] = []
        self._proxy: RunningProxy | None = None
        self._before = asyncio.all_tasks()

    async def backend(self, name: str = "a", model: str = "m") -> ScriptedBackend:
        backend = ScriptedBackend(name, model)
        await backend.start()
        self._backends.append(backend)
        return backend

    def scripted(self, name: str) -> ScriptedBackend:
        """The backend of that name."""
        return next(backend for backend in self._backends if backend.name == name)

    @property
    def scripted_pooled(self) -> dict[str, ScriptedPooled]:
        """By kind."""
        return {pooled.kind: pooled for pooled in self._pooled}

    async def pooled(self, kind: str, name: str | None = None) -> ScriptedPooled:
        """A reward or embedding model of the first model."""
        pooled = ScriptedPooled(name or kind, kind)
        await pooled.start()
        self._pooled.append(pooled)
        return pooled

    def refusing(self, name: str = "a") -> ScriptedBackend:
        """A backend at whose port nobody listens."""
        with socket.socket() as port:
            port.bind(("127.0.0.1", 0))
            backend = ScriptedBackend(name, url=f"http://127.0.0.1:{port.getsockname()[1]}")
        self._backends.append(backend)
        return backend

    async def proxy(
        self,
        *strategies: type[Strategy[Any]],
        task: str | None = "math",
        answers: str | None = None,
        first_model: dict[str, Any] | None = None,
        watched: bool = False,
        **sections: Any,
    ) -> RunningProxy:
        """A proxy over all backends made so far: per model name one model. `strategies`: besides the installed ones;
        `first_model`: further members of the first model; `watched`: reads its file again; `sections`: of the
        configuration."""
        path = self.write(task=task, answers=answers, first_model=first_model, **sections)
        registry = Registry({each.name: each for each in (*Registry.installed(), *strategies)})
        source = path if watched else None
        server = server_for(load(path, environ={}), "127.0.0.1", 0, "critical", registry, source=source)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        self._proxy = RunningProxy(server)
        return self._proxy

    def write(
        self,
        *only: str,
        task: str | None = "math",
        answers: str | None = None,
        first_model: dict[str, Any] | None = None,
        **sections: Any,
    ) -> Path:
        """The configuration's file, over all backends made so far or `only` those of these names."""
        models: list[dict[str, Any]] = []
        for name in dict.fromkeys(backend.model for backend in self._backends):
            served = [self._entry(b) for b in self._backends if b.model == name and (not only or b.name in only)]
            quality = {"math": str(self._quality())} if task == "math" else {}
            models.append({"name": name, "task": task, "answers": answers, "quality": quality, "backends": served})
        models[0].update(first_model or {})
        if self._pooled:
            models[0]["reward_model"] = [one.entry for one in self._pooled if one.kind != "embedding"]
            models[0]["embedding_model"] = next((one.entry for one in self._pooled if one.kind == "embedding"), None)
        path = self._folder / "fleet.yaml"
        draft = path.with_name("draft.yaml")
        draft.write_text(yaml.safe_dump({"traces": {"path": "traces.db"}, **sections, "models": models}))
        draft.replace(path)  # at once, as editors and Kubernetes do
        return path

    async def one(self, *strategies: type[Strategy[Any]], **options: Any) -> tuple[ScriptedBackend, RunningProxy]:
        """One backend and a proxy in front of it."""
        return await self.backend(), await self.proxy(*strategies, **options)

    async def two(self, **sections: Any) -> tuple[ScriptedBackend, ScriptedBackend, RunningProxy]:
        return await self.backend("a"), await self.backend("b"), await self.proxy(**sections)

    async def close(self) -> None:
        if self._proxy is not None:
            try:
                await self._proxy.nothing_left()
            finally:
                await self._proxy.stop()
        for server in (*self._backends, *self._pooled):
            await server.stop()
        await until(lambda: not (asyncio.all_tasks() - self._before - {asyncio.current_task()}), 1)

    def _entry(self, backend: ScriptedBackend) -> dict[str, Any]:
        return {"name": backend.name, "url": backend.url, "gpu_hour_usd": backend.usd_per_hour}

    def _quality(self) -> Path:
        """One sample is right half the time, four and eight voting more often; all are four tokens long."""
        path = self._folder / "math.json"
        if not path.exists():
            curves = [_curve("none", 1, 0.5), _curve("none", 1, 0.5, greedy=True), _curve("first-finish", 4, 0.6, m=1)]
            for n, accuracy in ((2, 0.55), (4, 0.7), (8, 0.8)):
                curves.append(_curve("self-consistency", n, accuracy, stop="beta", confidence=0.95))
            known = AgreementCurve("self-consistency", {"n": 4}, 4, 4.0, [0.0, 1.0], [0.0, 1.0], 0.7, 0.3)
            curves += self.curves
            quality = quality_file.Quality("m", "math", "math", 1.0, 100, 16, 7.0, curves, agreement=[known])
            quality_file.write(quality, path)
        return path


def _curve(strategy: str, n: int, accuracy: float, *, greedy: bool = False, **params: Any) -> quality_file.Curve:
    params = {} if strategy == "none" else {"n": n, **params}
    return quality_file.Curve(strategy, params, greedy, accuracy, accuracy - 0.02, [[4] * n] * 8)
