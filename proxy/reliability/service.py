"""All of it, as a running proxy has it: built once, from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from proxy.catalog import Catalog
from proxy.config import Config
from proxy.reliability.admission import Admission
from proxy.reliability.hedging import Hedging
from proxy.reliability.outliers import Outliers
from proxy.reliability.retrying import Retries


class Reliability:
    """`start` and `aclose` for what runs in the background. `backends`: all that are served, scorers included."""

    __slots__ = ("admission", "backends", "hedging", "outliers", "retries")

    def __init__(self, config: Config, catalog: Catalog, rng: Random, clock: Callable[[], float]) -> None:
        rules = config.reliability
        self.retries = Retries(rules.retries, rng, clock)
        self.hedging = Hedging(rules.hedge, clock) if rules.hedge is not None else None
        self.outliers = Outliers(rules.outliers, catalog, clock) if rules.outliers is not None else None
        self.admission = Admission(config.admission, clock)
        self.backends = (*catalog.backends, *catalog.pooled)

    def follow(self, catalog: Catalog) -> None:
        """Another one is served from now on."""
        self.backends = (*catalog.backends, *catalog.pooled)
        if self.outliers is not None:
            self.outliers.catalog = catalog

    async def start(self) -> None:
        if self.outliers is not None:
            await self.outliers.start()

    async def aclose(self) -> None:
        if self.outliers is not None:
            await self.outliers.aclose()
