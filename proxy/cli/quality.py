"""`paretoproxy quality`."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from profiler import quality_file, sampling
from profiler.quality_file import StoredQuestion
from profiler.tasks import Task, TaskQuestion, load_task
from proxy.backend import open_backend
from proxy.bench import EngineBench
from proxy.branch import BranchStream
from proxy.config import BackendConfig, Config, ConfigError, load
from strategies.answers import MathVerifyPool
from strategies.registry import Registry


@click.command("quality")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The fleet's YAML file.")
@click.option("--task", "task_name", required=True, help="A built-in task (tinymath) or a JSONL file.")
@click.option("--model", help="The model to sample; default: every model with backends.")
@click.option("--backend", help="Sample on this backend; default: the model's first that may sample.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for samples and tables.")
@click.option("--samples", default=32, show_default=True, type=click.IntRange(2, 256), help="Samples per question.")
@click.option("--questions", type=click.IntRange(1), help="Only the first this many questions.")
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--max-tokens", default=1024, show_default=True, type=click.IntRange(1))
@click.option(
    "--texts", type=click.Path(path_type=Path), help="Import generated texts (JSON lines) instead of sampling."
)
@click.option("--parallel", default=3, show_default=True, type=click.IntRange(1), help="Questions at a time.")
def command(
    config_path: Path,
    task_name: str,
    model: str | None,
    backend: str | None,
    out: Path,
    samples: int,
    questions: int | None,
    temperature: float,
    max_tokens: int,
    parallel: int,
    texts: Path | None,
) -> None:
    """Sample a labelled task and derive the accuracy of every strategy. An interrupted run goes on where it stopped."""
    config, task = load(config_path), load_task(task_name)
    for name, sampled in _sampled(config, model, backend):
        job = _Job(name, sampled, task, out, samples, temperature, max_tokens, parallel)
        asyncio.run(job.run(task.questions[:questions], texts))


def _sampled(config: Config, model: str | None, backend: str | None) -> list[tuple[str, BackendConfig]]:
    found = []
    for entry in config.models:
        usable = [b for b in entry.backends if b.sampling == "all" and backend in (None, b.name)]
        if usable and model in (None, entry.name):
            found.append((entry.name, usable[0]))
    if not found:
        raise ConfigError("no backend fits --model and --backend (a backend with `sampling: greedy` cannot be sampled)")
    return found


class _Texts(msgspec.Struct):
    """One question's generated texts, each with its tokens and finish reason."""

    question: str
    prompt_tokens: int
    greedy: sampling.Generated
    samples: list[sampling.Generated]


class _Job:
    """One model's sampling: raw samples as JSON lines, one question a line, then the derived table beside them."""

    def __init__(
        self,
        model: str,
        backend: BackendConfig,
        task: Task,
        out: Path,
        samples: int,
        temperature: float,
        max_tokens: int,
        parallel: int,
    ) -> None:
        self._model, self._backend, self._task = model, backend, task
        self._samples, self._temperature, self._max_tokens = samples, temperature, max_tokens
        self._parallel = parallel
        self._lines = out / f"{model}.{task.name}.samples.jsonl"
        self._table = out / f"{model}.{task.name}.quality.json"

    async def run(self, questions: Sequence[TaskQuestion], texts: Path | None) -> None:
        self._lines.parent.mkdir(parents=True, exist_ok=True)
        done = self._keep_whole_lines()
        left = [question for question in questions if question.question not in done]
        backend = open_backend(self._backend, self._model, None, time.monotonic)
        equivalence = MathVerifyPool()
        try:
            if texts is None:
                await self._sample(left, EngineBench(backend), equivalence, len(questions) - len(left))
            else:
                await self._import(texts.name, texts.read_bytes().splitlines(), left, equivalence)
        finally:
            await equivalence.aclose()
            await backend.pool.aclose()
        self._derive(texts.name if texts is not None else backend.name)

    async def _import(
        self, source: str, lines: Sequence[bytes], left: Sequence[TaskQuestion], equivalence: MathVerifyPool
    ) -> None:
        """Texts that were generated elsewhere (see profiler.tinymath.sample for the format)."""
        wanted = {question.question: question for question in left}
        with self._lines.open("ab") as file:
            for number, line in enumerate(lines, 1):
                try:
                    row = msgspec.json.decode(line, type=_Texts)
                except msgspec.DecodeError as error:
                    raise quality_file.QualityError(f"{source}:{number}: {error}") from error
                question = wanted.get(row.question)
                if question is not None:
                    stored = await sampling.store(
                        question, self._task.answers, row.greedy, row.samples, row.prompt_tokens, equivalence
                    )
                    file.write(msgspec.json.encode(stored) + b"\n")

    def _keep_whole_lines(self) -> set[str]:
        """What an earlier run stored; a line that it did not finish is cut off."""
        stored = list(quality_file.read_samples(self._lines))
        if self._lines.exists():
            data = self._lines.read_bytes()
            self._lines.write_bytes(data[: data.rfind(b"\n") + 1])
        return {question.question for question in stored}

    async def _sample(
        self, left: Sequence[TaskQuestion], bench: EngineBench, equivalence: MathVerifyPool, before: int
    ) -> None:
        gate = asyncio.Semaphore(self._parallel)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress, self._lines.open("ab") as file:
            bar = progress.add_task(f"{self._model} on {self._task.name}", total=before + len(left), completed=before)

            async def one(question: TaskQuestion) -> None:
                async with gate:
                    stored = await self._ask(question, bench, equivalence)
                file.write(msgspec.json.encode(stored) + b"\n")
                file.flush()
                progress.advance(bar)

            async with asyncio.TaskGroup() as group:
                for question in left:
                    group.create_task(one(question))

    async def _ask(self, question: TaskQuestion, bench: EngineBench, equivalence: MathVerifyPool) -> StoredQuestion:
        limit = self._max_tokens
        greedy = await bench.chat(question.question, 1, temperature=0, max_tokens=limit)
        sampled = await bench.chat(question.question, self._samples, temperature=self._temperature, max_tokens=limit)
        return await sampling.store(
            question,
            self._task.answers,
            _generated(greedy[0]),
            [_generated(branch) for branch in sampled],
            greedy[0].prompt_tokens,
            equivalence,
        )

    def _derive(self, sampled_on: str) -> None:
        pool = list(quality_file.read_samples(self._lines))
        if not pool:
            raise ConfigError(f"{self._lines} holds no samples")
        environment: dict[str, object] = {
            "sampled_on": sampled_on,
            "max_tokens": self._max_tokens,
            "date": datetime.date.today().isoformat(),
        }
        table = sampling.quality(
            self._model, self._task.name, self._task.answers, self._temperature, pool, Registry.installed(), environment
        )
        quality_file.write(table, self._table)
        click.echo(f"{self._model} on {self._task.name}: {table.questions} questions; wrote {self._table}")
        for curve in table.curves:
            params = ", ".join(f"{k}={v}" for k, v in curve.params.items())
            greedy = " at temperature 0" if curve.greedy else ""
            tokens = sum(map(sum, curve.lengths)) / len(curve.lengths)
            click.echo(
                f"  {curve.strategy}({params}){greedy}: accuracy {curve.accuracy:.3f} "
                f"(at least {curve.accuracy_lower:.3f}), {tokens:.0f} tokens"
            )


def _generated(branch: BranchStream) -> sampling.Generated:
    return branch.text, branch.completion_tokens, branch.finish_reason or ""
