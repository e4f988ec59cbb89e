"""`paretoproxy serve`."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from pathlib import Path

import click
import uvicorn

from proxy.app import build
from proxy.config import Config, ConfigError, load
from proxy.server import Server
from proxy.server_protocol import ServerProtocol
from proxy.supervisor import Place, Supervisor, listen
from strategies.registry import Registry

log = logging.getLogger("paretoproxy")

KEEP_ALIVE_S = 75


@click.command("serve")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--host", help="Overrides server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Overrides server.port.")
@click.option("--workers", type=click.IntRange(1, 256), help="Overrides server.workers: processes that share the port.")
@click.option("--place", hidden=True, help="Of a worker: given by the supervisor.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def command(
    config_path: Path, host: str | None, port: int | None, workers: int | None, place: str | None, log_level: str
) -> None:
    """Serve the proxy over a fleet."""
    config = load(config_path)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    host, port = host or config.server.host, config.server.port if port is None else port
    count = workers or config.server.workers
    if place is not None:
        _work(config, Place.parse(place), log_level, config_path)
        return
    check(config)
    if count > 1:
        _supervise(config_path, host, port, count, log_level)
        return
    server = server_for(config, host, port, log_level, source=config_path)
    server.run()
    if server.force_exit:
        raise SystemExit(1)


def _supervise(config_path: Path, host: str, port: int, workers: int, log_level: str) -> None:
    """The parent of several workers."""
    try:
        listener = listen(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    log.info("%d workers serve on %s:%d", workers, host, listener.getsockname()[1])
    arguments = ["--config", str(config_path), "--log-level", log_level]
    status = asyncio.run(Supervisor(listener, arguments, workers).run())
    if status:
        raise SystemExit(status)


def _work(config: Config, place: Place, log_level: str, config_path: Path) -> None:
    """One of several workers, on the socket that it inherited."""
    server = server_for(config, "", 0, log_level, source=config_path, place=place)
    server.parent = sys.stdin.fileno()
    server.run([socket.socket(fileno=place.fd)])
    if server.force_exit:
        raise SystemExit(1)


def check(config: Config) -> None:
    """What would fail at start, found before: raises ConfigError."""
    from time import monotonic

    from proxy import catalog
    from proxy.config import client_api_keys

    client_api_keys(config)
    catalog.build(config, Registry.installed(), monotonic)


def server_for(
    config: Config,
    host: str,
    port: int,
    log_level: str,
    registry: Registry | None = None,
    *,
    source: Path | None = None,
    place: Place | None = None,
) -> Server:
    """uvloop and httptools are pinned: together they nearly double the rate of asyncio and h11. `source`: the
    configuration's file, to be watched for changes; `place`: of one of several workers."""
    return Server(
        uvicorn.Config(
            build(config, registry, source, place),
            host=host,
            port=port,
            loop="uvloop",
            http=ServerProtocol,
            lifespan="on",
            access_log=False,
            log_level=log_level,
            timeout_keep_alive=KEEP_ALIVE_S,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
    )
