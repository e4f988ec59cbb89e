"""One /metrics page for several workers: whichever answers, it tells the sum of all, the dead ones' counters included.

Each worker writes what it has counted into a file of a folder that they share, every second and before it answers a
scrape. The one that is scraped adds the others' files to its own numbers. A scrape thus sees others a second late at
most, and never an older number than the last scrape saw, whoever answered that. The supervisor adds the file of a
worker that died to `gone`; what a worker that was killed had counted in its last second is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

log = logging.getLogger("paretoproxy")

WRITE_EVERY_S = 1.0
GONE = "gone"
IN_FLIGHT, OTHERS = "paretoproxy_backend_in_flight", "paretoproxy_backend_others"

# What a gauge of several workers is. Counters and histograms are sums.
RULES: dict[str, Callable[[Iterable[float]], float]] = {
    "paretoproxy_backend_up": min,  # 1 where every worker's last look had an answer
    IN_FLIGHT: sum,
    OTHERS: fmean,  # then corrected: to one worker the others' branches are strangers'
    "paretoproxy_backend_metric_missing": max,
    "paretoproxy_backend_latency_bias": fmean,
    "paretoproxy_backend_latency_spread": fmean,
    "paretoproxy_expected_accuracy": fmean,
    "paretoproxy_quality_drift": lambda values: max(values, key=abs),
    "paretoproxy_limits_shared": min,
    "paretoproxy_backend_state": max,  # a state that any worker is in
    "paretoproxy_retry_budget_left": sum,
    "paretoproxy_admitted": sum,
    "paretoproxy_queued": sum,
    "paretoproxy_held_bytes": sum,
    "paretoproxy_trace_store_up": min,
    "paretoproxy_traces_waiting": sum,
    "paretoproxy_telemetry_queue": sum,
    "paretoproxy_config_loaded_at_seconds": min,  # of the worker that is furthest behind
    "paretoproxy_process_tasks": sum,
    "paretoproxy_process_resident_memory_bytes": sum,
    "paretoproxy_process_open_fds": sum,
}


class Row(msgspec.Struct, array_like=True):
    """One sample."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True):
    name: str
    help: str
    kind: str
    rows: list[Row]


class Snapshot(msgspec.Struct):
    """`workers`: whose numbers are in it; more than one in what is kept of the gone."""

    workers: list[str]
    families: list[Family]


_decode = msgspec.json.Decoder(Snapshot).decode


def snapshot(worker: str, families: Iterable[Metric]) -> Snapshot:
    told = [
        Family(f.name, f.documentation, f.type, [Row(s.name, s.labels, float(s.value)) for s in f.samples])
        for f in families
    ]
    return Snapshot([worker], told)


def merged(snapshots: Sequence[Snapshot], gone: Snapshot | None = None) -> list[Metric]:
    """Of the living, with the counters of the gone."""
    families: dict[str, Metric] = {}
    found: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for told, lives in [*((one, True) for one in snapshots), *([(gone, False)] if gone is not None else [])]:
        for family in told.families:
            if not lives and family.kind == "gauge":
                continue
            families.setdefault(family.name, Metric(family.name, family.help, family.kind))
            rows = found.setdefault(family.name, {})
            for row in family.rows:
                rows.setdefault((row.name, tuple(row.labels.items())), []).append(row.value)
    for name, metric in families.items():
        rule = RULES.get(name, max) if metric.type == "gauge" else sum
        metric.samples = [Sample(row, dict(labels), rule(values)) for (row, labels), values in found[name].items()]
    _without_each_other(families, len(snapshots))
    return list(families.values())


def _without_each_other(families: dict[str, Metric], workers: int) -> None:
    """Each counts its siblings' branches among those of others. The engine's total, own and others', is the same for
    all; what is left of it without the own of all are others'."""
    ours = {tuple(s.labels.items()): s.value for s in _samples(families, IN_FLIGHT)}
    if (others := families.get(OTHERS)) is not None and workers > 1:
        others.samples = [
            Sample(s.name, s.labels, max(0.0, s.value - own * (workers - 1) / workers))
            for s in others.samples
            for own in [ours.get(tuple(s.labels.items()), 0.0)]
        ]


def _samples(families: dict[str, Metric], name: str) -> list[Sample]:
    return families[name].samples if name in families else []


class Exchange:
    """One worker's side of the folder. `name`: of the worker, unique among all that the folder has seen."""

    def __init__(self, folder: Path, name: str, read: Callable[[], list[Metric]]) -> None:
        self._folder, self._name, self._read = folder, name, read
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # an older page must not replace a newer one

    async def start(self) -> None:
        await self._write()
        self._task = asyncio.create_task(self._keep_writing())

    async def aclose(self) -> None:
        """Leaves the last numbers for the supervisor."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._write()

    async def page(self) -> list[Metric]:
        """What all have counted."""
        own = await self._write()
        return await asyncio.to_thread(self._with_others, own)

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                await self._write()
            except OSError as error:
                log.error("the metrics of worker %s cannot be shared: %s", self._name, error)

    async def _write(self) -> Snapshot:
        """Numbers are read on the loop, where they change; their samples are made, and written, in a thread."""
        async with self._writing:
            return await asyncio.to_thread(self._replace_own, self._read())

    def _replace_own(self, families: list[Metric]) -> Snapshot:
        own = snapshot(self._name, families)
        _replace(self._folder / f"{self._name}.json", own)
        return own

    def _with_others(self, own: Snapshot) -> list[Metric]:
        found, gone = read_folder(self._folder)
        living = [own, *(one for one in found if one.workers != own.workers)]
        told = GaugeMetricFamily("paretoproxy_workers", "Processes that share the port", value=len(living))
        return [*merged(living, gone), told]


def read_folder(folder: Path) -> tuple[list[Snapshot], Snapshot | None]:
    """Of the living, and of the gone. One that is gone may still have a file of its own for a moment: it is left
    out. In this order, so that nobody is missed who goes meanwhile."""
    found = {path.stem: told for path in sorted(folder.glob("*.json")) if (told := _read_file(path)) is not None}
    gone = _read_file(folder / f"{GONE}.json")
    left = set(gone.workers) if gone is not None else set()
    return [told for name, told in found.items() if name != GONE and name not in left], gone


def bury(folder: Path, worker: str) -> None:
    """By the supervisor, of a worker that ended: its counters are kept among those of the gone. One at a time.
    Raises OSError."""
    own = folder / f"{worker}.json"
    told, gone = _read_file(own), _read_file(folder / f"{GONE}.json")
    if told is None:
        return
    both = [one for one in (gone, told) if one is not None]
    families = [metric for metric in merged(both) if metric.type != "gauge"]
    kept = snapshot(worker, families)
    _replace(folder / f"{GONE}.json", Snapshot([name for one in both for name in one.workers], kept.families))
    own.unlink()


def _read_file(path: Path) -> Snapshot | None:
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def _replace(path: Path, told: Snapshot) -> None:
    """At once: nobody reads half of it. Raises OSError."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(msgspec.json.encode(told))
    draft.replace(path)
