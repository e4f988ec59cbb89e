"""What can be made to go wrong with a simulated backend, on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

Kind = Literal["slow", "stall", "cut", "die", "revive", "lie"]


class FaultError(ValueError):
    """A fault that does not exist, or that is told wrongly."""


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """`slow`: every duration times `factor`. `stall`: no more bytes of answers, connections stay. `cut`: the next
    `streams` answers are broken off after `after_chunks` chunks. `die`: connections are refused and reset, all that ran
    is lost. `lie`: `metrics` (vLLM's names without `vllm:`) replace the true numbers. `revive`: all is well again.

    `for_s`: after so long, `revive`; `backend`: by name, where not the one that is asked.
    """

    kind: Kind
    factor: float = 1.0
    after_chunks: int = 1
    streams: int = 1
    metrics: dict[str, float] = {}
    for_s: float | None = None
    backend: str | None = None


@dataclass(slots=True)
class Faults:
    """Those in force at one backend."""

    dead: bool = False
    stalled: bool = False
    slow: float = 1.0
    cut_after: int = 0
    cuts_left: int = 0
    lies: dict[str, float] = field(default_factory=dict)

    def next_cut(self) -> int | None:
        """After how many chunks the answer that begins now is cut; None: not at all."""
        if not self.cuts_left:
            return None
        self.cuts_left -= 1
        return self.cut_after

    def shown(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("dead", "stalled", "slow", "cut_after", "cuts_left", "lies")}


def read_fault(body: bytes) -> Fault:
    """Raises FaultError, which says what is allowed."""
    try:
        fault = msgspec.json.decode(body, type=Fault)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FaultError(f"not a fault: {error}; kinds are {', '.join(get_args(Kind))}") from error
    if not fault.factor > 0 or fault.after_chunks < 0 or fault.streams < 0:
        raise FaultError("a fault needs factor > 0, after_chunks >= 0 and streams >= 0")
    return fault
