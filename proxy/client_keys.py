"""The clients' API keys as the proxy holds them: hashed, each with its name, its rights and its limits.

Why a fast hash, and no bcrypt: bcrypt, scrypt and Argon2 make guessing dear where people choose passwords. A key here
is 256 random bits; nobody guesses it, at whatever price a guess comes. A slow hash would only cost every request a
tenth of a second of the event loop. Keys that people made up are weak whatever hashes them: `paretoproxy keys` makes
random ones.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from time import time
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

log = logging.getLogger("paretoproxy.keys")

PREFIX = "pp-"
SCHEME = "sha256:"
_LOOKED_UP_BYTES = 8  # of a digest: where its entry is found; the whole digest is then compared in constant time
_NOBODY = bytes(32)


class KeysError(Exception):
    """The file of keys cannot be used; the message says where and what to change, and never shows a key."""


class KeyLimits(BaseModel):
    """What one key may do; None: no limit. Per minute: a bucket that refills steadily; per day: from midnight UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    usd_per_day: float | None = Field(None, gt=0, allow_inf_nan=False)
    concurrent_requests: int | None = Field(None, ge=1)
    max_n: int | None = Field(None, ge=1, description="most samples of one request")
    strategies: frozenset[str] | None = Field(None, description="`none` is always allowed")
    models: frozenset[str] | None = Field(None, description="names as clients send them")

    @property
    def metered(self) -> bool:
        """Whether there is anything to count."""
        counted = (self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day, self.usd_per_day)
        return any(limit is not None for limit in (*counted, self.concurrent_requests))


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` None: the proxy has no keys and is open. `admin`: sees what all others did. `cache_salt`: keeps
    the key's prefix cache apart from others', None where it is shared. `expires_at`: Unix seconds."""

    name: str | None
    limits: KeyLimits = NO_LIMITS
    admin: bool = False
    cache_salt: str | None = None
    expires_at: float | None = None
    disabled: bool = False


ANYBODY = Caller(None, admin=True)


@dataclass(frozen=True, slots=True)
class Keys:
    """An immutable set of keys: a reload makes a new one and puts it in the old one's place."""

    by_digest: Mapping[bytes, tuple[bytes, Caller]] = field(repr=False)

    def find(self, token: bytes) -> Caller | None:
        """Whose key it is. One hash, one look-up, one comparison, whether it is known or not."""
        digest = hashlib.sha256(token).digest()
        known, caller = self.by_digest.get(digest[:_LOOKED_UP_BYTES], (_NOBODY, None))
        return caller if hmac.compare_digest(known, digest) else None

    def callers(self) -> list[Caller]:
        """Each once, by name."""
        named = {caller.name: caller for _, caller in self.by_digest.values()}
        return list(named.values())


def new_key() -> str:
    """256 random bits behind a prefix that secret scanners can look for."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """As the file stores it."""
    return SCHEME + hashlib.sha256(key.encode()).hexdigest()


# -- the file --


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    hash: list[str] = Field(min_length=1, max_length=4)
    expires: datetime | None = None
    disabled: bool = False
    admin: bool = False
    share_prefix_cache: bool = False
    limits: KeyLimits = NO_LIMITS

    @field_validator("hash", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("hash")
    @classmethod
    def _hashes(cls, hashes: list[str]) -> list[str]:
        for one in hashes:
            if not one.startswith(SCHEME) or _digest(one) is None:
                raise ValueError("not `sha256:` and 64 hex digits; `paretoproxy keys hash` makes it of a key")
        return hashes

    @field_validator("expires", mode="before")
    @classmethod
    def _whole_days(cls, value: object) -> object:
        """A date is valid through its last second, UTC."""
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day, 23, 59, 59, tzinfo=UTC)
        if not isinstance(value, datetime | None):
            raise ValueError("expected a date (2027-01-31) or a date with a time")
        return value


def load_keys(path: Path, *, share_prefix_cache: bool = False) -> Keys:
    """Read a file of keys; may be called again at any time. Raises KeysError.

    `share_prefix_cache`: of all keys. A plain key (an entry that is a string) still works, with no limits and no admin
    rights, and is warned about.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KeysError(f"cannot read server.api_keys {path}: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError):
        raise KeysError(f"cannot read server.api_keys {path}: it is not UTF-8 text") from None
    except RecursionError:
        raise KeysError(f"cannot read server.api_keys {path}: it is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # its own text would show the line, and a key with it
        where = f":{mark.line + 1}" if mark is not None else ""
        raise KeysError(f"cannot read server.api_keys {path}{where}: not YAML") from None
    if not isinstance(entries, list) or not entries:
        raise KeysError(f"{path}: expected a YAML list of at least one key; `paretoproxy keys new NAME` adds one")
    callers = [_caller(path, at, entry, share_prefix_cache) for at, entry in enumerate(entries)]
    plain = sum(isinstance(entry, str) for entry in entries)
    if plain:
        log.warning(
            "%s: %d of %d keys are stored in plain text. Make hashed ones with `paretoproxy keys new NAME`, or replace "
            "each by {name: …, hash: …} with what `paretoproxy keys hash` prints",
            path,
            plain,
            len(entries),
        )
    return _indexed(path, callers)


def _indexed(path: Path, callers: Iterable[tuple[list[bytes], Caller]]) -> Keys:
    by_digest: dict[bytes, tuple[bytes, Caller]] = {}
    names: set[str | None] = set()
    for digests, caller in callers:
        if caller.name in names:
            raise KeysError(f"{path}: two keys are named {caller.name!r}; several keys of one name go under one `hash`")
        names.add(caller.name)
        for digest in digests:
            if digest[:_LOOKED_UP_BYTES] in by_digest:
                raise KeysError(f"{path}: key {caller.name!r} is given twice")
            by_digest[digest[:_LOOKED_UP_BYTES]] = digest, caller
    return Keys(by_digest)


def _caller(path: Path, at: int, entry: Any, share: bool) -> tuple[list[bytes], Caller]:
    if isinstance(entry, str) and entry:
        plain = hashlib.sha256(entry.encode("utf-8", "surrogatepass")).digest()
        return [plain], Caller(f"key-{at + 1}", cache_salt=None if share else _salt(plain))
    if not isinstance(entry, dict):
        raise KeysError(f"{path}: entry {at + 1}: expected {{name: …, hash: …}}")
    try:
        read = _Entry.model_validate(entry)
    except ValidationError as error:
        raise KeysError("\n".join(_explained(path, at, entry, problem) for problem in error.errors())) from None
    digests = [digest for one in read.hash if (digest := _digest(one)) is not None]
    expires = read.expires
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return digests, Caller(
        read.name,
        limits=read.limits,
        admin=read.admin,
        cache_salt=None if share or read.share_prefix_cache else _salt(digests[0]),
        expires_at=expires.timestamp() if expires is not None else None,
        disabled=read.disabled,
    )


def _explained(path: Path, at: int, entry: Mapping[Any, Any], problem: Any) -> str:
    message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
    name = entry.get("name")
    whose = f"key {name!r}" if isinstance(name, str) and len(name) <= 100 else f"entry {at + 1}"
    return f"{path}: {whose}: {'.'.join(str(part) for part in problem['loc'])}: {message}"


def _digest(stored: str) -> bytes | None:
    try:
        digest = bytes.fromhex(stored.removeprefix(SCHEME))
    except ValueError:
        return None
    return digest if len(digest) == 32 else None


def _salt(digest: bytes) -> str:
    """The same on every replica that reads this file and after every start; whoever does not hold the file cannot tell
    it. 43 characters, none of which an engine refuses."""
    return salted(digest.hex(), "prefix cache")


def salted(secret: str, text: str) -> str:
    """HMAC-SHA256 in URL-safe characters."""
    mac = hmac.new(secret.encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return urlsafe_b64encode(mac).rstrip(b"=").decode()


def expired(caller: Caller, now: float | None = None) -> bool:
    return caller.expires_at is not None and (time() if now is None else now) > caller.expires_at
