"""The backends' API keys stay here: whatever a backend answers, no client, trace or log sees its key. And TLS to it."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from http_rig import CHAT, Fleet, chat, vote
from raw_server import Peer, RawServer
from scripted_backend import Play, Received, answers, begins, sends, tells

from proxy.config import ConfigError, load
from proxy.tls import backend_context, check_listener

CANARY = "canary-7f3a-upstream-key"
CLIENT_CANARY = "canary-9e21-client-key"
ECHO = json.dumps(
    {"error": {"message": f"bad header authorization: Bearer {CANARY}", "type": "x", "code": 401}}
).encode()


def chunked(*parts: bytes, status: str = "400 Bad") -> Play:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return sends(head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n", close=False)


def slowly(*parts: bytes) -> Play:
    """An error whose pieces arrive apart, so that the key is cut."""

    async def play(peer: Peer, request: Received) -> None:
        await peer.send(b"HTTP/1.1 400 Bad\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in parts:
            await peer.send(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0.05)
        await peer.send(b"0\r\n\r\n")

    return play


async def test_an_upstream_key_that_a_backend_echoes_reaches_nobody(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)
    caplog.set_level(logging.DEBUG, "paretoproxy")
    caplog.set_level(logging.DEBUG, "uvicorn")
    caplog.set_level(logging.DEBUG, "proxy")
    for library in ("httpx", "httpcore"):  # of the test's own client, which shows what it sends
        caplog.set_level(logging.WARNING, library)
    backend = await fleet.backend()
    entry = {"name": "a", "url": backend.url, "api_key_env": "CANARY_KEY"}
    proxy = await fleet.proxy(first_model={"backends": [entry]})
    echo, half = f"x-echo: Bearer {CANARY}\r\n", len(CANARY) // 2
    key = CANARY.encode()
    plays = [
        answers(401, ECHO, headers=echo),
        answers(500, f"Bearer {CANARY}".encode(), kind="text/plain"),
        answers(503, ECHO, headers=echo),
        answers(200, ECHO, headers=echo),
        chunked(ECHO[:30], ECHO[30:]),
        slowly(b"your key is " + key[:half], key[half:], b" indeed"),
        slowly(*(b"%c" % byte for byte in key)),
        tells(json.dumps({"error": {"message": CANARY}}).encode()),
        begins("x", after=1, then=tells(ECHO)),
        sends(f"HTTP/1.1 200 OK\r\ntransfer-encoding: {CANARY}\r\n\r\n".encode()),
        sends(f"{CANARY}\r\n\r\n".encode()),
    ]
    heard = []
    for play in plays:
        for body in (chat(), chat(stream=True), vote(2), {**vote(2), "stream": True}):
            backend.otherwise = play
            try:
                answer = await proxy.ask(body, authorization=f"Bearer {CLIENT_CANARY}")
                heard.append(f"{answer.headers} {answer.text}")
                if body.get("tts") is None and "stream" not in body and answer.status_code in (400, 401):
                    assert "*" * half in answer.text, "masked, not lost"
            except httpx.HTTPError as error:
                heard.append(str(error))
    for path in ("/v1/traces?limit=200", "/ready", "/metrics", "/openapi.json"):
        heard.append((await proxy.client.get(path)).text)
    await proxy.nothing_left()

    assert any(f"Bearer {CANARY}" == generation.header("authorization") for generation in backend.generations)
    assert not any(CLIENT_CANARY in str(generation.headers) for generation in backend.generations)
    said = "\n".join([*heard, caplog.text, repr(proxy.service), repr(proxy.service.catalog.backends)])
    assert CANARY not in said and CLIENT_CANARY not in said
    store = b"".join(path.read_bytes() for path in tmp_path.glob("traces.db*"))
    assert key not in store and CLIENT_CANARY.encode() not in store


async def test_other_credentials_of_a_client_stay_here_too(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    given = {"x-api-key": "s", "api-key": "s", "cookie": "s=1", "proxy-authorization": "Basic s"}
    await proxy.client.post(CHAT, json=chat(), headers=given)
    assert not {name for name, _ in backend.generations[0].headers} & given.keys()


# -- TLS --

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """server.pem and client.pem with their keys, signed by themselves; locked.key needs a password."""
    folder = tmp_path_factory.mktemp("pki")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name in ("server", "client"):
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        out = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        command = ["openssl", "req", "-x509", *curve, *subject, *out]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    lock = ["-in", str(folder / "client.key"), "-aes256", "-passout", "pass:x", "-out", str(folder / "locked.key")]
    subprocess.run(["openssl", "ec", *lock], check=True, capture_output=True, timeout=60)
    return folder


def fleet_file(folder: Path, url: str, backend_tls: dict[str, Any] | None, **server: Any) -> Path:
    path = folder / "fleet.yaml"
    backends = [{"name": "a", "url": url, "tls": backend_tls}]
    path.write_text(yaml.safe_dump({"server": server, "models": [{"name": "m", "backends": backends}]}))
    return path


@needs_openssl
async def test_a_backend_with_an_authority_of_its_own_that_wants_a_certificate(fleet: Fleet, pki: Path) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    wanted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wanted.load_cert_chain(pki / "server.pem", pki / "server.key")
    wanted.verify_mode = ssl.CERT_REQUIRED
    wanted.load_verify_locations(pki / "client.pem")
    server = RawServer(script, tls=wanted)
    await server.start()
    await fleet.backend()
    ca, client = str(pki / "server.pem"), {"cert": str(pki / "client.pem"), "key": str(pki / "client.key")}
    settings = {
        "right": {"ca": ca, **client},
        "stranger": {"ca": ca},
        "unverified": client,
        "lax": {"verify": False, **client},
    }
    backends = [{"name": name, "url": server.url, "tls": tls} for name, tls in settings.items()]
    proxy = await fleet.proxy(first_model={"backends": backends})
    await proxy.probed()

    state = {b.name: (b.health.serving, b.health.problem or "") for b in proxy.service.catalog.backends}
    assert state["right"] == (True, "") and state["lax"] == (True, "")
    assert not state["stranger"][0]
    assert not state["unverified"][0] and "certificate verify failed" in state["unverified"][1]
    for backend in proxy.service.catalog.backends:
        await backend.pool.aclose()
    await server.stop()


@needs_openssl
def test_tls_that_cannot_work_is_told_at_start(tmp_path: Path, pki: Path) -> None:
    def problem(tls: dict[str, Any], url: str = "https://a") -> str:
        with pytest.raises(ConfigError) as error:
            (backend,) = load(fleet_file(tmp_path, url, tls), environ={}).backends()
            backend_context(backend)
        return str(error.value)

    cert, key = str(pki / "client.pem"), str(pki / "client.key")
    (tmp_path / "empty.pem").touch()
    assert "tls.ca: cannot use" in problem({"ca": "none.pem"}) and "No such file" in problem({"ca": "none.pem"})
    assert "tls.ca: cannot use" in problem({"ca": "empty.pem"})
    assert "tls.cert: cannot use" in problem({"cert": cert, "key": str(pki / "server.key")})
    assert "encrypted" in problem({"cert": cert, "key": str(pki / "locked.key")})
    assert "a `key` needs its `cert`" in problem({"key": key})
    assert "give `ca` or `verify: false`" in problem({"ca": cert, "verify": False})
    assert "its url is not https://" in problem({"ca": cert}, "http://a")
    with pytest.raises(ConfigError, match=r"server\.tls: cannot use"):
        check_listener(load(fleet_file(tmp_path, "http://a", None, tls={"cert": cert, "key": "x"}), environ={}).server)


@needs_openssl
async def test_the_proxys_own_certificate(fleet: Fleet, pki: Path) -> None:
    _, proxy = await fleet.one(server={"tls": {"cert": str(pki / "server.pem"), "key": str(pki / "server.key")}})
    verified = ssl.create_default_context(cafile=str(pki / "server.pem"))
    async with httpx.AsyncClient(verify=verified, trust_env=False, timeout=10) as client:
        url = f"https://127.0.0.1:{proxy.port}"
        assert (await client.get(f"{url}/health")).status_code == 200
        answer = await client.post(url + CHAT, json=chat())
        assert answer.status_code == 200 and answer.json()["choices"]
        streamed = await client.post(url + CHAT, json=vote(2) | {"stream": True})
        assert streamed.text.endswith("data: [DONE]\n\n")
