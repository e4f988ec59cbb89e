"""A finished run: its report as JSON, every request as a line beside it, and both read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from profiler import files
from profiler.loadtest import LoadTestError
from profiler.loadtest.find_max import FoundMax
from profiler.loadtest.result import Result
from profiler.loadtest.run import Ran
from profiler.loadtest.schedule import Planned, Schedule
from profiler.loadtest.statistics import quantile
from profiler.loadtest.summary import OVERALL, Bucket, Summary, buckets, summarize
from profiler.loadtest.workload import Workload

SCHEMA = 1
SUMMARY, ROWS, PAGE = "summary.json", "rows.jsonl", "report.html"


class GeneratorLate(LoadTestError):
    """The generator did not keep its own schedule: the numbers would tell of it, not of the server."""


class Lateness(msgspec.Struct, frozen=True):
    """Sends after their planned time."""

    p50_ms: float
    p99_ms: float
    most_ms: float
    limit_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run. `started_at`: Unix seconds; `workload`: as validated; `notes`: what it was not."""

    schema: int = SCHEMA
    url: str
    model: str
    started_at: float
    lasted_s: float
    unfinished: int = 0
    unsent: int = 0
    late: Lateness
    overall: Summary
    classes: list[Summary]
    over_time: list[Bucket]
    found_max: FoundMax | None = None
    workload: dict[str, Any] = {}
    notes: list[str] = []

    @property
    def interrupted(self) -> bool:
        return bool(self.unfinished or self.unsent)

    @property
    def summaries(self) -> list[Summary]:
        """The classes, then all, where there are several."""
        return [*self.classes, self.overall] if len(self.classes) > 1 else self.classes


def lateness(results: list[Result], limit_ms: float) -> Lateness:
    """Raises GeneratorLate above the limit, LoadTestError where nothing was measured."""
    if not results:
        raise LoadTestError("nothing was measured: the run was stopped before its first answer")
    late = sorted(result.late_ms for result in results)
    found = Lateness(quantile(late, 0.5), quantile(late, 0.99), late[-1], limit_ms)
    if found.p99_ms > limit_ms:
        raise GeneratorLate(
            f"the generator did not keep its schedule: p99 of its sends was {found.p99_ms:.1f} ms late, at most "
            f"{limit_ms:g} ms is allowed (max_late_ms). Nothing is reported. Lower the rate, free the processor (run "
            "it on another machine than the server), or split the load among several load testers"
        )
    return found


def report(
    workload: Workload,
    schedule: Schedule,
    ran: Ran,
    *,
    url: str,
    model: str,
    started_at: float,
    found_max: FoundMax | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Raises GeneratorLate, LoadTestError."""
    late = lateness(ran.results, workload.max_late_ms)
    results = sorted(ran.results, key=lambda result: result.index)
    return Report(
        url=url,
        model=model,
        started_at=started_at,
        lasted_s=ran.lasted_s,
        unfinished=ran.unfinished,
        unsent=ran.unsent,
        late=late,
        overall=_summary(OVERALL, None, results, schedule.requests, ran.lasted_s),
        classes=[
            _summary(
                one.name,
                one.slo.model_dump(exclude_none=True),
                [result for result in results if result.slo_class == one.name],
                schedule.requests,
                ran.lasted_s,
            )
            for one in workload.classes
        ],
        over_time=buckets(results, ran.lasted_s),
        found_max=found_max,
        workload=workload.model_dump(mode="json", exclude_defaults=True),
        notes=list(notes),
    )


def _summary(
    name: str, slo: dict[str, Any] | None, results: list[Result], requests: list[Planned] | Any, lasted_s: float
) -> Summary:
    labelled = bool(results) and all(requests[result.index].question is not None for result in results)
    return summarize(name, slo, results, lasted_s, labelled)


def write_rows(results: list[Result], folder: Path) -> None:
    rows = sorted(results, key=lambda result: result.index)
    files.replace(folder / ROWS, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def write(found: Report, folder: Path) -> None:
    files.replace(folder / SUMMARY, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def read(folder: Path) -> tuple[Report, list[Result]]:
    """Raises LoadTestError."""
    try:
        found = msgspec.json.decode((folder / SUMMARY).read_bytes(), type=Report)
        lines = (folder / ROWS).read_bytes().splitlines()
        rows = [msgspec.json.decode(line, type=Result) for line in lines]
    except OSError as error:
        raise LoadTestError(f"{folder} is no folder of a load test: {error.strerror} ({error.filename})") from None
    except msgspec.DecodeError as error:
        raise LoadTestError(f"{folder}: not a load test's report: {error}") from None
    if found.schema != SCHEMA:
        raise LoadTestError(f"{folder}: report of schema {found.schema}, this program reads {SCHEMA}")
    return found, rows
