"""TLS towards backends: verified against the system's authorities unless the configuration says otherwise."""

from __future__ import annotations

import logging
import ssl

from proxy.config import BackendConfig, ConfigError, ServerConfig

log = logging.getLogger("paretoproxy")


def backend_context(backend: BackendConfig) -> ssl.SSLContext | None:
    """None: the pool's own default, which verifies. Raises ConfigError, naming the file that is at fault."""
    tls = backend.tls
    if tls is None:
        return None
    if not backend.url.startswith("https:"):
        raise ConfigError(f"backend {backend.name}: tls: its url is not https://")
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca is not None else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"backend {backend.name}: tls.ca: cannot use {tls.ca}: {_reason(error)}") from error
    if not tls.verify:
        log.warning("backend %s: its certificate is not verified (tls.verify: false)", backend.name)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            files = f"{tls.cert} with {tls.key}" if tls.key is not None else str(tls.cert)
            raise ConfigError(f"backend {backend.name}: tls.cert: cannot use {files}: {_reason(error)}") from error
    return context


def check_listener(server: ServerConfig) -> None:
    """Raises ConfigError where the proxy's own certificate cannot be used."""
    if server.tls is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.tls.cert, server.tls.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        files = f"{server.tls.cert} with {server.tls.key}"
        raise ConfigError(f"server.tls: cannot use {files}: {_reason(error)}") from error


def _no_password() -> bytes:
    """Else OpenSSL would ask on the terminal, and wait."""
    raise ValueError("the key is encrypted; give one that is not, readable by the proxy alone")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
