"""Recorded traffic to replay: arrival time, prompt length, output length, as CSV with a header line or JSON lines.

Columns by name, whichever there are: ours (`at_s`, `prompt_tokens`, `output_tokens`), the Azure LLM inference traces'
(`TIMESTAMP` as a date, `ContextTokens`, `GeneratedTokens`), BurstGPT's (`Timestamp` in seconds, `Request tokens`,
`Response tokens`), Mooncake's (`timestamp` in milliseconds, `input_length`, `output_length`).
"""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from profiler.loadtest import LoadTestError


class Arrival(NamedTuple):
    """`at_s`: seconds since the first one."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


class _Columns(NamedTuple):
    at: str
    prompt: str
    output: str
    seconds: Callable[[Any], float]


def _number(value: Any) -> float:
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is no time")
    return found


def _date(value: Any) -> float:
    """`2023-11-16 18:15:46.6805900`: more digits than Python's microseconds are cut. Without a zone: UTC."""
    whole, dot, fraction = str(value).strip().partition(".")
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    zone = fraction[len(digits) :]
    found = datetime.datetime.fromisoformat(f"{whole}{dot}{digits[:6].ljust(6, '0') if dot else ''}{zone}")
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


_KNOWN = (
    _Columns("at_s", "prompt_tokens", "output_tokens", _number),
    _Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens", _date),
    _Columns("Timestamp", "Request tokens", "Response tokens", _number),
    _Columns("timestamp", "input_length", "output_length", lambda value: _number(value) / 1e3),
)


def read(path: Path, *, until_s: float | None = None, speedup: float = 1.0) -> list[Arrival]:
    """In order of time; lines with no tokens (BurstGPT's failures) are left out. `until_s`: only those before, after
    the speed-up; a file that is in order is then not read further. Raises LoadTestError with the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(_parse(path, file, until_s, speedup))
    except OSError as error:
        raise LoadTestError(f"trace {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoadTestError(f"trace {path}: it is not UTF-8") from None
    if not found:
        raise LoadTestError(f"trace {path}: no requests in it{'' if until_s is None else f' before {until_s:g} s'}")
    found.sort()
    first_s = found[0].at_s
    return [arrival._replace(at_s=arrival.at_s - first_s) for arrival in found]


def _parse(path: Path, file: Iterable[str], until_s: float | None, speedup: float) -> Iterator[Arrival]:
    columns: _Columns | None = None
    began: float | None = None
    for number, row in _rows(path, file):
        columns = columns or _columns(path, number, row)
        try:
            at = columns.seconds(row[columns.at])
            prompt, output = int(float(row[columns.prompt])), int(float(row[columns.output]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LoadTestError(f"trace {path}, line {number}: cannot read it ({error})") from None
        began = at if began is None else began
        if until_s is not None and (at - began) / speedup >= until_s:
            return
        if prompt > 0 and output > 0:
            yield Arrival((at - began) / speedup, prompt, output)


def _rows(path: Path, file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = iter(file)
    first = next(lines, "")
    lines = chain([first], lines)
    if not first.lstrip().startswith("{"):
        yield from enumerate(csv.DictReader(lines, skipinitialspace=True), 2)
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise LoadTestError(f"trace {path}, line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise LoadTestError(f"trace {path}, line {number}: expected an object")
            yield number, row


def _columns(path: Path, number: int, row: dict[str, Any]) -> _Columns:
    for known in _KNOWN:
        if all(name in row for name in known[:3]):
            return known
    wanted = "; or ".join(", ".join(known[:3]) for known in _KNOWN)
    raise LoadTestError(f"trace {path}, line {number}: columns {', '.join(map(str, row))}; expected {wanted}")
