"""How engines are started: commands, cores, and what is refused."""

import socket
from pathlib import Path

import pytest

from proxy.config import load
from proxy.launch import Engines, EngineSpec, LaunchError, Machine, assign_cores, check_port, cores_suffice, specs

ROOT = Path(__file__).resolve().parents[2]
DEMO = load(ROOT / "examples/demo-fleet.yaml", {})


def test_cores_are_disjoint_where_there_are_enough_with_two_left_for_the_rest() -> None:
    assert assign_cores([1, 2, 1], range(6)) == [(2,), (3, 4), (5,)]
    assert cores_suffice([1, 2, 1], range(6))


def test_on_too_few_cores_engines_take_turns() -> None:
    assert assign_cores([1, 1, 1, 2], range(2)) == [(0,), (1,), (0,), (1, 0)]
    assert not cores_suffice([1, 1, 1, 2], range(2))


def test_the_demo_fleet_becomes_vllm_commands(tmp_path: Path) -> None:
    made = {spec.backend: spec for spec in specs(DEMO, "py", tmp_path, Machine(cores=(0, 1)))}
    command = " ".join(made["s-ngram"].command)
    assert "--served-model-name tinymath-s" in command
    assert '--speculative-config {"method": "ngram"' in command
    assert "--enforce-eager" in made["s-ngram"].command and "True" not in made["s-ngram"].command
    assert "--tensor-parallel-size 2" in " ".join(made["s-tp2"].command)
    assert made["s-tp2"].env["VLLM_CPU_OMP_THREADS_BIND"] == "1|0"
    assert all(spec.cores is None for spec in made.values())
    assert len({spec.url for spec in made.values()}) == 6
    assert "--runner pooling" in " ".join(made["orm"].command)


def test_with_cores_enough_an_engine_keeps_to_its_own_and_those_of_the_rest(tmp_path: Path) -> None:
    made = {spec.backend: spec for spec in specs(DEMO, "py", tmp_path, Machine(cores=tuple(range(10))))}
    assert {name: spec.cores for name, spec in made.items()} == {
        "m-tp1": {0, 1, 2},
        "s-tp1": {0, 1, 3},
        "s-ngram": {0, 1, 4},
        "s-tp2": {0, 1, 5, 6},
        "orm": {0, 1, 7},
        "prm": {0, 1, 8},
    }


def test_on_one_gpu_the_two_rank_engine_is_left_out_and_the_others_share(tmp_path: Path) -> None:
    machine = Machine(cores=tuple(range(16)), gpus=1)
    made = {spec.backend: spec for spec in specs(DEMO, "py", tmp_path, machine)}
    assert set(made) == {"m-tp1", "s-tp1", "s-ngram", "orm", "prm"}
    assert {spec.env["CUDA_VISIBLE_DEVICES"] for spec in made.values()} == {"0"}
    assert machine.left_out(DEMO) == {"s-tp2": "2 ranks, but this machine has 1 GPU"}


def test_on_many_gpus_every_rank_has_its_own(tmp_path: Path) -> None:
    machine = Machine(cores=tuple(range(16)), gpus=8)
    made = {spec.backend: spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs(DEMO, "py", tmp_path, machine)}
    assert made == {"m-tp1": "0", "s-tp1": "1", "s-ngram": "2", "s-tp2": "3,4", "orm": "5", "prm": "6"}
    assert machine.contention(DEMO) is None


def test_a_configuration_without_launch_has_nothing_to_start(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: [{name: m, backends: [{name: a, url: 'http://127.0.0.1:1'}]}]")
    with pytest.raises(LaunchError, match="launch"):
        specs(load(path, {}), "py", tmp_path, Machine(cores=(0,)))


async def test_an_engine_that_ends_at_start_shows_the_end_of_its_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9"
    broken = EngineSpec("b", url, ("sh", "-c", "echo no such model; exit 3"), {}, tmp_path / "b.log")
    running = EngineSpec("r", url, ("sh", "-c", "sleep 300 & wait"), {}, tmp_path / "r.log")
    engines = Engines([running, broken])
    with pytest.raises(BaseExceptionGroup) as caught:
        async with engines:
            await engines.start(lambda line: None)
    assert "no such model" in str(caught.value.exceptions[0]) and "status 3" in str(caught.value.exceptions[0])
    assert not engines._running


async def test_where_another_program_listens_already_nothing_is_started(tmp_path: Path) -> None:
    """It may answer /health as well, and would be measured in the engine's place."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        log = tmp_path / "a.log"
        async with Engines([EngineSpec("a", url, ("true",), {}, log)]) as engines:
            with pytest.raises(LaunchError, match=r"port \d+ of 127.0.0.1, where the engine a is to listen, is taken"):
                await engines.start(lambda line: None)
    assert not log.exists()
    check_port(url, "the engine a")


@pytest.mark.parametrize("fleet", ["demo-fleet", "gpu-fleet"])
def test_the_built_in_verifiers_are_shown_the_thinking(fleet: str) -> None:
    """They were trained on it: shown the last line only, they know nothing."""
    pooled = load(ROOT / f"examples/{fleet}.yaml", {}).pooled()
    assert {(one.name, one.reads_thinking) for one in pooled} == {("orm", True), ("prm", True)}
