"""What has to add up: traces against wall-clock GPU time, and against the engines' own counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GENERATED, PROMPT = "vllm:generation_tokens_total", "vllm:prompt_tokens_total"


@dataclass(frozen=True)
class Counted:
    """Tokens: an engine's own counters, or what was heard of them."""

    prompt: float = 0.0
    completion: float = 0.0

    def __sub__(self, other: Counted) -> Counted:
        return Counted(self.prompt - other.prompt, self.completion - other.completion)


def counters(page: str) -> Counted:
    """From an engine's /metrics; summed over its ranks."""
    sums = {name: 0.0 for name in (GENERATED, PROMPT)}
    for line in page.splitlines():
        name = line.partition("{")[0]
        if name in sums:
            sums[name] += float(line.rsplit(" ", 1)[1])
    return Counted(sums[PROMPT], sums[GENERATED])


@dataclass(frozen=True)
class Branches:
    """Of some branches: how many, and their tokens; `estimated` of the completion's were not counted by anybody."""

    count: int
    prompt: int
    completion: int
    estimated: int
    gpu_seconds: float

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Branches:
        found = list(rows)
        names = ("prompt_tokens", "completion_tokens", "estimated_tokens", "gpu_seconds")
        prompt, completion, estimated, seconds = (sum(row[name] for row in found) for name in names)
        return cls(len(found), prompt, completion, estimated, seconds)


def rows_of(traces: Sequence[Mapping[str, Any]], backend: str) -> list[Mapping[str, Any]]:
    return [row for trace in traces for row in trace["branches"] if row["backend"] == backend]


@dataclass(frozen=True)
class Reconciled:
    """One backend over one load. `wall_s`, of its GPUs; `idle_s` and `others_s`: as the proxy tells them."""

    backend: str
    wall_s: float
    idle_s: float
    others_s: float
    branches: Branches
    engine: Counted

    @property
    def time_error(self) -> float:
        """Of attributed + idle, against wall-clock GPU time."""
        return (self.branches.gpu_seconds + self.idle_s) / self.wall_s - 1

    @property
    def token_error(self) -> float:
        """Of the traces' generated tokens, against the engine's; below zero: some are missing."""
        return self.branches.completion / self.engine.completion - 1

    @property
    def counted_error(self) -> float:
        """The same without estimates."""
        return (self.branches.completion - self.branches.estimated) / self.engine.completion - 1

    @property
    def prompt_error(self) -> float:
        return self.branches.prompt / self.engine.prompt - 1


def table(found: Sequence[Reconciled]) -> str:
    lines = [
        "| backend | wall, GPU s | attributed | idle | others | attributed + idle | engine's tokens | traces' | "
        "error | of them estimated | without them | engine's prompt tokens | traces' | error |",
        "|---|" + "--:|" * 13,
    ]
    for one in found:
        has, told = one.branches, one.engine
        cells = [
            one.backend,
            f"{one.wall_s:.2f}",
            f"{has.gpu_seconds:.2f}",
            f"{one.idle_s:.2f}",
            f"{one.others_s:.2f}",
            f"{one.time_error:+.2%}",
            f"{told.completion:.0f}",
            str(has.completion),
            f"{one.token_error:+.2%}",
            str(has.estimated),
            f"{one.counted_error:+.2%}",
            f"{told.prompt:.0f}",
            str(has.prompt),
            f"{one.prompt_error:+.2%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_outcome(traces: Sequence[Mapping[str, Any]], backends: Sequence[str]) -> str:
    """What became of the branches."""
    rows = [row for name in backends for row in rows_of(traces, name)]
    lines = ["| branches | how many | tokens | of them estimated |", "|---|--:|--:|--:|"]
    for outcome in sorted({row["outcome"] for row in rows}):
        has = Branches.of(row for row in rows if row["outcome"] == outcome)
        lines.append(f"| {outcome} | {has.count} | {has.completion} | {has.estimated} |")
    return "\n".join(lines)
