"""The workload file: when requests come, and which classes of them with which SLO. `docs/load-testing.md` explains it.

seed: 1
arrivals: {process: poisson, rate: 4, for_s: 60}
task: tinymath-held-out
classes:
  - {name: interactive, share: 0.7, slo: {latency_ms: 800}, stream: 0.5}
  - {name: careful, share: 0.3, slo: {latency_ms: 5000}, leave: {share: 0.1, within_s: 1}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from profiler import yaml_file
from profiler.loadtest import LoadTestError
from profiler.loadtest.arrivals import Phase, Process

Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhaseConfig(_Section):
    """Steps are several phases; a ramp is one with `to_rate`."""

    rate: float = Field(ge=0, description="requests/s")
    to_rate: float | None = Field(None, ge=0, description="requests/s at its end; default: rate")
    for_s: float = Field(gt=0)

    def phase(self) -> Phase:
        return Phase(self.for_s, self.rate, self.rate if self.to_rate is None else self.to_rate)


class ArrivalsConfig(_Section):
    """Either `rate` and `for_s`, or `phases`, or `trace`."""

    process: Process = "poisson"
    cv: float | None = Field(None, gt=0, le=20, description="coefficient of variation of the gaps, for gamma")
    rate: float | None = Field(None, gt=0)
    for_s: float | None = Field(None, gt=0, description="with a trace: only its first seconds, after the speed-up")
    phases: list[PhaseConfig] = []
    trace: Path | None = None
    speedup: float = Field(1.0, gt=0, description="a trace's time runs so many times as fast")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [self.rate is not None, bool(self.phases), self.trace is not None]
        if sum(ways) != 1:
            raise ValueError("give one of `rate` (with `for_s`), `phases` and `trace`")
        if self.rate is not None and self.for_s is None:
            raise ValueError("`rate` needs `for_s`")
        if self.phases and self.for_s is not None:
            raise ValueError("each of `phases` has its own `for_s`")
        if self.phases and not sum(phase.phase().expected for phase in self.phases):
            raise ValueError("all `phases` have rate 0")
        if (self.process == "gamma") != (self.cv is not None):
            raise ValueError("`cv` goes with `process: gamma`, which needs it")
        if self.speedup != 1 and self.trace is None:
            raise ValueError("`speedup` goes with `trace`")
        return self

    def as_phases(self) -> list[Phase]:
        """Empty for a trace."""
        if self.rate is not None and self.for_s is not None:
            return [Phase(self.for_s, self.rate, self.rate)]
        return [phase.phase() for phase in self.phases]

    def at_rate(self, rate: float, for_s: float) -> ArrivalsConfig:
        """The same process at one rate."""
        return ArrivalsConfig(process=self.process, cv=self.cv, rate=rate, for_s=for_s)


class SloConfig(_Section):
    """What the proxy is told in `x-slo-…` headers, and what an answer is judged by here."""

    latency_ms: float | None = Field(None, gt=0)
    ttft_ms: float | None = Field(None, gt=0, description="judged where the answer is streamed")
    tpot_ms: float | None = Field(None, gt=0, description="judged where the answer is streamed")
    cost_usd: float | None = Field(None, gt=0)
    quality: Share | None = None
    objective: Literal["quality", "cost", "latency"] | None = None
    mode: Literal["best-effort", "strict"] | None = None


class TtsConfig(_Section):
    """What is pinned, in `x-tts-…` headers."""

    strategy: str | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    task: str | None = None


class LeaveConfig(_Section):
    """So many clients leave, after a time drawn evenly up to `within_s`, unless they have their answer by then."""

    share: Share
    within_s: float = Field(gt=0)


class ClassConfig(_Section):
    """One class of traffic. What it does not say of questions and lengths, the workload says."""

    name: str = Field(min_length=1, max_length=60)
    share: float = Field(1.0, gt=0, description="weight among the classes")
    slo: SloConfig = SloConfig()
    tts: TtsConfig = TtsConfig()
    stream: Share = Field(0.0, description="share of requests that are streamed")
    leave: LeaveConfig | None = None
    task: str | None = None
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    body: dict[str, Any] = {}


class Workload(_Section):
    """`task`: labelled questions, so that accuracy is known; `prompt_tokens`: made-up text of about that length;
    neither: the lengths that the trace tells."""

    arrivals: ArrivalsConfig
    classes: list[ClassConfig] = Field(min_length=1)
    model: str | None = Field(None, description="default: the first that the server lists")
    seed: int = 1
    task: str | None = None
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = Field(None, description="max_tokens of the request")
    ignore_eos: bool = Field(False, description="vLLM's own: answers have exactly output_tokens")
    body: dict[str, Any] = Field({}, description="further members of each request's body, such as temperature")
    timeout_s: float = Field(120.0, gt=0)
    max_late_ms: float = Field(25.0, gt=0, description="p99 lateness of sends above which a run is not reported")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [one.name for one in self.classes]
        if twins := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two classes are named {twins[0]!r}")
        for task, prompt_tokens in [
            (self.task, self.prompt_tokens),
            *((c.task, c.prompt_tokens) for c in self.classes),
        ]:
            if task is not None and prompt_tokens is not None:
                raise ValueError("give either `task` or `prompt_tokens`, not both")
        for one in self.classes:
            told = (one.task, one.prompt_tokens, self.task, self.prompt_tokens, self.arrivals.trace)
            if not any(value is not None for value in told):
                raise ValueError(f"class {one.name!r} asks nothing: give `task` or `prompt_tokens`, or replay a trace")
        return self


def load(path: Path) -> Workload:
    """Read and validate; paths are relative to the file. Raises LoadTestError, one problem a line with line and key."""
    try:
        data, lines = yaml_file.read(path, "arrivals and classes")
    except yaml_file.YamlFileError as error:
        raise LoadTestError(str(error)) from None
    try:
        workload = Workload.model_validate(data)
    except ValidationError as error:
        raise LoadTestError(yaml_file.explain(path, error, lines)) from None
    return _resolved(workload, path.resolve().parent)


def _resolved(workload: Workload, folder: Path) -> Workload:
    arrivals, update = workload.arrivals, {"task": _task(workload.task, folder)}
    if arrivals.trace is not None:
        arrivals = arrivals.model_copy(update={"trace": folder / arrivals.trace})
    classes = [one.model_copy(update={"task": _task(one.task, folder)}) for one in workload.classes]
    return workload.model_copy(update={**update, "arrivals": arrivals, "classes": classes})


def _task(name: str | None, folder: Path) -> str | None:
    """A file beside the workload, else a built-in name."""
    if name is not None and (folder / name).is_file():
        return str(folder / name)
    return name
