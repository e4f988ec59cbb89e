"""Coverage-guided fuzz by atheris of one parser: `python tests/fuzz/guided.py sse -max_total_time=60`. By hand, or by
`make fuzz`; the suite does without.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["proxy", "strategies"]):
    from proxy.config import SloDefaults
    from proxy.controls import CONTROL_HEADERS, read
    from proxy.errors import InvalidRequest
    from proxy.sse import EventSplitter
    from strategies.answers import canonical, canonical_json, extract


def sse(data: bytes) -> None:
    """Cut anywhere, it is the same."""
    at = data[0] % len(data) if data else 0
    splitter = EventSplitter()
    assert splitter.feed(data[:at]) + splitter.feed(data[at:]) == EventSplitter().feed(data)


def controls(data: bytes) -> None:
    names = [name.encode() for name in CONTROL_HEADERS]
    lines = [(names[line[0] % len(names)], line[1:]) for line in data.split(b"\n") if line]
    try:
        read(lines, None, None, data[:8].decode("latin-1"), SloDefaults())
    except InvalidRequest as error:
        json.dumps(error.message)


TARGETS: dict[str, Callable[[bytes], object]] = {
    "sse": sse,
    "controls": controls,
    "extract": lambda data: extract(data.decode("utf-8", "replace")),
    "canonical": lambda data: canonical(data.decode("utf-8", "replace")),
    "json": lambda data: canonical_json(data.decode("utf-8", "replace")),
}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: (target(data), None)[1])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
