"""`paretoproxy quality` against a scripted engine: what it asks for, what it stores, and what it derives again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from scripted_backend import Play, ScriptedBackend, answers, says

from profiler import quality_file
from profiler.quality_file import StoredSample
from proxy.cli.quality import command

FOUR = "\\boxed{4}"


def _event(tokens: list[float], content: str, finish: str | None = None) -> dict[str, Any]:
    """A chunk of several tokens, as vLLM merges them under `stream_interval`."""
    logprobs = {"content": [{"token": "x", "logprob": value, "bytes": [120], "top_logprobs": []} for value in tokens]}
    choice = {"index": 0, "delta": {"content": content}, "logprobs": logprobs, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def _sure(*parts: list[float]) -> Play:
    events = [_event(tokens, FOUR if index == 0 else "") for index, tokens in enumerate(parts)]
    events[-1]["choices"][0]["finish_reason"] = "stop"
    lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
    return answers(200, "".join(lines).encode(), kind="text/event-stream")


class Quality:
    """The command on a fleet of one scripted engine, with two labelled questions."""

    def __init__(self, folder: Path, backend: ScriptedBackend) -> None:
        self.out = folder / "out"
        self._config, self._task = folder / "fleet.yaml", folder / "sums.jsonl"
        model = {"name": "m", "backends": [{"name": "a", "url": backend.url}]}
        self._config.write_text(yaml.safe_dump({"models": [model]}))
        rows = [{"question": f"What is {n} + {4 - n}?", "answer": "4"} for n in (1, 2)]
        self._task.write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def run(self, *options: str) -> str:
        """What it prints."""
        fixed = ["--config", str(self._config), "--task", str(self._task), "--out", str(self.out)]
        arguments = [*fixed, "--samples", "4", "--parallel", "1", *options]
        result = await asyncio.to_thread(CliRunner().invoke, command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    @property
    def samples(self) -> list[quality_file.StoredQuestion]:
        return list(quality_file.read_samples(self.out / "m.sums.samples.jsonl"))

    @property
    def table(self) -> quality_file.Quality:
        return quality_file.read(self.out / "m.sums.quality.json")


@pytest.fixture
async def engine() -> Any:
    backend = ScriptedBackend()
    await backend.start()
    yield backend
    await backend.stop()


async def test_samples_are_stored_with_how_sure_the_model_was(tmp_path: Path, engine: ScriptedBackend) -> None:
    engine.otherwise = _sure([-1.0, -3.0], [-2.0], [])
    quality = Quality(tmp_path, engine)

    printed = await quality.run()

    assert [request.json["logprobs"] for request in engine.generations] == [True] * 10
    assert [len(question.samples) for question in quality.samples] == [4, 4]
    assert quality.samples[0].samples[0] == StoredSample("4", 3, "stop", True, -2.0, -2.0)
    assert "lengths: p5 3" in printed and "rank correlation unknown" in printed


async def test_a_token_without_a_logprob_counts_for_nothing(tmp_path: Path, engine: ScriptedBackend) -> None:
    engine.otherwise = _sure([-1.0, -9999.0])
    quality = Quality(tmp_path, engine)
    await quality.run()
    assert quality.samples[0].greedy.logprob_mean == -1.0


async def test_an_engine_that_is_not_asked_or_does_not_tell(tmp_path: Path, engine: ScriptedBackend) -> None:
    engine.otherwise = says(FOUR)
    quality = Quality(tmp_path, engine)
    await quality.run("--no-logprobs", "--questions", "1")
    await quality.run()
    assert ["logprobs" in request.json for request in engine.generations] == [False] * 5 + [True] * 5
    assert {sample.logprob_mean for question in quality.samples for sample in question.samples} == {None}


async def test_a_table_is_derived_again_without_any_engine(tmp_path: Path, engine: ScriptedBackend) -> None:
    engine.otherwise = says(FOUR)
    quality = Quality(tmp_path, engine)
    await quality.run("--temperature", "0.6", "--max-tokens", "99")
    before, asked = quality.table, len(engine.received)
    table = quality.out / "m.sums.quality.json"
    older = msgspec.json.decode(table.read_bytes())
    for section in ("budgets", "agreement", "lengths", "curves"):
        del older[section]
    table.write_bytes(msgspec.json.encode({**older, "schema": 0}))  # of a version that this one cannot read

    await quality.run("--derive-only")

    assert len(engine.received) == asked
    assert quality.table == before
    assert quality.table.temperature == 0.6 and quality.table.environment["max_tokens"] == 99


def test_samples_of_earlier_versions_still_read() -> None:
    """Stored before confidence was: four members."""
    old = msgspec.json.decode(b'["72",108,"stop",true]', type=StoredSample)
    assert (old.answer, old.correct, old.logprob_mean, old.logprob_low) == ("72", True, None, None)
