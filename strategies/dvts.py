"""`dvts`, diverse verifier tree search: n/M subtrees that never compete, so that one early favourite does not take all.

Each tries M next steps of its best path and keeps the best by process reward (Hugging Face, "Scaling test-time
compute with open models", 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from strategies.base import Params as BaseParams
from strategies.search import ExpandingParams, Path
from strategies.search_run import Grow, StepSearch


class Params(ExpandingParams):
    """n/`expand` subtrees."""


class Dvts(StepSearch[Params]):
    """A subtree is over when its best path has finished. Every finished path is in the final choice."""

    name = "dvts"
    params_type: ClassVar[type[BaseParams]] = Params

    @classmethod
    def grid(cls) -> list[BaseParams]:
        return [Params(n=n) for n in (4, 8, 16)]

    def roots(self) -> list[Path]:
        trees = [Path(tree=tree) for tree in range(self.params.n // self.params.expand)]
        return [root for root in trees for _ in range(self.params.expand)]

    def growth(self) -> Grow:
        return self._grow

    def _grow(self, paths: Sequence[Path], finished: Sequence[Path]) -> list[Path]:
        best: dict[int, Path] = {}
        for path in paths:
            if path.tree not in best or path.reward > best[path.tree].reward:
                best[path.tree] = path
        return [path for path in best.values() if not path.finished for _ in range(self.params.expand)]
