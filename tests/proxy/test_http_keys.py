"""API keys over HTTP: what a key may do, what is counted, and whose traces it sees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import yaml
from http_rig import CHAT, Fleet, RunningProxy, chat, vote
from scripted_backend import begins, says, until

from proxy.client_keys import hash_key

KEYED = {"server": {"api_keys": "keys.yaml"}}


def keys(tmp_path: Path, **entries: dict[str, Any]) -> None:
    """A file of keys; the key of `a` is `key-of-a`."""
    rows = [{"name": name, "hash": hash_key(f"key-of-{name}"), **entry} for name, entry in entries.items()]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(rows))


async def ask(proxy: RunningProxy, name: str, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return await proxy.ask(body, authorization=f"Bearer key-of-{name}", **headers)


def error(answer: httpx.Response) -> tuple[int, str, str]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


async def get(proxy: RunningProxy, path: str, name: str) -> httpx.Response:
    return await proxy.client.get(path, headers={"authorization": f"Bearer key-of-{name}"})


async def test_what_a_key_does_not_allow_is_403_and_names_it(fleet: Fleet, tmp_path: Path) -> None:
    keys(
        tmp_path,
        a={"limits": {"models": ["m"], "strategies": ["self-consistency"], "max_n": 4}},
        off={"disabled": True},
    )
    backend, _ = await fleet.backend("a"), await fleet.backend("b", "other")
    proxy = await fleet.proxy(**KEYED)

    assert error(await ask(proxy, "a", chat(model="other"))) == (403, "model_not_allowed", "model")
    assert error(await ask(proxy, "a", chat(n=5))) == (403, "too_many_samples", "n")
    assert error(await ask(proxy, "a", vote(5))) == (403, "too_many_samples", "x-tts-n")
    assert error(await ask(proxy, "a", chat(), x_tts_n="8")) == (403, "too_many_samples", "x-tts-n")
    refused = await ask(proxy, "a", chat(), x_tts_strategy="first-finish")
    assert error(refused) == (403, "strategy_not_allowed", "x-tts-strategy")
    assert error(await ask(proxy, "off"))[:2] == (403, "api_key_disabled")
    plan = await proxy.ask(chat(model="other"), "/v1/plan", authorization="Bearer key-of-a")
    assert error(plan) == (403, "model_not_allowed", "model")
    assert backend.generations == []

    assert (await ask(proxy, "a", vote(4))).status_code == 200
    assert (await ask(proxy, "a", chat(), x_tts_strategy="none")).status_code == 200
    assert [card["id"] for card in (await get(proxy, "/v1/models", "a")).json()["data"]] == ["m"]
    assert (await get(proxy, "/v1/models/other", "a")).status_code == 404


async def test_a_free_choice_keeps_within_the_keys_limits(fleet: Fleet, tmp_path: Path) -> None:
    """Without them, eight votes are the most accurate."""
    keys(
        tmp_path,
        free={},
        small={"limits": {"max_n": 4}},
        plain={"limits": {"strategies": ["first-finish"], "max_n": 2}},
    )
    _, proxy = await fleet.one(**KEYED)

    chosen = {}
    for name in ("free", "small", "plain"):
        answer = await ask(proxy, name, chat(), x_slo_latency_ms="60000")
        chosen[name] = answer.headers["x-tts-strategy"], int(answer.headers["x-tts-n"])

    assert chosen["free"][1] > 4
    assert chosen["small"][1] == 4
    assert chosen["plain"] == ("none", 1)


async def test_a_limit_is_429_with_retry_after_and_spends_nothing(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, a={"limits": {"requests_per_minute": 2}}, b={})
    backend, proxy = await fleet.one(**KEYED)
    for _ in range(2):
        assert (await ask(proxy, "a")).status_code == 200
    answer = await ask(proxy, "a", vote(3))

    assert error(answer) == (429, "limit_exceeded", "requests_per_minute")
    assert answer.json()["error"]["type"] == "rate_limit_error" and 1 <= int(answer.headers["retry-after"]) <= 30
    assert len(backend.generations) == 2
    assert (await ask(proxy, "b")).status_code == 200
    page = (await proxy.client.get("/metrics")).text
    assert 'paretoproxy_limit_refusals_total{limit="requests_per_minute"} 1.0' in page


async def test_tokens_of_all_branches_count_streamed_or_not(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, votes={"limits": {"tokens_per_day": 45}}, streams={"limits": {"tokens_per_day": 45}})
    backend, proxy = await fleet.one(**KEYED)
    backend.otherwise = says("\\boxed{4}", tokens=5)
    body = {"max_tokens": 1}  # of which little is expected

    assert (await ask(proxy, "votes", {**vote(3), **body})).status_code == 200  # 3 × (7 + 5)
    assert error(await ask(proxy, "votes", {**vote(3), **body})) == (429, "limit_exceeded", "tokens_per_day")
    streamed = chat(**body, stream=True)  # tells no usage: its chunks count, and its prompt by its size
    told = [(await ask(proxy, "streams", streamed)).status_code for _ in range(3)]
    assert told == [200, 429, 429]
    assert 25 < proxy.service.limiter.local._usage["streams"].day_tokens < 45


async def test_a_client_that_leaves_frees_its_place_and_pays(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, a={"limits": {"concurrent_requests": 1, "tokens_per_day": 100_000}})
    backend, proxy = await fleet.one(**KEYED)
    backend.will(begins("\\boxed{4}", after=2))
    client = await proxy.connect()
    await client.post(chat(), headers="authorization: Bearer key-of-a\r\n")
    await backend.generation(0)
    assert error(await ask(proxy, "a")) == (429, "limit_exceeded", "concurrent_requests")
    client.leave()
    await proxy.nothing_left()

    assert (await ask(proxy, "a")).status_code == 200
    usage = proxy.service.limiter.local._usage["a"]
    assert usage.running == 0 and usage.day_tokens > 200, "what nobody counted is charged as expected"


async def test_a_key_sees_its_own_traces_and_an_admins_sees_all(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, a={}, b={}, root={"admin": True})
    _, proxy = await fleet.one(server={"api_keys": "keys.yaml", "protect_metrics": True})
    ids = {name: (await ask(proxy, name)).headers["x-request-id"] for name in ("a", "b")}

    async def seen(name: str) -> list[str]:
        return sorted(row["key"] for row in (await get(proxy, "/v1/traces", name)).json()["data"])

    async with asyncio.timeout(5):
        while await seen("root") != ["a", "b"]:
            await asyncio.sleep(0.02)
    assert (await seen("a"), await seen("b")) == (["a"], ["b"])
    assert (await get(proxy, f"/v1/traces/{ids['a']}", "a")).json()["key"] == "a"
    assert (await get(proxy, f"/v1/traces/{ids['a']}", "b")).status_code == 404
    assert (await get(proxy, f"/v1/traces/{ids['a']}", "root")).status_code == 200
    metrics = [(await get(proxy, "/metrics", name)).status_code for name in ("nobody", "a", "root")]
    assert metrics == [401, 403, 200]


async def test_keys_can_be_replaced_while_it_runs(fleet: Fleet, tmp_path: Path) -> None:
    from proxy.client_keys import load_keys

    keys(tmp_path, a={})
    _, proxy = await fleet.one(**KEYED)
    assert [(await ask(proxy, name)).status_code for name in ("a", "b")] == [200, 401]
    keys(tmp_path, b={})
    proxy.service.keys = load_keys(tmp_path / "keys.yaml")
    assert [(await ask(proxy, name)).status_code for name in ("a", "b")] == [401, 200]


async def test_tenants_have_prefix_caches_of_their_own(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, a={}, b={}, open={"share_prefix_cache": True})
    backend, proxy = await fleet.one(**KEYED)

    async def salt(name: str, body: dict[str, Any], path: str = CHAT) -> Any:
        before = len(backend.received)
        answer = await proxy.ask(body, path, authorization=f"Bearer key-of-{name}")
        assert answer.status_code == 200, answer.text
        (sent,) = {json.dumps(r.json.get("cache_salt")) for r in backend.received[before:] if r.path == path}
        return json.loads(sent)

    a, b = await salt("a", chat()), await salt("b", chat())
    own, others = await salt("a", chat(cache_salt="x")), await salt("b", chat(cache_salt="x"))
    assert len({a, b, own, others, "x"}) == 5 and a == await salt("a", chat())
    assert a == await salt("a", vote(3)), "branches share their prompt"
    assert a == await salt("a", {"model": "m", "prompt": "x"}, "/v1/completions")
    assert await salt("b", chat(cache_salt=a)) not in (a, b), "no client can name another's"
    assert await salt("open", chat()) is None and await salt("open", chat(cache_salt="x")) == "x"
    assert await salt("a", {"model": "m", "prompt": "x"}, "/tokenize") is None
    assert error(await ask(proxy, "a", chat(cache_salt=""))) == (400, None, "cache_salt")


async def test_a_salt_changes_no_other_byte(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, a={})
    backend, proxy = await fleet.one(**KEYED)
    body = b' { "messages" : [ { "role":"user","content":"\\u00e9 }" } ] ,\n "model":"m", "x": 1.50 } \n'
    async with await proxy.connect() as client:
        await client.post(body, headers="authorization: Bearer key-of-a\r\n")
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    salt = backend.generations[0].json["cache_salt"]
    assert backend.generations[0].body == body.rstrip()[:-1] + b',"cache_salt":"' + salt.encode() + b'"}'


async def test_clients_cannot_name_hosts_to_engines(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    answer = await proxy.ask(chat(kv_transfer_params={"remote_host": "evil", "remote_port": 1}))
    assert error(answer)[2] == "kv_transfer_params" and backend.generations == []


async def test_a_request_ends_after_max_stream_s(fleet: Fleet) -> None:
    backend, proxy = await fleet.one(server={"max_stream_s": 0.4})
    backend.will(
        says("never", when=asyncio.Event()), begins("\\boxed{4}", after=2), says("never", when=asyncio.Event())
    )
    whole = await proxy.ask()
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
    async with await proxy.connect() as client:
        await client.post(chat(stream=True))
        told = await client.read_to_end()
    assert told.startswith(b"HTTP/1.1 200") and not told.endswith(b"0\r\n\r\n"), "the client can tell that it is cut"
    scaled = await proxy.ask(vote(3))
    assert scaled.status_code == 504
    await until(lambda: all(request.over.is_set() for request in backend.generations))
    await proxy.nothing_left()
    assert (await proxy.ask()).status_code == 200


async def test_costs_and_the_console_show_a_key_its_own_and_an_admin_all(fleet: Fleet, tmp_path: Path) -> None:
    keys(tmp_path, a={}, b={}, admin={"admin": True})
    await fleet.backend()
    proxy = await fleet.proxy(**KEYED)
    parent = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}  # two clients may name their traces alike
    for name in ("a", "b"):
        assert (await ask(proxy, name, chat(), **parent)).status_code == 200
    await until(lambda: proxy.service.traces.written == 2)

    async def costs(name: str) -> tuple[list[str], bool]:
        told = (await get(proxy, "/v1/costs?group_by=key", name)).json()
        return [row["key"] for row in told["data"]], "fleet" in told

    assert await costs("a") == (["a"], False)
    assert await costs("b") == (["b"], False)
    assert await costs("admin") == (["a", "b"], True)
    for name in ("a", "b"):
        assert (await get(proxy, f"/v1/traces/{'1' * 32}", name)).json()["key"] == name
    assert (await get(proxy, "/v1/traces?key=b", "a")).status_code == 403

    rows = {name: (await get(proxy, "/console/api/requests", name)).json()["data"] for name in ("a", "b", "admin")}
    assert [len(rows[name]) for name in ("a", "b", "admin")] == [1, 1, 2]
    [own], [other] = rows["a"], rows["b"]
    assert (await get(proxy, f"/console/api/requests/{own['number']}", "a")).json()["key"] == "a"
    assert (await get(proxy, f"/console/api/requests/{other['number']}", "a")).status_code == 404
    assert (await get(proxy, f"/console/api/requests/{other['number']}", "admin")).status_code == 200
    for path in ("/console/api/fleet", "/console/api/frontier?model=m"):
        assert (await get(proxy, path, "a")).status_code == 200
