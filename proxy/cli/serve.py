"""`paretoproxy serve`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import click
import uvicorn

from proxy.app import build
from proxy.config import Config, load
from proxy.guarded_protocol import GuardedProtocol, WireLimits
from strategies.registry import Registry

KEEP_ALIVE_S = 75
GRACE_S = 30


@click.command("serve")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--host", help="Overrides server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Overrides server.port.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def command(config_path: Path, host: str | None, port: int | None, log_level: str) -> None:
    """Serve the proxy over a fleet."""
    config = load(config_path)
    check(config)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    server = server_for(config, host or config.server.host, config.server.port if port is None else port, log_level)
    server.run()


def check(config: Config) -> None:
    """What would fail at start, found before: raises ConfigError."""
    from time import monotonic

    from proxy import catalog
    from proxy.config import client_api_keys
    from proxy.service import limiter_for
    from proxy.tls import check_listener

    client_api_keys(config)
    check_listener(config.server)
    limiter_for(config)
    catalog.build(config, Registry.installed(), monotonic)


def server_for(
    config: Config, host: str, port: int, log_level: str, registry: Registry | None = None
) -> uvicorn.Server:
    """uvloop and httptools are pinned: together they nearly double the rate of asyncio and h11."""
    tls = config.server.tls
    limits = WireLimits(config.server.max_header_bytes, config.server.header_timeout_s)
    return uvicorn.Server(
        uvicorn.Config(
            build(config, registry),
            host=host,
            port=port,
            loop="uvloop",
            http=partial(GuardedProtocol, limits=limits),  # type: ignore[arg-type]  # it is called as a class is
            ws="none",
            lifespan="on",
            access_log=False,
            log_level=log_level,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_certfile=str(tls.cert) if tls is not None else None,
            ssl_keyfile=str(tls.key) if tls is not None else None,
            timeout_graceful_shutdown=GRACE_S,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
    )
