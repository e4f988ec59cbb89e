"""The command that makes the table of docs/strategies.md asks for what stands there, of fleets that load."""

import re
from pathlib import Path

import pytest
import yaml
from bench_fleet import ROOT
from strategies_table import HELP, HELPED, MODEL, PLAIN, configured, without_help

from proxy.config import load
from proxy.strategy_runs import Setting, key_of

TOLD = yaml.safe_load((ROOT / "examples/gpu-fleet.yaml").read_text())


def test_it_asks_for_every_row_of_the_page() -> None:
    page = (ROOT / "docs/strategies.md").read_text()
    table = page.split("**The same with `scheduling-policy: priority`**")[0].split("**On real engines**")[1]
    rows = set(re.findall(r"^\| `([^`]+)` \| 300 \|", table, re.MULTILINE))
    assert rows == {key_of(Setting.parse(setting)) for setting in (*HELPED, *PLAIN)}


@pytest.mark.parametrize("first_come", [False, True])
def test_its_fleets_load_and_the_second_has_no_help(tmp_path: Path, first_come: bool) -> None:
    helped = configured(TOLD, tmp_path / "reranker", tmp_path, first_come=first_come)
    plain = without_help(helped, tmp_path)
    for name, told in (("helped", helped), ("plain", plain)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(told))

    first, second = load(tmp_path / "helped.yaml"), load(tmp_path / "plain.yaml")
    args = [backend.launch.args for backend in first.backends() if backend.launch]
    assert {one.get("scheduling-policy") for one in args} == ({None} if first_come else {"priority"})
    kinds = {reward.kind for model in first.models if model.name == MODEL for reward in model.reward_model}
    assert kinds == {"outcome", "process", "reranker"}
    (alone,) = second.models
    assert alone.name == MODEL and not any(getattr(alone, name) for name in HELP)
    assert second.server.port != first.server.port
