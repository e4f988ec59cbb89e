"""A simulated engine in virtual time, and branches that note when they were told what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from profiler.cells import CellSpec
from profiler.simulation.clock import VirtualClock
from profiler.simulation.engine import Engine
from profiler.simulation.engine_spec import EngineSpec
from profiler.simulation.generation import Generation
from profiler.simulation.kv_memory import Prompt
from profiler.simulation.tokenizer import prompt_of
from profiler.steptime import StepTime

# Whole milliseconds, so that tests can say what they expect: a step of B branches takes 10 + B ms.
STEP = StepTime.linear(c0_s=0.010, c_tok_s=0.001, c_kv_s=0.0, p0_s=0.0, p_tok_s=1e-4)


@dataclass
class Told:
    """What one branch heard: (time, tokens so far)."""

    clock: VirtualClock
    heard: list[tuple[float, int]] = field(default_factory=list)
    ended_s: float | None = None
    generation: Generation | None = None

    def __call__(self, tokens: int, last: bool) -> None:
        self.heard.append((self.clock.now(), tokens))
        if last:
            self.ended_s = self.clock.now()

    @property
    def first_s(self) -> float:
        return self.heard[0][0]

    @property
    def end_s(self) -> float:
        assert self.ended_s is not None, "the branch has not ended"
        return self.ended_s


class Rig:
    """`rig.start(prompt, output)` starts a branch; `rig.run()` lets time pass until nothing is left to do."""

    def __init__(self, **members: Any) -> None:
        self.clock = VirtualClock()
        self.engine = Engine(EngineSpec(**{"step_time": STEP, **members}), self.clock)
        self._fresh = 0

    def start(self, prompt: int | Prompt, output: int, *, every: int = 0, priority: int = 0) -> Told:
        """A prompt given by its length is like no other."""
        told = Told(self.clock)
        told.generation = self.engine.submit(self.prompt(prompt), output, every, told, priority)
        return told

    def prompt(self, tokens: int | Prompt) -> Prompt:
        if isinstance(tokens, Prompt):
            return tokens
        self._fresh += 1
        return prompt_of([1_000_000 + self._fresh] * tokens)

    def at(self, when_s: float, prompt: int | Prompt, output: int) -> list[Told]:
        """Starts it then; the list has it once that time has come."""
        started: list[Told] = []
        self.clock.at(when_s, lambda: started.append(self.start(prompt, output)))
        return started

    def run(self, until_s: float = float("inf")) -> None:
        self.clock.run(until_s)

    def nothing_is_left(self) -> None:
        engine = self.engine
        assert (engine.running, engine.queued, engine.memory.in_blocks, engine.kv_usage) == (0, 0, 0, 0.0)


def run_cell(spec: EngineSpec, cell: CellSpec) -> tuple[float, float]:
    """A profiler's cell, all branches at once: seconds until the last has a token, and until the last has ended."""
    rig = Rig()
    rig.engine = Engine(spec, rig.clock)
    shared = rig.prompt(cell.prompt)
    told = [rig.start(shared if cell.shared else cell.prompt, cell.output, every=16) for _ in range(cell.batch)]
    rig.run()
    rig.nothing_is_left()
    return max(one.first_s for one in told), max(one.end_s for one in told)
