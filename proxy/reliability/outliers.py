"""Ejects the backend that is far off its peers: of one model, by error rate, or by latency against its prediction.

A breaker sees a backend that answers nothing; this sees one that answers, but worse than the others do. Where all are
bad, none is an outlier: then it is the load or the requests, and fewer backends would make it worse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import median

from proxy.backend import Backend
from proxy.catalog import Catalog
from proxy.reliability.settings import OutliersConfig

Z = 2.58  # 99%: looked at every few seconds, chance alone must not eject


def bounds(failures: int, total: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = failures / total, Z * Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


class Outliers:
    """Owns its task. `catalog`: set it anew where another one is served. `look`: one look at one model's backends, for
    who has no task."""

    def __init__(self, config: OutliersConfig, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._config = config
        self.catalog = catalog
        self._clock = clock
        self._seen: dict[str, int] = {}  # latencies that were known when it last came back
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.every_s)
            for served in self.catalog.served.values():
                self.look(served.backends)

    def look(self, backends: Sequence[Backend]) -> None:
        """Eject the worst, one a look: after it the others' rates may look different."""
        serving = [backend for backend in backends if backend.health.state == "closed"]
        ejected = [b for b in backends if b.health.state != "closed" and b.health.cause == "outlier"]
        if len(serving) < 2 or len(ejected) + 1 > self._config.max_ejected * len(backends):
            return
        found = self._by_errors(serving) or self._by_latency(serving)
        if found is not None:
            backend, reason = found
            self._seen[backend.name] = backend.correction.seen
            backend.health.eject(reason, self._config.eject_s, self._config.max_eject_s)

    def _by_errors(self, serving: Sequence[Backend]) -> tuple[Backend, str] | None:
        now, worst = self._clock(), None
        counts = [backend.health.answers.at(now) for backend in serving]
        failures, total = sum(count.of_kind for count in counts), sum(count.total for count in counts)
        for backend, mine in zip(serving, counts, strict=True):
            others = total - mine.total
            if mine.total < self._config.min_requests or others < self._config.min_requests:
                continue
            least = bounds(mine.of_kind, mine.total)[0]
            most = bounds(failures - mine.of_kind, others)[1]
            over = least - most - self._config.error_rate_margin
            if over > 0 and (worst is None or over > worst[0]):
                rates = f"{mine.of_kind} of its last {mine.total} requests failed"
                worst = over, backend, f"{rates}, {failures - mine.of_kind} of its peers' {others}"
        return worst[1:] if worst is not None else None

    def _by_latency(self, serving: Sequence[Backend]) -> tuple[Backend, str] | None:
        """Against predictions of the same kind: a wide prior's are no measure for a profile's."""
        worst = None
        for assumed in (False, True):
            alike = [b for b in serving if b.profile.assumed == assumed and self._known(b)]
            for backend in alike:
                others = [other.correction.bias for other in alike if other is not backend]
                if not others:
                    continue
                factor = backend.correction.bias / median(others)
                if factor > self._config.latency_factor and (worst is None or factor > worst[0]):
                    reason = f"it takes {factor:.1f} times as long against its prediction as its peers"
                    worst = factor, backend, reason
        return worst[1:] if worst is not None else None

    def _known(self, backend: Backend) -> bool:
        """Enough was seen, and seen since it came back: what it was ejected for is no news."""
        return backend.correction.seen - self._seen.get(backend.name, 0) >= self._config.min_requests
