"""Does a backend give what its model's quality table says? For `paretoproxy profile`, which asks after measuring."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.progress import Progress

from profiler import agree_run, verdict
from profiler.agree import Limits, Standing
from profiler.agree_run import AgreementRun, Effort, Reference
from profiler.verdict import Agreement, SamplingSetting, Verdict, agreement_path
from proxy.bench import EngineBench, open_to_measure
from proxy.config import BackendConfig, ModelConfig
from strategies.answers import MathVerifyPool

SETTINGS: tuple[SamplingSetting, ...] = ("greedy", "sampled")  # greedy first: it takes one sample a question
Watch = Callable[[SamplingSetting, Standing], None]


def reference_of(model: ModelConfig) -> Reference | None:
    """The stored samples of the model's own task, else of the first table that has some. Raises QualityError."""
    tables = sorted(model.quality.items(), key=lambda item: item[0] != model.task)
    for _, table in tables:
        if found := agree_run.reference(table):
            return found
    return None


async def check_agreement(
    model: ModelConfig,
    backend: BackendConfig,
    *,
    profile: Path | None = None,
    limits: Limits | None = None,
    effort: Effort | None = None,
    watch: Watch = lambda setting, standing: None,
) -> list[Verdict]:
    """Test a running backend in both settings and store the verdicts beside its profile (`profile`, else where the
    configuration has it; without either they are not stored).

    Empty where the model has no quality table with stored samples. Raises EngineFailed, QualityError.
    """
    found = reference_of(model)
    if found is None:
        return []
    limits, effort, today = limits or Limits(), effort or Effort(), datetime.date.today()
    opened, equivalence = open_to_measure(backend, model.name), MathVerifyPool()
    verdicts = []
    try:
        for setting in SETTINGS:
            run = AgreementRun(EngineBench(opened), found, setting, limits, effort, equivalence)
            standing = await run.run(lambda standing, setting=setting: watch(setting, standing))  # type: ignore[misc]
            verdicts.append(Verdict.of(setting, standing, today))
    finally:
        await equivalence.aclose()
        await opened.pool.aclose()
    if path := profile or backend.profile:
        verdict.write(Agreement(backend.name, model.name, found.task, verdicts), agreement_path(path))
    return verdicts


async def agrees(model: ModelConfig, backend: BackendConfig, profile: Path, progress: Progress) -> bool:
    """`check_agreement`, shown while it runs and told after; False where a setting is `wrong`."""
    bar = progress.add_task(f"{backend.name}: comparing with the quality table", total=None)

    def show(setting: SamplingSetting, standing: Standing) -> None:
        found = f"accuracy {standing.accuracy:.2f} where the table has {standing.expected_accuracy:.2f}"
        progress.update(bar, description=f"{backend.name}, {setting}: {standing.questions} questions, {found}")

    try:
        verdicts = await check_agreement(model, backend, profile=profile, watch=show)
    finally:
        progress.remove_task(bar)
    progress.console.print(report(backend, verdicts), soft_wrap=True, markup=False, highlight=False)
    return not wrong(backend, verdicts)


def wrong(backend: BackendConfig, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that a check must fail for: a setting differs that the configuration lets requests use."""
    return [found for found in verdicts if found.verdict == "differs" and _required(backend, found.setting)]


def report(backend: BackendConfig, verdicts: Sequence[Verdict]) -> str:
    """Lines for people, one a setting, and what to do."""
    if not verdicts:
        return f"{backend.name}: not compared with a quality table (the model has none with stored samples)"
    return "\n".join(line for found in verdicts for line in _lines(backend, found))


def _lines(backend: BackendConfig, found: Verdict) -> Iterator[str]:
    yield f"{backend.name}, {found.setting}: {_SAID[found.verdict]}: {found.reason}"
    required = _required(backend, found.setting)
    if found.verdict == "differs" and required:
        yield f"  it gets no {found.setting} requests; repair the engine, then run `paretoproxy profile --check`"
    elif found.verdict == "differs":
        yield "  as configured (sampling: greedy), it gets no such requests"
    elif found.verdict == "agrees" and not required:
        yield "  `sampling: greedy` may be dropped from its configuration"


_SAID = {
    "agrees": "agrees with the quality table",
    "differs": "DIFFERS from the quality table",
    "undecided": "undecided",
}


def _required(backend: BackendConfig, setting: SamplingSetting) -> bool:
    return setting == "greedy" or backend.sampling == "all"
