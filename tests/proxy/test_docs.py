"""The documents name everything that a user can say."""

from pathlib import Path

from pydantic import BaseModel

from proxy.cli import _COMMANDS
from proxy.client_keys import KeyLimits
from proxy.config import (
    BackendConfig,
    Config,
    LaunchConfig,
    LimitsConfig,
    ListenTlsConfig,
    ModelConfig,
    ServerConfig,
    SloConfig,
    TelemetryConfig,
    TlsConfig,
    TracesConfig,
)
from proxy.controls import CONTROL_HEADERS
from proxy.reliability.settings import (
    AdmissionConfig,
    BreakerConfig,
    HedgeConfig,
    OutliersConfig,
    ReliabilityConfig,
    RetriesConfig,
)
from strategies.registry import Registry

RELIABILITY_SECTIONS = (
    AdmissionConfig,
    BreakerConfig,
    HedgeConfig,
    OutliersConfig,
    ReliabilityConfig,
    RetriesConfig,
)
ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = (ROOT / "docs/contracts.md").read_text()
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_contracts() -> None:
    assert [name for name in _COMMANDS if f"`{name}" not in CONTRACTS] == []


def test_every_control_header_is_in_the_contracts() -> None:
    plain = [name for name in CONTROL_HEADERS if not name.startswith("x-llm-d-")]
    assert [name for name in plain if f"`{name}`" not in CONTRACTS] == []


def test_every_strategy_is_in_the_readme() -> None:
    assert [name for name in Registry.installed().names if f"`{name}`" not in README] == []


def test_every_configuration_key_is_in_the_contracts() -> None:
    sections: tuple[type[BaseModel], ...] = (
        Config,
        ServerConfig,
        SloConfig,
        TracesConfig,
        TelemetryConfig,
        LimitsConfig,
        ModelConfig,
        BackendConfig,
        LaunchConfig,
        TlsConfig,
        ListenTlsConfig,
        KeyLimits,
        *RELIABILITY_SECTIONS,
    )
    keys = [key for section in sections for key in section.model_fields]
    assert [key for key in keys if f"{key}:" not in CONTRACTS] == []


def test_every_file_that_the_architecture_names_exists() -> None:
    import re

    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:proxy|strategies|profiler)/[\w/]+\.py)`", text))
    assert named and [name for name in named if not (ROOT / name).exists()] == []
