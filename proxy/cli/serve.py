"""`paretoproxy serve`."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import uvicorn

from proxy import logs
from proxy.app import build
from proxy.config import Config, ConfigError, load, with_server
from proxy.guarded_protocol import GuardedProtocol, WireLimits
from proxy.server import Server
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
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Overrides server.log_format.")
@click.option("--access-log/--no-access-log", default=None, help="Overrides server.access_log: a line per request.")
def command(
    config_path: Path,
    host: str | None,
    port: int | None,
    workers: int | None,
    place: str | None,
    log_level: str,
    log_format: logs.LogFormat | None,
    access_log: bool | None,
) -> None:
    """Serve the proxy over a fleet."""
    given = {"log_format": log_format, "access_log": access_log}
    overrides = {key: value for key, value in given.items() if value is not None}
    config = with_server(load(config_path), overrides)
    if place is None:
        check(config)
    handler = logs.configure(config.server.log_format, log_level)
    host, port = host or config.server.host, config.server.port if port is None else port
    count = workers or config.server.workers
    try:
        if place is not None:
            _work(config, Place.parse(place), log_level, config_path, overrides)
        elif count > 1:
            arguments = ["--config", str(config_path), "--log-level", log_level]
            if log_format is not None:
                arguments += ["--log-format", log_format]
            if access_log is not None:
                arguments += ["--access-log" if access_log else "--no-access-log"]
            _supervise(host, port, count, arguments)
        else:
            server = server_for(config, host, port, log_level, source=config_path, overrides=overrides)
            server.run()
            if server.force_exit:
                raise SystemExit(1)
    finally:
        handler.flush()


def _supervise(host: str, port: int, workers: int, arguments: list[str]) -> None:
    """The parent of several workers."""
    try:
        listener = listen(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    log.info("%d workers serve on %s:%d", workers, host, listener.getsockname()[1])
    status = asyncio.run(Supervisor(listener, arguments, workers).run())
    if status:
        raise SystemExit(status)


def _work(config: Config, place: Place, log_level: str, config_path: Path, overrides: dict[str, Any]) -> None:
    """One of several workers, on the socket that it inherited."""
    server = server_for(config, "", 0, log_level, source=config_path, overrides=overrides, place=place)
    server.parent = sys.stdin.fileno()
    server.run([socket.socket(fileno=place.fd)])
    if server.force_exit:
        raise SystemExit(1)


def check(config: Config) -> None:
    """What would fail at start, found before: raises ConfigError."""
    from time import monotonic

    from proxy import catalog_build, telemetry
    from proxy.config import client_api_keys
    from proxy.service import limiter_for
    from proxy.tls import check_listener

    client_api_keys(config)
    telemetry.check(config)
    check_listener(config.server)
    limiter_for(config)
    catalog_build.build(config, Registry.installed(), monotonic)


def server_for(
    config: Config,
    host: str,
    port: int,
    log_level: str,
    registry: Registry | None = None,
    *,
    source: Path | None = None,
    place: Place | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Server:
    """uvloop and httptools are pinned: together they nearly double the rate of asyncio and h11. `source`: the
    configuration's file, to be watched for changes; `overrides`: of its section `server`; `place`: of one of several
    workers."""
    tls = config.server.tls
    limits = WireLimits(config.server.max_header_bytes, config.server.header_timeout_s)
    return Server(
        uvicorn.Config(
            build(config, registry, source, place, overrides),
            host=host,
            port=port,
            loop="uvloop",
            http=partial(GuardedProtocol, limits=limits),  # type: ignore[arg-type]  # it is called as a class is
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level=log_level,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_certfile=str(tls.cert) if tls is not None else None,
            ssl_keyfile=str(tls.key) if tls is not None else None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
    )
