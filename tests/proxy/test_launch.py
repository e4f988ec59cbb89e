"""How engines are started: commands, cores, and what is refused."""

from pathlib import Path

import pytest

from proxy.config import load
from proxy.launch import Engines, EngineSpec, LaunchError, assign_cores, cores_suffice, specs

ROOT = Path(__file__).resolve().parents[2]


def test_cores_are_disjoint_where_there_are_enough_with_two_left_for_the_rest() -> None:
    assert assign_cores([1, 2, 1], range(6)) == ["2", "3|4", "5"]
    assert cores_suffice([1, 2, 1], range(6))


def test_on_too_few_cores_engines_take_turns() -> None:
    assert assign_cores([1, 1, 1, 2], range(2)) == ["0", "1", "0", "1|0"]
    assert not cores_suffice([1, 1, 1, 2], range(2))


def test_the_demo_fleet_becomes_vllm_commands(tmp_path: Path) -> None:
    made = {spec.backend: spec for spec in specs(load(ROOT / "examples/demo-fleet.yaml", {}), "py", tmp_path, range(2))}
    command = " ".join(made["s-ngram"].command)
    assert "--served-model-name tinymath-s" in command
    assert '--speculative-config {"method": "ngram"' in command
    assert "--enforce-eager" in made["s-ngram"].command and "True" not in made["s-ngram"].command
    assert "--tensor-parallel-size 2" in " ".join(made["s-tp2"].command)
    assert made["s-tp2"].env["VLLM_SLEEP_WHEN_IDLE"] == "1"
    assert len({spec.url for spec in made.values()}) == 4


def test_a_configuration_without_launch_has_nothing_to_start(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: [{name: m, backends: [{name: a, url: 'http://127.0.0.1:1'}]}]")
    with pytest.raises(LaunchError, match="launch"):
        specs(load(path, {}), "py", tmp_path, [0])


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
