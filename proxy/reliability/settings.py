"""The sections `reliability` and `admission` of the configuration. `proxy/config.py` reads them; why the defaults are
what they are is in docs/operations/reliability.md."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetriesConfig(_Section):
    max_attempts: int = Field(3, ge=1, le=10, description="the first one included; 1 turns retries off")
    budget: float = Field(0.2, ge=0, le=1, description="retries as a share of the requests of the last 10 s")
    reserve: int = Field(20, ge=0, description="retries per 10 s that are allowed beyond the share")
    backoff_ms: float = Field(25, ge=0, description="upper end of the first pause; it doubles with every attempt")
    max_backoff_ms: float = Field(250, ge=0)
    max_wait_ms: float = Field(2000, ge=0, description="the longest Retry-After of a backend that is waited for")


class BreakerConfig(_Section):
    consecutive_failures: int = Field(5, ge=1)
    error_rate: float = Field(0.5, gt=0, le=1, description="of the answers of the last 10 s")
    min_requests: int = Field(20, ge=1, description="fewer answers say nothing of the error rate")
    open_s: float = Field(5, gt=0, description="the first time; it doubles with every time in a row")
    max_open_s: float = Field(60, gt=0)

    @model_validator(mode="after")
    def _order(self) -> BreakerConfig:
        if self.max_open_s < self.open_s:
            raise ValueError("max_open_s is less than open_s")
        return self


class OutliersConfig(_Section):
    every_s: float = Field(5, gt=0)
    max_ejected: float = Field(0.5, ge=0, lt=1, description="share of a model's backends; never the last that serves")
    error_rate_margin: float = Field(0.2, ge=0, le=1, description="over the others', beyond what chance explains")
    latency_factor: float = Field(3, gt=1, description="how many times as slow, against its prediction, as the others")
    min_requests: int = Field(20, ge=1)
    eject_s: float = Field(30, gt=0, description="the first time; it doubles with every time in a row")
    max_eject_s: float = Field(300, gt=0)

    @model_validator(mode="after")
    def _order(self) -> OutliersConfig:
        if self.max_eject_s < self.eject_s:
            raise ValueError("max_eject_s is less than eject_s")
        return self


class HedgeConfig(_Section):
    after_percentile: float = Field(0.95, ge=0.5, lt=1, description="of the recent times to the first byte")
    budget: float = Field(0.05, gt=0, le=1, description="hedges as a share of the requests of the last 10 s")


class ReliabilityConfig(_Section):
    """`breaker`, `outliers`, `hedge`: null turns the mechanism off."""

    retries: RetriesConfig = RetriesConfig()
    breaker: BreakerConfig | None = BreakerConfig()
    outliers: OutliersConfig | None = OutliersConfig()
    hedge: HedgeConfig | None = None


class AdmissionConfig(_Section):
    """Per model and per process, but for the bytes, which are of all requests together."""

    max_in_flight: int = Field(1024, ge=1)
    max_queued: int = Field(1024, ge=0)
    max_queue_s: float = Field(30, gt=0)
    max_held_bytes: int = Field(536_870_912, ge=1024, description="of request bodies")
    classes: dict[str, int] = Field(
        {"priority": 0, "default": 1, "flex": 2}, description="by `service_tier`: the highest number is shed first"
    )
