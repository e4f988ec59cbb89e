"""What this process holds: memory, file descriptors, asyncio tasks. A leak shows here first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATM, _FDS = Path("/proc/self/statm"), Path("/proc/self/fd")


class ProcessMetrics(Collector):
    """Read on the event loop. Where the system has no /proc, only tasks are told."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("paretoproxy_process_tasks", "asyncio tasks", value=len(asyncio.all_tasks()))
        try:
            pages, fds = int(_STATM.read_text().split()[1]), len(os.listdir(_FDS))
        except (OSError, ValueError):
            return
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        yield GaugeMetricFamily("paretoproxy_process_resident_memory_bytes", "Resident set", value=memory)
        yield GaugeMetricFamily("paretoproxy_process_open_fds", "Open file descriptors", value=fds)
