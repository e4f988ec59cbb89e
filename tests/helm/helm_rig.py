"""Where the chart is, and small helpers of its tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")

CHART = Path(__file__).resolve().parents[2] / "helm"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

Manifests = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], Manifests]


def values_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def of_kind(manifests: Manifests, kind: str) -> Manifests:
    return [manifest for manifest in manifests if manifest["kind"] == kind]
