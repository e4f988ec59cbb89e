"""`paretoproxy keys`: make API keys for clients. What is stored is their hash; the key itself is shown once."""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import click
import yaml

from proxy.client_keys import KeysError, hash_key, load_keys, new_key
from proxy.config import ConfigError

SHORT = 32  # characters: a random key has more


@click.group("keys")
def command() -> None:
    """Make API keys for clients."""


@command.command("new")
@click.argument("name")
@click.option("--file", "path", type=click.Path(path_type=Path), default=Path("keys.yaml"), show_default=True)
@click.option("--expires", type=click.DateTime(["%Y-%m-%d"]), help="Last day (UTC) on which it is valid.")
@click.option("--admin", is_flag=True, help="May see every key's traces and costs.")
@click.option("--share-prefix-cache", is_flag=True, help="Engines may share its cached prefixes with other keys.")
@click.option("--requests-per-minute", type=click.IntRange(1))
@click.option("--tokens-per-minute", type=click.IntRange(1))
@click.option("--tokens-per-day", type=click.IntRange(1))
@click.option("--usd-per-day", type=click.FloatRange(0, min_open=True))
@click.option("--concurrent-requests", type=click.IntRange(1))
@click.option("--max-n", type=click.IntRange(1), help="Most samples of one request.")
@click.option("--strategy", "strategies", multiple=True, help="Only these (and `none`); may be given several times.")
@click.option("--model", "models", multiple=True, help="Only these; may be given several times.")
def new(name: str, path: Path, expires: Any, admin: bool, share_prefix_cache: bool, **limits: Any) -> None:
    """Print a new key called NAME, and append its hash to the file."""
    key = new_key()
    entry: dict[str, Any] = {"name": name, "hash": hash_key(key)}
    if expires is not None:
        entry["expires"] = date(expires.year, expires.month, expires.day)
    entry.update({flag: True for flag, on in (("admin", admin), ("share_prefix_cache", share_prefix_cache)) if on})
    limits = {limit: list(value) if isinstance(value, tuple) else value for limit, value in limits.items() if value}
    if limits:
        entry["limits"] = limits
    _append(path, entry)
    click.echo(f"{path}: added {name!r}. This is its key; it is not shown again:", err=True)
    click.echo(key)


@command.command("hash")
def hash_() -> None:
    """Read a key from standard input, and print the hash that the file of keys takes."""
    key = sys.stdin.readline().strip() if not sys.stdin.isatty() else click.prompt("Key", hide_input=True)
    if not key:
        raise click.ClickException("no key on standard input")
    if len(key) < SHORT:
        click.echo(
            f"warning: a key of {len(key)} characters can be guessed; `paretoproxy keys new` makes one that cannot",
            err=True,
        )
    click.echo(hash_key(key))


@command.command("check")
@click.option("--file", "path", type=click.Path(path_type=Path), default=Path("keys.yaml"), show_default=True)
def check(path: Path) -> None:
    """Read a file of keys as the proxy would, and list what it holds."""
    try:
        keys = load_keys(path)
    except KeysError as error:
        raise ConfigError(str(error)) from error
    for caller in keys.callers():
        limits = ", ".join(f"{name}: {value}" for name, value in caller.limits.model_dump(exclude_none=True).items())
        rights = " (admin)" if caller.admin else " (disabled)" if caller.disabled else ""
        click.echo(f"{caller.name}{rights}: {limits or 'no limits'}")


def _append(path: Path, entry: dict[str, Any]) -> None:
    """The whole new file is checked before it takes the old one's place. Raises ConfigError."""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = before + ("\n" if before and not before.endswith("\n") else "")
        after += yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.absolute().parent, delete=False) as file:
            file.write(after)
        written = Path(file.name)
        try:
            load_keys(written)
            written.chmod(mode)
            os.replace(written, path)
        finally:
            written.unlink(missing_ok=True)
    except KeysError as error:
        problem = str(error).replace(file.name, str(path))
        raise ConfigError(
            f"{problem} (nothing was changed; the entries must be a list, one `- name: …` each)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
