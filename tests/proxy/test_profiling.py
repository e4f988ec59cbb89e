"""Profiling an engine over real sockets: what is asked of it, what refuses or ends it, and what is left behind."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from raw_server import Peer
from scripted_backend import Play, Received, ScriptedBackend, answers, says

from profiler import profile_file
from profiler.check import Check
from profiler.measure import Counters, EngineShared
from profiler.profile_file import Profile
from profiler.tasks import load_task
from proxy.backend import open_backend
from proxy.bench import EngineFailed, open_to_measure
from proxy.cli.profile import Duration, check_fleet, profile_fleet
from proxy.config import BackendConfig, Config, LaunchConfig, ModelConfig
from proxy.load_metrics import MetricMissing, kv_capacity_tokens, parse_counters
from proxy.profiling import REPETITIVE, EngineBusy, Job, check_profile, profile
from proxy.upstream.pool import Limits


class Engine(ScriptedBackend):
    """Generates what is asked for at once, and counts. `foreign`: tokens of somebody else's with every answer, from the
    generation of that number on; `accepted`: drafts per generated token."""

    def __init__(self) -> None:
        super().__init__("a", "m")
        self.metrics["generation_tokens_total"] = 0.0
        self.otherwise = self._generates()
        self.foreign, self.foreign_from, self.accepted = 0.0, 0, 0.0

    def _choose(self, request: Received) -> Play:
        if request.path in self.late:
            return super()._choose(request)
        if request.path == "/version":
            return answers(200, b'{"version": "0.26.0"}')
        if request.path == "/v1/models":
            return answers(200, json.dumps({"data": [{"id": "m", "root": "/x/m", "max_model_len": 256}]}).encode())
        return super()._choose(request)

    def _generates(self) -> Play:
        async def play(peer: Peer, request: Received) -> None:
            tokens = request.json["max_tokens"] if request.path == "/v1/completions" else 9
            self.metrics["generation_tokens_total"] += tokens
            if len(self.generations) > self.foreign_from:
                self.metrics["generation_tokens_total"] += self.foreign
            if self.accepted:
                before = self.metrics.get("spec_decode_num_accepted_tokens_total", 0.0)
                self.metrics["spec_decode_num_accepted_tokens_total"] = before + tokens * self.accepted
            await says("x", tokens=tokens, finish="length")(peer, request)

        return play


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    await engine.start()
    yield engine
    await engine.stop()


def configured(engine: Engine, folder: Path, *, max_num_seqs: int = 4, **members: Any) -> BackendConfig:
    launch = LaunchConfig(model="/x/m", args={"max-num-seqs": max_num_seqs, "max-num-batched-tokens": 4096})
    return BackendConfig(name="a", url=engine.url, profile=folder / "a.json", launch=launch, **members)


async def profiled(
    config: BackendConfig, *, budget_s: float = 0.4, busy_ok: bool = False, task: str | None = None
) -> Profile:
    backend = open_backend(config, "m", None, lambda: 0.0)
    assert config.profile is not None
    job = Job(backend, config.profile, budget_s, load_task(task) if task else None, busy_ok)
    try:
        return await profile(job, lambda measured, made: None)
    finally:
        await backend.pool.aclose()


async def test_a_profile_is_measured_written_and_its_journal_removed(engine: Engine, tmp_path: Path) -> None:
    made = await profiled(configured(engine, tmp_path))

    assert profile_file.read(tmp_path / "a.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert made.environment["vllm"] == "0.26.0"
    assert made.environment["max_num_batched_tokens"] == 4096
    assert {1, 2, 4} <= {cell.spec.batch for cell in made.cells} <= {1, 2, 3, 4}
    assert made.range.max_prompt <= 256
    assert {request.path for request in engine.generations} == {"/v1/completions"}
    sent = engine.generations[-1].json
    assert sent["ignore_eos"] is True
    assert not {"min_tokens", "allowed_token_ids"} & sent.keys()  # slow paths of a sampler that traffic does not take


async def test_an_engine_that_others_use_is_refused_before_anything_is_asked(engine: Engine, tmp_path: Path) -> None:
    engine.metrics["num_requests_running"] = 2.0
    with pytest.raises(EngineBusy, match=r"backend a runs 2 requests of others.*--busy-ok"):
        await profiled(configured(engine, tmp_path))
    assert engine.generations == []

    assert (await profiled(configured(engine, tmp_path), busy_ok=True)).cells


async def test_somebody_elses_tokens_end_it_and_the_next_run_goes_on(engine: Engine, tmp_path: Path) -> None:
    engine.foreign, engine.foreign_from = 500.0, 30
    with pytest.raises(EngineShared, match="others use it"):
        await profiled(configured(engine, tmp_path), budget_s=20)  # ends long before
    assert not (tmp_path / "a.json").exists()
    kept = (tmp_path / "a.cells.jsonl").read_bytes().splitlines()[1:]
    assert len(kept) >= 3

    engine.foreign = 0.0
    told = [msgspec.json.decode(line) for line in kept]
    spent_s = sum(one["took_s"] for one in told)  # on a busy machine more than the whole of the usual budget
    made = await profiled(configured(engine, tmp_path), budget_s=spent_s + 3)
    cells = [msgspec.to_builtins(cell) for cell in made.cells]
    first = [one["cell"] for one in told]
    assert [cell for cell in cells[: len(first)] if not cell["held_out"]] == [c for c in first if not c["held_out"]]
    assert [cell["spec"] for cell in cells[: len(first)]] == [cell["spec"] for cell in first]  # some visited again
    assert len(cells) > len(first)


async def test_a_damaged_journal_is_told_by_its_line(engine: Engine, tmp_path: Path) -> None:
    config = configured(engine, tmp_path)
    engine.foreign, engine.foreign_from = 500.0, 30
    with pytest.raises(EngineShared):
        await profiled(config, budget_s=20)  # ends long before
    journal = tmp_path / "a.cells.jsonl"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([lines[0], b'{"cell": 7}', *lines[2:]]))
    with pytest.raises(profile_file.ProfileError, match=r"a\.cells\.jsonl:2: .*delete the file"):
        await profiled(config)


async def test_an_engine_that_speculates_is_told_by_its_counters(engine: Engine, tmp_path: Path) -> None:
    """Half the tokens are accepted drafts, so a step gives two; by n-gram after an alphabet that repeats."""
    engine.accepted = 0.5
    speculative = {"method": "ngram", "num_speculative_tokens": 4}
    made = await profiled(configured(engine, tmp_path, speculative=speculative), task="tinymath")

    assert {round(cell.acceptance_length, 3) for cell in made.cells} == {2.0}
    assert made.acceptance_length == pytest.approx(2.0)
    completions = [request for request in engine.generations if request.path == "/v1/completions"]
    assert "allowed_token_ids" not in completions[-1].json
    assert {token for request in completions[2:] for token in request.json["prompt"]} <= set(REPETITIVE)
    asked = [request.json for request in engine.generations if request.path == "/v1/chat/completions"]
    assert len(asked) == 24 and {body["temperature"] for body in asked} == {0}


async def test_an_engine_without_batches_cannot_be_profiled(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"backend a runs one request at a time .*Raise max-num-seqs"):
        await profiled(configured(engine, tmp_path, max_num_seqs=1))


async def test_an_engine_that_does_not_answer_is_told_with_what_was_asked(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.bench.GET_TIMEOUT_S", 0.05)
    engine.late = {"/version"}
    with pytest.raises(EngineFailed, match=r"backend a at http://.*: /version: no answer within 0\.05 s"):
        await profiled(configured(engine, tmp_path))


async def test_both_sides_of_the_largest_cuda_graph_are_measured(engine: Engine, tmp_path: Path) -> None:
    """Five tokens a branch are verified, so graphs for 55 tokens run eleven branches."""
    config = configured(engine, tmp_path, max_num_seqs=16, speculative={"method": "ngram", "num_speculative_tokens": 4})
    assert config.launch is not None
    config.launch.args["max-cudagraph-capture-size"] = 55
    made = await profiled(config, budget_s=8)  # on a busy machine three are too few
    assert {11, 12} <= set(made.step_time.batches)


async def test_an_engine_that_serves_another_model_is_told(engine: Engine, tmp_path: Path) -> None:
    config = configured(engine, tmp_path)
    backend = open_backend(config, "other", None, lambda: 0.0)
    with pytest.raises(EngineFailed, match="backend a serves m, not other"):
        await profile(Job(backend, tmp_path / "a.json", 0.4), lambda measured, made: None)
    await backend.pool.aclose()


async def test_a_check_measures_a_few_of_the_profiles_cells_again(engine: Engine, tmp_path: Path) -> None:
    config = configured(engine, tmp_path)
    made = await profiled(config)
    step = made.step_time
    slower = replace(step, step_s=tuple(50 * s for s in step.step_s), p0_s=50 * step.p0_s, p_tok_s=50 * step.p_tok_s)
    profile_file.write(msgspec.structs.replace(made, step_time=slower, residual_sigma=0.03), tmp_path / "a.json")
    asked = len(engine.generations)

    backend = open_backend(config, "m", None, lambda: 0.0)
    found = await check_profile(Job(backend, tmp_path / "a.json", 0.4), cells=3)
    await backend.pool.aclose()

    assert found.cells == 3 and found.ratio < 0.5 and not found.holds
    sizes = {len(request.json["prompt"]) for request in engine.generations[asked + 2 :]}
    assert sizes <= {cell.spec.prompt for cell in made.cells}


async def test_the_command_profiles_and_checks_a_fleet(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(models=[ModelConfig(name="m", backends=[configured(engine, tmp_path)])])
    await profile_fleet(config, "a", tmp_path / "out", budget_s=0.4)
    assert (tmp_path / "out/a.json").exists()
    assert "latency off by" in capsys.readouterr().out

    async def drifted(job: Job) -> Check:
        return Check(ratio=1.4, worst=1.6, allowed=0.1, cells=6)

    monkeypatch.setattr("proxy.profiling.check_profile", drifted)
    assert await check_fleet(config, "a", tmp_path / "out", busy_ok=False) is False
    assert (
        "a: 6 cells take 1.40 times what the profile says, at worst 1.60: it does not hold" in capsys.readouterr().out
    )


# -- what the engine's page tells --

PAGE = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} 700.0
vllm:generation_tokens_total{engine="1"} 300.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="5120",cache_dtype="auto"} 1.0
"""


def test_counters_are_summed_over_ranks_and_without_speculation_nothing_was_accepted() -> None:
    assert parse_counters(PAGE) == Counters(generated=1000, accepted=0)
    drafts = PAGE + 'vllm:spec_decode_num_accepted_tokens_total{engine="0"} 40.0\n'
    assert parse_counters(drafts) == Counters(generated=1000, accepted=40)
    with pytest.raises(MetricMissing, match="generation_tokens_total"):
        parse_counters("vllm:other 1\n")


def test_the_kv_cache_holds_its_blocks_or_nothing_is_known_of_it() -> None:
    assert kv_capacity_tokens(PAGE) == 5120 * 16
    assert kv_capacity_tokens(PAGE.replace('"5120"', '"None"')) is None
    assert kv_capacity_tokens("") is None


@pytest.mark.parametrize(("said", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("0.5h", 1800)])
def test_a_budget_is_a_number_with_a_unit(said: str, seconds: float) -> None:
    assert Duration().convert(said, None, None) == seconds


@pytest.mark.parametrize("said", ["", "0", "-5", "5 days", "soon"])
def test_any_other_budget_is_an_error_that_says_what_to_write(said: str) -> None:
    with pytest.raises(click.BadParameter, match="say 90s or 5m"):
        Duration().convert(said, None, None)


async def test_a_measurement_waits_longer_for_a_connection_than_a_request_does() -> None:
    """On two cores with seven ranks one took more than three seconds, and a first `make demo` ended with that."""
    backend = open_to_measure(BackendConfig(name="a", url="http://127.0.0.1:1"), "m")
    assert backend.pool.limits.connect_timeout_s >= 10 * Limits().connect_timeout_s
    await backend.pool.aclose()
