"""`paretoproxy quality`."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from profiler import files, quality_file, runs, sampling
from profiler.marking import Generated
from profiler.quality_file import StoredQuestion
from profiler.quality_sections import Correlation, Lengths
from profiler.tasks import Task, TaskQuestion, load_task
from proxy.bench import EngineBench, open_to_measure
from proxy.branch import BranchStream
from proxy.config import BackendConfig, Config, ConfigError, load
from proxy.token_logprobs import token_logprobs
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
@click.option("--derive-only", is_flag=True, help="Ask no engine: derive the tables again from the samples there are.")
@click.option("--logprobs/--no-logprobs", default=True, help="Store how sure the model was of each sample.")
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
    derive_only: bool,
    logprobs: bool,
) -> None:
    """Sample a labelled task and derive the accuracy of every strategy. An interrupted run goes on where it stopped."""
    config, task = load(config_path), load_task(task_name)
    for name, sampled in _sampled(config, model, backend):
        job = _Job(name, sampled, task, out, samples, temperature, max_tokens, parallel, logprobs)
        if derive_only:
            job.derive_again()
        else:
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
    greedy: Generated
    samples: list[Generated]


class _Drawn(msgspec.Struct):
    """What a table of any version says of how its samples were drawn."""

    temperature: float
    environment: dict[str, object] = {}


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
        logprobs: bool,
    ) -> None:
        self._model, self._backend, self._task = model, backend, task
        self._samples, self._temperature, self._max_tokens = samples, temperature, max_tokens
        self._parallel, self._logprobs = parallel, logprobs
        self._lines = out / f"{model}.{task.name}.samples.jsonl"
        self._table = out / f"{model}.{task.name}.quality.json"

    async def run(self, questions: Sequence[TaskQuestion], texts: Path | None) -> None:
        self._lines.parent.mkdir(parents=True, exist_ok=True)
        done = self._keep_whole_lines()
        left = [question for question in questions if question.question not in done]
        backend = open_to_measure(self._backend, self._model)
        equivalence = MathVerifyPool()
        try:
            if texts is None:
                await self._sample(left, EngineBench(backend), equivalence, len(questions) - len(left))
            else:
                await self._import(texts.name, texts.read_bytes().splitlines(), left, equivalence)
        finally:
            await equivalence.aclose()
            await backend.pool.aclose()
        environment: dict[str, object] = {
            "sampled_on": texts.name if texts is not None else backend.name,
            "max_tokens": self._max_tokens,
            "date": datetime.date.today().isoformat(),
        }
        self._derive(self._temperature, environment)

    def derive_again(self) -> None:
        """From the samples alone; where and how they were drawn stays as the table there says."""
        before = _Drawn(self._temperature)
        if self._table.exists():
            before = self._drawn_before()
        self._derive(before.temperature, before.environment)

    def _drawn_before(self) -> _Drawn:
        try:
            return msgspec.json.decode(self._table.read_bytes(), type=_Drawn)
        except msgspec.DecodeError as error:
            raise quality_file.QualityError(f"{self._table} is not a quality table ({error}); delete it") from error

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
        files.cut_half_a_line(self._lines)
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
        limit, logprobs = self._max_tokens, self._logprobs
        greedy = await bench.chat(question.question, 1, temperature=0, max_tokens=limit, logprobs=logprobs)
        sampled = await bench.chat(
            question.question, self._samples, temperature=self._temperature, max_tokens=limit, logprobs=logprobs
        )
        return await sampling.store(
            question,
            self._task.answers,
            _generated(greedy[0]),
            [_generated(branch) for branch in sampled],
            greedy[0].prompt_tokens,
            equivalence,
        )

    def _derive(self, temperature: float, environment: dict[str, object]) -> None:
        pool = list(quality_file.read_samples(self._lines))
        if not pool:
            raise ConfigError(f"{self._lines} holds no samples")
        table = sampling.quality(
            self._model,
            self._task.name,
            self._task.answers,
            temperature,
            pool,
            Registry.installed(),
            environment,
            list(runs.read(runs.path_beside(self._table))),
        )
        quality_file.write(table, self._table)
        click.echo(f"{self._model} on {self._task.name}: {table.questions} questions; wrote {self._table}")
        for curve in table.curves:
            params = ", ".join(f"{k}={v}" for k, v in curve.params.items())
            greedy = " at temperature 0" if curve.greedy else ""
            tokens = sum(sum(map(sum, wave)) for wave in (curve.lengths, *curve.later)) / len(curve.lengths)
            click.echo(
                f"  {curve.strategy}({params}){greedy}: accuracy {curve.accuracy:.3f} "
                f"(at least {curve.accuracy_lower:.3f}), {tokens:.0f} tokens"
            )
        if table.lengths is not None:
            click.echo(_told(table.lengths))


def _generated(branch: BranchStream) -> Generated:
    finish = branch.finish_reason or ""
    return Generated(branch.text, branch.completion_tokens, finish, token_logprobs(branch))


def _told(lengths: Lengths) -> str:
    """Length distribution and its correlation with being right, in two lines."""
    quantiles = ", ".join(f"{name} {'?' if tokens is None else tokens}" for name, tokens in lengths.quantiles.items())
    return (
        f"  lengths: {quantiles}; mean {lengths.restricted_mean:.0f} up to {lengths.longest} tokens, "
        f"{lengths.cut:.1%} cut\n"
        f"  longer and right: rank correlation {_between(lengths.within_questions)} within questions, "
        f"{_between(lengths.overall)} overall"
    )


def _between(found: Correlation | None) -> str:
    return "unknown" if found is None else f"{found.value:+.2f} ({found.lower:+.2f} to {found.upper:+.2f})"
