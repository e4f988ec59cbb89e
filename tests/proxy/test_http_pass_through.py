"""A request without controls: bytes unchanged both ways, headers that end at the proxy dropped."""

import pytest
from http_rig import CHAT, Fleet, chat
from scripted_backend import answers, says, sends

MESSAGE = b'{"role":"user","content":"\\u00e9 \xc3\xa9"}'
ODD_BODY = b'{ "model" :"m",\n\t"messages":[%b], "temperature": 1.10, "x": {"b":1, "a":[ ]}}' % MESSAGE
ODD_ANSWER = b'{ "id":"x",\n "choices": [ ], "usage":{"prompt_tokens":3,"completion_tokens":5}, "unknown":1.50}\n'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_the_backend_gets_the_clients_bytes(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    await proxy.client.post(CHAT, content=ODD_BODY)

    assert [request.body for request in backend.generations] == [ODD_BODY]


async def test_the_client_gets_the_backends_bytes(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(answers(200, ODD_ANSWER, headers="x-of-the-backend: 1\r\n"))

    answer = await proxy.ask()

    assert answer.content == ODD_ANSWER
    assert answer.headers["x-of-the-backend"] == "1"


async def test_a_stream_comes_through_as_it_is(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    events = [b": comment\n\n", b'data:{"a": 1}\n\n', b"event: odd\ndata: x\r\n\r\n", b"data: [DONE]\n\n"]
    backend.will(sends(STREAM_HEAD, *(b"%x\r\n%b\r\n" % (len(e), e) for e in events), b"0\r\n\r\n"))

    answer = await proxy.ask(chat(stream=True))

    assert answer.content == b"".join(events)
    assert answer.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
async def test_the_backends_own_errors_come_through_as_they_are(fleet: Fleet, status: int) -> None:
    backend, proxy = await fleet.one()
    backend.will(answers(status, b'{"error": {"message":"vLLM says no"} }'))

    answer = await proxy.ask()

    assert (answer.status_code, answer.content) == (status, b'{"error": {"message":"vLLM says no"} }')


async def test_the_answer_says_what_was_done(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.ask()

    told = {name: answer.headers[name] for name in ("x-tts-strategy", "x-tts-n", "x-tts-backend", "x-slo-status")}
    assert told == {"x-tts-strategy": "none", "x-tts-n": "1", "x-tts-backend": "a", "x-slo-status": "none"}
    assert len(answer.headers["x-request-id"]) == 32


async def test_the_clients_request_id_is_kept(fleet: Fleet) -> None:
    """Also where the backend answers with the same header: vLLM does under --enable-request-id-headers."""
    backend, proxy = await fleet.one()
    backend.will(answers(200, b"{}", headers="x-request-id: of-the-backend\r\n"))

    answer = await proxy.ask(x_request_id="mine-7")

    assert answer.headers.get_list("x-request-id") == ["mine-7"]
    assert backend.generations[0].header("x-request-id") == "mine-7"


async def test_headers_that_are_for_the_proxy_end_there(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    ending = {"authorization": "Bearer k", "cookie": "c=1", "connection": "x-hop", "x-hop": "1", "te": "trailers"}
    passing = {"x-kept": "1", "x-also-kept": "2"}

    await proxy.client.post(CHAT, json=chat(), headers={**ending, **passing, "x-tts-strategy": "none"})

    seen = dict(backend.generations[0].headers)
    assert not seen.keys() & {*ending, "x-tts-strategy"}
    assert passing.items() <= seen.items()
    assert seen["content-type"] == "application/json"


async def test_hop_by_hop_headers_of_the_backend_end_at_the_proxy(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(answers(200, b"{}", headers="connection: x-hop\r\nx-hop: 1\r\nserver: vllm\r\nx-kept: 1\r\n"))

    answer = await proxy.ask()

    assert "x-hop" not in answer.headers and "server" not in answer.headers
    assert answer.headers["x-kept"] == "1"


async def test_strategy_none_is_pass_through_and_its_controls_stay_here(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()

    await proxy.ask(chat(model="m@none", tts={"strategy": "none"}, top_k=3))

    assert backend.generations[0].json == chat(top_k=3)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/detokenize", "/v1/responses"])
async def test_other_paths_are_relayed(fleet: Fleet, path: str) -> None:
    backend, proxy = await fleet.one()
    backend.otherwise = backend.tokenizer = answers(200, b'{"of": "the backend"}')

    answer = await proxy.ask({"model": "m", "input": "x", "unknown": [1]}, path)

    assert answer.content == b'{"of": "the backend"}'
    assert [r.json for r in backend.received if r.path == path] == [{"model": "m", "input": "x", "unknown": [1]}]


async def test_a_plain_completion_is_relayed_too(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says("four"))

    answer = await proxy.ask({"model": "m", "prompt": "2 + 2 ="}, "/v1/completions")

    assert answer.json()["choices"][0]["text"] == "four"


async def test_the_trace_counts_the_tokens_that_the_backend_told(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says("four", tokens=9))

    await proxy.ask()

    trace = await proxy.trace()
    assert (trace["outcome"], trace["status"], trace["completion_tokens"]) == ("answered", 200, 9)
    assert trace["plan"]["note"] == "pass-through"
    assert trace["ledgers"]["attributed"]["usd"] > 0
