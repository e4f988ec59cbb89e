"""A fake vLLM over real sockets: a test says what becomes of each generation, and reads off what the backend saw.

    backend.will(says("\\boxed{4}"), dies("\\boxed{5}", after=2), stalls())      # the next three generations, in order
    backend.otherwise = says("\\boxed{4}")                                       # all later ones
    backend.generations[0].json["seed"], backend.generations[2].left_at          # what arrived, and when it was dropped

Health, metrics and token counts answer by themselves, from attributes that a test may change at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from raw_server import STEP_TIMEOUT_S, Peer, RawServer

from proxy.capabilities import PROBE_QUESTION, PROBE_USER
from proxy.capabilities import PROBE_TEXT as CONTINUED

POLL_EVERY_S = 0.002
GENERATIONS = ("/v1/chat/completions", "/v1/completions")
PROMPT_TOKENS = 7
# After a probe, so that a generation meets a new connection: on a used one that closes at once the proxy sends again.
CLOSING = "connection: close\r\n"


async def until(reached: Callable[[], bool], limit_s: float = STEP_TIMEOUT_S) -> None:
    """Raises TimeoutError. Polls: a loop that only spins would starve the threads that it may wait for."""
    async with asyncio.timeout(limit_s):
        while not reached():
            await asyncio.sleep(POLL_EVERY_S)


@dataclass
class Received:
    """One request as it came, and what was done with it. Times are the loop's, in seconds; None: has not happened.

    `left_at`: the proxy dropped the connection before the answer was whole; `sent_events`: chunks written so far.
    """

    head: bytes
    body: bytes
    at: float
    left_at: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    sent_events: int = 0

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def cancelled(self) -> bool:
        return self.left_at is not None


Play = Callable[[Peer, Received], Awaitable[None]]
"""What the backend does with one generation. Returning leaves the connection open for the next request."""


class ScriptedBackend:
    """Serves what vLLM serves, as far as the proxy uses it. `healthy`, `late`, `metrics`, `tokenizer` may change at
    any time."""

    def __init__(self, name: str = "a", model: str = "m", *, url: str | None = None) -> None:
        """`url`: where to pretend to be, for one that is never started."""
        self.name = name
        self.model = model
        self.usd_per_hour: float | None = 3.6
        self.healthy = True
        self.incapable: set[str] = set()  # members that a capability probe is refused; "chat": all; "continuation"
        self.max_model_len: int | None = None  # as it lists its model
        self.probe_status = 400  # what such a probe is answered
        self.probe_gate: asyncio.Event | None = None  # before it is answered
        self.probes: list[Received] = []
        self.late: set[str] = set()  # paths that are not answered
        self.metrics = {"num_requests_running": 0.0, "num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}
        self.tokenizer: Play = answers(200, json.dumps({"count": PROMPT_TOKENS}).encode(), headers=CLOSING)
        self.otherwise: Play = says("\\boxed{4}")
        self.received: list[Received] = []
        self._url = url
        self._script: deque[Play] = deque()
        self._server = RawServer(self._serve)

    def will(self, *plays: Play) -> None:
        """The next generations, in order of arrival."""
        self._script.extend(plays)

    @property
    def generations(self) -> list[Received]:
        return [request for request in self.received if request.path in GENERATIONS]

    async def generation(self, number: int) -> Received:
        """The generation of that number, once it has arrived."""
        await until(lambda: len(self.generations) > number)
        return self.generations[number]

    @property
    def url(self) -> str:
        return self._url or self._server.url

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        """Raises TimeoutError where the proxy has left a connection open."""
        if self._url is None:
            await self._server.stop()

    async def _serve(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        while True:
            head, _, body = (await peer.request()).partition(b"\r\n\r\n")
            request = Received(head, body, loop.time())
            if _is_probe(request):  # what the proxy asks on its own account is no part of a test's script
                self.probes.append(request)
                if self.probe_gate is not None:
                    await self.probe_gate.wait()
                await self._play(self._probed(request), peer, request)
                return
            self.received.append(request)
            await self._play(self._choose(request), peer, request)
            if peer.gone.is_set() or peer.writer.transport.is_closing():
                return

    async def _play(self, play: Play, peer: Peer, request: Received) -> None:
        """Until the play is over, or the proxy closes: then it is stopped as vLLM aborts a request."""
        loop = asyncio.get_running_loop()
        playing = loop.create_task(_to_the_end(play(peer, request)))
        gone = loop.create_task(peer.gone.wait())
        try:
            await asyncio.wait({playing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not playing.done() or not playing.result():
                request.left_at = loop.time()
        finally:
            request.over.set()
            for task in (playing, gone):
                task.cancel()
            await asyncio.gather(playing, gone, return_exceptions=True)

    def _probed(self, request: Received) -> Play:
        if request.path == "/tokenize":
            return answers(200, json.dumps(_tokens(request.json, "continuation" in self.incapable)).encode())
        refused = "chat" in self.incapable or self.incapable & request.json.keys()
        return answers(self.probe_status if refused else 200, b"{}", headers=CLOSING)

    def _choose(self, request: Received) -> Play:
        if request.path in self.late:
            return stalls()
        match request.path:
            case "/health":
                return answers(200 if self.healthy else 503, b"", headers=CLOSING)
            case "/metrics":
                lines = [f'vllm:{name}{{engine="0"}} {value}' for name, value in self.metrics.items()]
                return answers(200, "\n".join(lines).encode() + b"\n", kind="text/plain", headers=CLOSING)
            case "/v1/models":
                card = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": self.max_model_len}
                return answers(200, json.dumps({"object": "list", "data": [card]}).encode(), headers=CLOSING)
            case "/tokenize":
                return self.tokenizer
            case _:
                return self._script.popleft() if self._script else self.otherwise


def _is_probe(request: Received) -> bool:
    """Of the proxy's own looks at what an engine can."""
    if PROBE_USER.encode() in request.body:
        return True
    if request.path != "/tokenize":
        return False
    asked = request.json
    return asked.get("prompt") == CONTINUED or (asked.get("messages") or [None])[0] == PROBE_QUESTION[0]


def _tokens(asked: dict[str, Any], rewrites: bool) -> dict[str, Any]:
    """One per byte. `rewrites`: the chat template changes a text that is to be continued."""
    if "prompt" in asked:
        return {"tokens": list(asked["prompt"].encode())}
    *messages, last = asked["messages"]
    continues = asked.get("continue_final_message")
    text = "".join(f"<{message['role']}>{message['content']}</>" for message in messages)
    text += f"<{last['role']}>{last['content'] if not (continues and rewrites) else '…'}" + ("" if continues else "</>")
    return {"tokens": list((text + ("<assistant>" if asked.get("add_generation_prompt") else "")).encode())}


async def _to_the_end(play: Awaitable[None]) -> bool:
    """False where the proxy closed while the play was writing."""
    with contextlib.suppress(ConnectionError):
        await play
        return True
    return False


# -- plays --


def answers(status: int, body: bytes, *, kind: str = "application/json", headers: str = "") -> Play:
    """A whole answer with exactly this body. `headers`: further lines, each ending in CRLF."""

    async def play(peer: Peer, request: Received) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await peer.send(head.encode("latin-1") + body)

    return play


def sends(*parts: bytes, close: bool = True) -> Play:
    """Exactly these bytes, in these writes."""

    async def play(peer: Peer, request: Received) -> None:
        for part in parts:
            await peer.send(part)
        if close:
            peer.close()

    return play


def resets() -> Play:
    async def play(peer: Peer, request: Received) -> None:
        peer.reset()

    return play


def closes() -> Play:
    return sends()


def stalls() -> Play:
    """Not a byte, until the proxy goes."""

    async def play(peer: Peer, request: Received) -> None:
        await asyncio.Event().wait()

    return play


def says(
    text: str,
    *,
    tokens: int = 4,
    when: asyncio.Event | None = None,
    finish: str = "stop",
    extra: dict[str, Any] | None = None,
    tops: Sequence[Sequence[float]] = (),
) -> Play:
    """An answer of `tokens` chunks, streamed or whole as asked for. `when`: a gate before its last token.

    `extra`: members of the first delta, such as `tool_calls`. `tops`: per token but the last the log probabilities of
    its candidates, told where they are asked for, so many as are asked for.
    """

    async def play(peer: Peer, request: Received) -> None:
        if not request.json.get("stream"):
            if when is not None:
                await when.wait()
            await answers(200, json.dumps(whole(request, text, tokens, finish)).encode())(peer, request)
            return
        chunks = _chunks(request, text, tokens, extra or {}, stop=tokens - 1)
        await _events(peer, request, _with_logprobs(request, chunks, tops))
        if when is not None:
            await when.wait()
        await _events(peer, request, _last_chunk(request, text, tokens), head=False)
        await _events(peer, request, _ending(request, tokens, finish), head=False)
        await peer.send(b"0\r\n\r\n")

    return play


def speaks(text: str, *, tokens: int = 8, every_s: float = 0.01) -> Play:
    """A token every so many seconds, streamed or not: an answer takes time, so that something can happen within it."""

    async def play(peer: Peer, request: Received) -> None:
        if not request.json.get("stream"):
            await asyncio.sleep(tokens * every_s)
            await answers(200, json.dumps(whole(request, text, tokens)).encode())(peer, request)
            return
        for number, chunk in enumerate(_chunks(request, text, tokens, {}, stop=tokens - 1)):
            await _events(peer, request, [chunk], head=number == 0)
            await asyncio.sleep(every_s)
        await _events(peer, request, _last_chunk(request, text, tokens), head=False)
        await _events(peer, request, _ending(request, tokens, "stop"), head=False)
        await peer.send(b"0\r\n\r\n")

    return play


def begins(text: str, *, tokens: int = 4, after: int, then: Play | None = None) -> Play:
    """The first `after` tokens of a streamed answer, then `then` (nothing at all, unless told)."""

    async def play(peer: Peer, request: Received) -> None:
        await _events(peer, request, _chunks(request, text, tokens, {}, stop=after))
        await (then or stalls())(peer, request)

    return play


def drips(every_s: float) -> Play:
    """An `x` every so many seconds, without end."""

    async def play(peer: Peer, request: Received) -> None:
        await _events(peer, request, _chunks(request, "", 1, {}, stop=0))
        for number in count(1):
            await _events(peer, request, [_chunk(request, "x", number)], head=False)
            await asyncio.sleep(every_s)

    return play


def dies(text: str, *, tokens: int = 4, after: int, how: Play | None = None) -> Play:
    """Breaks off after `after` tokens, with a reset unless told otherwise."""
    return begins(text, tokens=tokens, after=after, then=how or resets())


def cuts(text: str, *, tokens: int = 4, after: int) -> Play:
    """Ends the stream cleanly after `after` tokens: whole as HTTP, not as an answer."""
    return begins(text, tokens=tokens, after=after, then=sends(b"0\r\n\r\n", close=False))


def tells(event: bytes, *, after: int = 1) -> Play:
    """One event of any content after `after` tokens, then the end of the stream."""
    framed = _chunked(b"data: " + event + b"\n\n")
    return begins(
        "\\boxed{9}", after=after, then=sends(framed, _chunked(b"data: [DONE]\n\n"), b"0\r\n\r\n", close=False)
    )


# -- vLLM's shapes --


def pieces(text: str, tokens: int) -> list[str]:
    """`text` in `tokens` parts, some of them empty if it is short."""
    size = -(-len(text) // tokens)
    return [text[i * size : (i + 1) * size] for i in range(tokens)]


def whole(request: Received, text: str, tokens: int, finish: str = "stop") -> dict[str, Any]:
    chat = request.path == "/v1/chat/completions"
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "id": "chatcmpl-7" if chat else "cmpl-7",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": request.json.get("model"),
        "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": finish}],
        "usage": _usage(tokens),
    }


def _usage(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + tokens, "completion_tokens": tokens}


def _chunk(request: Received, content: str, tokens: int, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    chat = request.path == "/v1/chat/completions"
    said = {"delta": {"content": content, **delta}} if chat else {"text": content}
    chunk = {
        "id": "chatcmpl-7" if chat else "cmpl-7",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": request.json.get("model"),
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish}],
    }
    if (request.json.get("stream_options") or {}).get("continuous_usage_stats"):
        chunk["usage"] = _usage(tokens)
    return chunk


def _chunks(request: Received, text: str, tokens: int, extra: dict[str, Any], stop: int) -> Iterable[dict[str, Any]]:
    """The opening chunk with the role, as vLLM sends it, and the first `stop` tokens."""
    yield _chunk(request, "", 0, role="assistant", **extra)
    for number, piece in enumerate(pieces(text, tokens)[:stop], 1):
        yield _chunk(request, piece, number)


def _with_logprobs(
    request: Received, chunks: Iterable[dict[str, Any]], tops: Sequence[Sequence[float]]
) -> Iterable[dict[str, Any]]:
    asked = request.json
    chat = request.path == "/v1/chat/completions"
    wanted = asked.get("top_logprobs", 0) if chat else asked.get("logprobs")
    for number, chunk in enumerate(chunks, -1):  # the first one has but the role
        if asked.get("logprobs") is not None and 0 <= number < len(tops):
            told = [(f"t{rank}", logprob) for rank, logprob in enumerate(tops[number][: wanted or None])]
            if chat:
                tokens = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in told]
                logprobs: dict[str, Any] = {"content": [{**tokens[0], "top_logprobs": tokens if wanted else []}]}
            else:
                logprobs = {"tokens": ["t0"], "token_logprobs": [told[0][1]], "top_logprobs": [dict(told)]}
            chunk["choices"][0]["logprobs"] = logprobs
        yield chunk


def _last_chunk(request: Received, text: str, tokens: int) -> Iterable[dict[str, Any]]:
    yield _chunk(request, pieces(text, tokens)[-1], tokens)


def _ending(request: Received, tokens: int, finish: str) -> Iterable[dict[str, Any]]:
    yield _chunk(request, "", tokens, finish)
    if (request.json.get("stream_options") or {}).get("include_usage"):
        yield {**_chunk(request, "", tokens), "choices": [], "usage": _usage(tokens)}
    yield {}


async def _events(peer: Peer, request: Received, chunks: Iterable[dict[str, Any]], *, head: bool = True) -> None:
    if head:
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
    for chunk in chunks:
        payload = json.dumps(chunk).encode() if chunk else b"[DONE]"
        await peer.send(_chunked(b"data: " + payload + b"\n\n"))
        request.sent_events += 1


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
