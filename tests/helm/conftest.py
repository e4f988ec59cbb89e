"""The chart, rendered by Helm's own engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helm_rig import CHART, Manifests, Render, helm


@pytest.fixture(scope="session")
def chart() -> Iterator[Any]:
    with helm.Chart.load(str(CHART)) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: Any) -> Render:
    """Values over the defaults, into the manifests of a release named `tts`."""

    def of(values: dict[str, Any]) -> Manifests:
        found = chart.render(values, name="tts", namespace="llm")
        texts = [text for path, text in found.items() if path.endswith(".yaml")]
        return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]

    return of
