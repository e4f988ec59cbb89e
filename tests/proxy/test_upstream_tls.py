"""TLS backends, and addresses that need care."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from raw_server import Peer, turns
from upstream_rig import Rig, response, send

from proxy.upstream.errors import ConnectFailed, ConnectionLost
from proxy.upstream.pool import Limits

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")

BIG = bytes(8 * 1024 * 1024)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *name, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return cert, key


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


async def test_requests_over_tls_reuse_their_connection(
    rig: Rig, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(response(BIG))

    server = await rig.serve(script, tls=server_tls)
    pool = rig.pool(server.url, tls=client_tls)
    for _ in range(2):
        answer = await send(pool).over()
        assert (answer.error, len(answer.body)) == (None, len(BIG))
    assert server.accepted == 1


async def test_an_unknown_certificate_is_refused_by_default(rig: Rig, server_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    server = await rig.serve(script, tls=server_tls)
    recorder = await send(rig.pool(server.url)).over()
    assert isinstance(recorder.error, ConnectFailed) and "self-signed" in str(recorder.error).replace(" ", "-")


async def test_a_listener_without_tls(rig: Rig, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await rig.serve(script)
    recorder = await send(rig.pool(server.url.replace("http:", "https:"), tls=client_tls)).over()
    assert recorder.calls == ["error"] and isinstance(recorder.error, ConnectFailed)


async def test_a_handshake_that_never_ends_is_given_up(rig: Rig, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.stay()

    server = await rig.serve(script)
    pool = rig.pool(server.url.replace("http:", "https:"), Limits(connect_timeout_s=0.05), client_tls)
    recorder = await send(pool).over()
    assert isinstance(recorder.error, ConnectFailed)
    await (await server.peer(0)).stay()


async def test_a_pool_closes_during_a_handshake(rig: Rig, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.stay()

    server = await rig.serve(script)
    pool = rig.pool(server.url.replace("http:", "https:"), tls=client_tls)
    recorder = send(pool)
    peer = await server.peer(0)
    await turns(5)
    await pool.aclose()
    await peer.stay()
    assert recorder.calls == ["error"]


async def test_a_body_cut_short_under_tls(rig: Rig, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")

    server = await rig.serve(script, tls=server_tls)
    recorder = await send(rig.pool(server.url, tls=client_tls)).over()
    assert (recorder.calls, bytes(recorder.body)) == (["head", "body", "error"], b"hello")
    assert isinstance(recorder.error, ConnectionLost)


async def test_cancel_and_pause_under_tls(rig: Rig, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(BIG))
        await peer.stay()

    server = await rig.serve(script, tls=server_tls)
    pool = rig.pool(server.url, tls=client_tls)

    def pause(call: str) -> None:
        if call == "head":
            assert recorder.exchange is not None
            recorder.exchange.pause()

    recorder = send(pool, pause)
    await recorder.until(lambda: bool(recorder.calls))
    await turns(100)
    held = len(recorder.body)
    assert held < len(BIG) // 2
    assert recorder.exchange is not None
    recorder.exchange.resume()
    await recorder.until(lambda: len(recorder.body) > held)
    recorder.exchange.cancel()
    await server.peers[0].stay()
    assert pool.open_connections == 0


async def test_an_ipv6_address(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(response(b"hello"))

    try:
        server = await rig.serve(script, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    pool = rig.pool(server.url)
    assert pool.origin.authority == f"[::1]:{server.port}"
    assert (await send(pool).over()).body == b"hello"
