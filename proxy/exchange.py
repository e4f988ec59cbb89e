"""One request as the server holds it, and a plan of it that was run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.branch import BranchStream
from proxy.call import Call
from proxy.client_keys import ANYBODY, Caller
from proxy.fanout import Run
from proxy.limits import Admission
from proxy.plans import Decision
from proxy.server_protocol import Client
from proxy.trace import Trace
from strategies.base import Outcome


@dataclass(slots=True)
class Exchange:
    """One client's request as the server holds it. `arrived_at`: time.monotonic(); `finish`: work left for the
    trace's writer; `caller`: who asks; `admission`: to be settled, where its key has limits."""

    call: Call
    client: Client
    arrived_at: float
    trace: Trace
    finish: Callable[[Trace], None] | None = None
    caller: Caller = ANYBODY
    admission: Admission | None = None


@dataclass(slots=True)
class Executed:
    """A plan that was run, and what its strategy decided. `winners`: best first."""

    decision: Decision
    run: Run
    outcome: Outcome
    winners: list[BranchStream]
    decided_at: float
