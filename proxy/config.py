"""The configuration: one YAML file, every key also by environment variable, every error with file, line and key.

This is the only module that reads the environment. `PARETOPROXY_SERVER__PORT=9000` sets `server.port`;
`PARETOPROXY_MODELS__0__BACKENDS__1__URL=…` sets the second backend's URL of the first model. Values are YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from profiler import yaml_file
from proxy.client_keys import Keys, KeysError, load_keys
from proxy.config_file import ConfigError as ConfigError
from proxy.config_file import overlay, read
from proxy.config_paths import resolve_paths
from proxy.reliability.settings import AdmissionConfig, ReliabilityConfig
from proxy.upstream.pool import Origin

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s@:]+(:[^\s@:]+)*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListenTlsConfig(_Section):
    """The proxy's own certificate, in PEM."""

    cert: Path
    key: Path


class ServerConfig(_Section):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys: Path | None = Field(None, description="YAML list of the keys that clients must present, hashed")
    share_prefix_cache: bool = Field(False, description="true: engines may share cached prefixes between API keys")
    protect_metrics: bool = Field(False, description="true: /metrics needs an admin's API key")
    tls: ListenTlsConfig | None = None
    max_body_bytes: int = Field(10_485_760, ge=1024)
    max_header_bytes: int = Field(65_536, ge=1024, le=1_048_576)
    header_timeout_s: float = Field(15, gt=0, description="for a request's head to arrive whole")
    max_stream_s: float = Field(3600, gt=0, description="longest that one request may take, streamed or not")
    log_format: Literal["text", "json"] = "text"
    access_log: bool = Field(False, description="a line per finished request")
    workers: int = Field(1, ge=1, le=256, description="processes that share the port")
    grace_s: float = Field(30.0, gt=0, description="from SIGTERM to the exit, drain_delay_s included")
    drain_delay_s: float = Field(0.0, ge=0, description="how long to serve on after SIGTERM, with /ready at 503")

    @model_validator(mode="after")
    def _delay(self) -> ServerConfig:
        if self.drain_delay_s >= self.grace_s:
            raise ValueError("drain_delay_s leaves nothing of grace_s: running requests need time to finish")
        return self


class LimitsConfig(_Section):
    """Where the limits of API keys are counted."""

    redis_url: SecretStr | None = Field(None, description="shared by replicas; default: each process for itself")
    on_redis_failure: Literal["local", "refuse"] = "local"


class TlsConfig(_Section):
    """How an https backend is verified, and what it is shown. Default: the system's authorities, no certificate."""

    ca: Path | None = Field(None, description="authorities in PEM, instead of the system's")
    cert: Path | None = Field(None, description="client certificate in PEM, with its chain")
    key: Path | None = Field(None, description="its key; default: it is in `cert`")
    verify: bool = True

    @model_validator(mode="after")
    def _together(self) -> TlsConfig:
        if self.key is not None and self.cert is None:
            raise ValueError("a `key` needs its `cert`")
        if not self.verify and self.ca is not None:
            raise ValueError("give `ca` or `verify: false`, not both")
        return self


class SloDefaults(_Section):
    latency_ms: float | None = Field(None, gt=0)
    cost_usd: float | None = Field(None, gt=0)


class SloConfig(_Section):
    percentile: float = Field(0.95, gt=0.5, lt=1.0)
    defaults: SloDefaults = SloDefaults()


class TracesConfig(_Section):
    path: Path | None = Path("traces.db")
    url: SecretStr | None = Field(None, description="PostgreSQL instead of a file: postgresql://USER@HOST/DATABASE")
    retention_days: float | None = Field(None, gt=0, description="how long traces are kept; null: for ever")
    max_bytes: int | None = Field(
        None, ge=1 << 20, description="of the SQLite file, about: beyond it the oldest traces go; null: no bound"
    )
    otlp_endpoint: str | None = None
    store_prompts: bool = False
    queue_size: int = Field(10_000, ge=1)

    @field_validator("otlp_endpoint")
    @classmethod
    def _endpoint(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("expected the collector's base URL without a user, such as http://collector:4318")
        return url.rstrip("/")

    @model_validator(mode="before")
    @classmethod
    def _one_store(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("url") is not None:
            if data.get("path") is not None:
                raise ValueError("give either `path` (SQLite) or `url` (PostgreSQL)")
            return {**data, "path": None}
        return data

    @field_validator("url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("not a PostgreSQL URL: postgresql://USER@HOST:PORT/DATABASE")
        return url

    @property
    def target(self) -> Path | str | None:
        """What the trace store takes."""
        return self.url.get_secret_value() if self.url is not None else self.path


class TelemetryConfig(_Section):
    """What goes to the collector at `traces.otlp_endpoint`, and how."""

    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    headers: dict[str, str] = Field({}, description="of each export, such as the collector's API key")
    service_name: str = Field("paretoproxy", min_length=1)
    sample_ratio: float = Field(1.0, ge=0, le=1, description="share of the requests whose client has no trace")
    metrics_every_s: float = Field(30.0, gt=0)
    timeout_s: float = Field(10.0, gt=0, description="of one export with its retries")
    queue_size: int = Field(2048, ge=1, description="finished requests that wait for the collector")
    content: bool = Field(False, description="prompts and answers as span attributes")


class LaunchConfig(_Section):
    """How `paretoproxy up` starts the engine: vLLM's own flags, without the dashes."""

    model: str
    args: dict[str, Any] = {}
    env: dict[str, str] = {}
    cores: str | None = Field(None, description="CPU cores of each rank, as in VLLM_CPU_OMP_THREADS_BIND")


def _first_moment(value: object) -> object:
    """A day alone is its first moment, UTC; YAML reads one without quotes as a date."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = value.isoformat()
    return f"{value}T00:00Z" if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) else value


def _with_zone(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("say in which time zone, as in 2026-01-01T00:00Z")
    return value


Since = Annotated[datetime, BeforeValidator(_first_moment), AfterValidator(_with_zone)]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class GpuPriceStep(_Section):
    """`{from: 2026-01-01T00:00Z, usd: 3.0}`: a price from then on."""

    since: Since = Field(alias="from")
    usd: Usd


class TokenPrices(_Section):
    """USD per million tokens. `cached`: prompt tokens out of the prefix cache; default: as `prompt`."""

    prompt: Usd
    completion: Usd
    cached: Usd | None = None


class TokenPriceStep(TokenPrices):
    since: Since = Field(alias="from")


def _in_order(steps: list[Any]) -> list[Any]:
    if any(late.since <= early.since for early, late in pairwise(steps)):
        raise ValueError("steps must be in order of time, each `from` later than the one before")
    return steps


def _kind_of_price(value: object) -> str:
    return "=steps" if isinstance(value, list) else "=one"


# Tagged, so that an error speaks of the form that was meant; `_explain` leaves the tags out.
GpuPrice = Annotated[
    Annotated[Usd, Tag("=one")]
    | Annotated[list[GpuPriceStep], Field(min_length=1), AfterValidator(_in_order), Tag("=steps")],
    Discriminator(_kind_of_price),
]
TokenPrice = Annotated[
    Annotated[TokenPrices, Tag("=one")]
    | Annotated[list[TokenPriceStep], Field(min_length=1), AfterValidator(_in_order), Tag("=steps")],
    Discriminator(_kind_of_price),
]


class BackendConfig(_Section):
    name: Name
    url: str
    tensor_parallel_size: int = Field(1, ge=1)
    gpus: float = Field(1, ge=0)
    gpu_hour_usd: GpuPrice | None = Field(None, description="of one GPU: a number, or steps in time")
    usd_per_million_tokens: TokenPrice | None = Field(None, description="of hosted models, beside or instead")
    speculative: dict[str, Any] | None = None
    sampling: Literal["all", "greedy"] = Field("all", description="greedy: only requests at temperature 0 may run here")
    api_key_env: str | None = Field(None, description="environment variable with the backend's API key")
    tls: TlsConfig | None = None
    profile: Path | None = None
    launch: LaunchConfig | None = None

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        Origin.parse(url)
        return url.rstrip("/")


PooledKind = Literal["outcome", "process", "reranker", "embedding"]


class PooledConfig(_Section):
    """A model that vLLM serves with `--runner pooling`."""

    name: Name
    url: str
    kind: PooledKind
    model: str | None = Field(None, description="as the engine names it; default: the entry's name")
    step_token: str | None = Field(None, description="what ends a step for a process reward; default: a new line")
    reads_thinking: bool = Field(False, description="it was trained on answers with their thinking: it is shown both")
    gpus: float = Field(1, ge=0)
    gpu_hour_usd: GpuPrice | None = None
    usd_per_million_tokens: TokenPrice | None = None
    api_key_env: str | None = None
    tls: TlsConfig | None = None
    launch: LaunchConfig | None = None

    @property
    def as_backend(self) -> BackendConfig:
        names = ("name", "url", "gpus", "gpu_hour_usd", "usd_per_million_tokens", "api_key_env", "tls", "launch")
        # Constructed, not validated: its parts were, and steps go by the name that a file gives them.
        return BackendConfig.model_construct(**{name: getattr(self, name) for name in names})


class ModelConfig(_Section):
    name: Name
    any_of: list[Name] = Field([], description="names of other models: a choice among them, made per request")
    task: str | None = None
    quality: dict[str, Path] = {}
    answers: Literal["math", "choice", "json", "text"] | None = None
    tokenizer: Path | None = Field(None, description="folder with tokenizer.json; default: launch.model")
    reward_model: list[PooledConfig] = Field([], description="one, or a list with one of each kind")
    embedding_model: PooledConfig | None = None
    judge: Name | None = Field(None, description="name of another model here, which judges this one's answers")
    larger_model: Name | None = Field(None, description="name of the model to escalate to")
    compare_text: Literal["embeddings", "judge"] | None = Field(
        None, description="how answers of kind text are compared; default: as they are written"
    )
    backends: list[BackendConfig] = []

    @field_validator("reward_model", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [] if value is None else [value] if isinstance(value, dict) else value

    @property
    def pooled(self) -> list[PooledConfig]:
        """Everything that is served by a pooling runner for this model."""
        return [*self.reward_model, *([self.embedding_model] if self.embedding_model is not None else [])]

    @model_validator(mode="after")
    def _kinds(self) -> ModelConfig:
        kinds = [reward.kind for reward in self.reward_model]
        if "embedding" in kinds:
            raise ValueError("reward_model: an embedding model stands under `embedding_model`")
        if len(kinds) > len(set(kinds)):
            raise ValueError("reward_model: at most one of each kind (outcome, process, reranker)")
        if self.compare_text == "embeddings" and self.embedding_model is None:
            raise ValueError("compare_text: embeddings needs an `embedding_model`")
        if self.compare_text == "judge" and self.judge is None:
            raise ValueError("compare_text: judge needs a `judge`")
        return self

    @model_validator(mode="after")
    def _either(self) -> ModelConfig:
        if bool(self.any_of) == bool(self.backends):
            raise ValueError("give a model either `backends` or `any_of`")
        if self.task is not None and self.backends and self.quality and self.task not in self.quality:
            raise ValueError(f"task {self.task!r} has no table under `quality` ({', '.join(self.quality)})")
        return self


class Config(_Section):
    server: ServerConfig = ServerConfig()
    slo: SloConfig = SloConfig()
    traces: TracesConfig = TracesConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    reliability: ReliabilityConfig = ReliabilityConfig()
    admission: AdmissionConfig = AdmissionConfig()
    limits: LimitsConfig = LimitsConfig()
    models: list[ModelConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> Config:
        names = [model.name for model in self.models]
        _no_twins("model", names)
        pooled = {one.name: one for model in self.models for one in model.pooled}
        if any(pooled[one.name] != one for model in self.models for one in model.pooled):
            raise ValueError("two reward or embedding models of one name differ")
        _no_twins("backend", [*(backend.name for backend in self.backends()), *pooled])
        served = {model.name for model in self.models if model.backends}
        for model in self.models:
            if unknown := set(model.any_of) - served:
                raise ValueError(f"model {model.name!r}: any_of names {sorted(unknown)}, which have no backends")
            for key in ("judge", "larger_model"):
                other = getattr(model, key)
                if other is not None and (other not in served or other == model.name):
                    raise ValueError(f"model {model.name!r}: {key} {other!r} is no other model with backends")
        return self

    def backends(self) -> Iterator[BackendConfig]:
        for model in self.models:
            yield from model.backends

    def pooled(self) -> list[PooledConfig]:
        """Reward and embedding models, each once, though several models may share one."""
        return list({one.name: one for model in self.models for one in model.pooled}.values())


def _no_twins(kind: str, names: list[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"two {kind}s are named {twins[0]!r}")


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read, overlay the environment, validate, and make paths relative to the file's folder absolute.

    Raises ConfigError, one line per problem: `fleet.yaml:12: models[0].backends[1].url: not an http:// URL`.
    """
    data, lines = read(path)
    env_keys = overlay(data, os.environ if environ is None else environ, Config.model_fields)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(yaml_file.explain(path, error, lines, env_keys)) from error
    return resolve_paths(config, path.resolve().parent)


def with_server(config: Config, changed: Mapping[str, Any]) -> Config:
    """With other values in its section `server`, as options of a command give them."""
    return config.model_copy(update={"server": config.server.model_copy(update=dict(changed))})


def backend_api_key(backend: BackendConfig, environ: Mapping[str, str] | None = None) -> str | None:
    """The backend's key, from the variable that the configuration names. Raises ConfigError when it is not set."""
    if backend.api_key_env is None:
        return None
    key = (os.environ if environ is None else environ).get(backend.api_key_env)
    if not key:
        raise ConfigError(f"backend {backend.name}: the environment variable {backend.api_key_env} is not set")
    return key


def client_api_keys(config: Config) -> Keys | None:
    """The keys that clients may present; None where the proxy is open. Raises ConfigError."""
    if config.server.api_keys is None:
        return None
    try:
        return load_keys(config.server.api_keys, share_prefix_cache=config.server.share_prefix_cache)
    except KeysError as error:
        raise ConfigError(str(error)) from error
