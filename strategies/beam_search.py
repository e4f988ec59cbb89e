"""`beam-search`: of n beams keep the n/M best by process reward after every step, and try M next steps of each.

As in "Scaling LLM Test-Time Compute Optimally" (arXiv 2408.03314), M there and here 4 by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from strategies.base import Params as BaseParams
from strategies.search import ExpandingParams, Path
from strategies.search_run import Grow, StepSearch


class Params(ExpandingParams):
    """n beams, n/`expand` of which are kept."""


class BeamSearch(StepSearch[Params]):
    """A finished beam competes for its place like the others but is not continued; the search is over when all that
    are kept have finished. Every finished one, kept or not, is in the final choice."""

    name = "beam-search"
    params_type: ClassVar[type[BaseParams]] = Params

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n) for n in (4, 8, 16)]

    def growth(self) -> Grow:
        return self._grow

    def _grow(self, paths: Sequence[Path], finished: Sequence[Path]) -> list[Path]:
        kept = sorted(paths, key=lambda path: -path.reward)[: self.params.n // self.params.expand]
        return [again for path in kept for again in [path] * (1 if path.finished else self.params.expand)]
