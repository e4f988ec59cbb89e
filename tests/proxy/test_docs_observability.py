"""docs/operations/observability.md names every metric, with its type and labels, and no other; and every log field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from collector import HttpCollector
from http_rig import Fleet

from proxy import access_log
from proxy.trace import Trace

TEXT = (Path(__file__).resolve().parents[2] / "docs/operations/observability.md").read_text()


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = re.findall(r"^\| `(paretoproxy_\w+)` \| (\w+) \|([\w, ]*)\| \S.* \|$", TEXT, re.MULTILINE)
    return {name: (kind, tuple(label for label in labels.strip().split(", ") if label)) for name, kind, labels in rows}


async def test_the_table_of_metrics_is_what_the_page_has(collector: HttpCollector, fleet: Fleet) -> None:
    _, proxy = await fleet.one(watched=True, traces={"path": "traces.db", "otlp_endpoint": collector.url})
    families: list[Any] = proxy.service.metrics.read()
    found = {each.name: (each.type, tuple(each._labelnames)) for each in families}
    found["paretoproxy_workers"] = ("gauge", ())  # of the page that several make
    found["paretoproxy_limits_shared"] = ("gauge", ())  # with Redis
    assert documented() == found


def test_every_field_of_the_access_log_is_told() -> None:
    logs = TEXT.partition("## Logs")[2]
    missing = [name for name in access_log.fields(Trace("0", 0.0, "/"), "m") if not re.search(rf'["`]{name}["`]', logs)]
    assert missing == []
