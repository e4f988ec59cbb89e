"""The fidelity that docs/load-testing.md tells of the demo fleet is that of the stored requests."""

from statistics import median

import pytest
from bench_fleet import ROOT
from fidelity import Compared, Replay, compared
from prediction import Request

from profiler.simulation.engine_spec import EngineSpec
from profiler.steptime import StepTime

PAGE = (ROOT / "docs/load-testing.md").read_text()
SEEDS = 10  # the page has 40: seconds instead of half a minute
APART = 0.015


@pytest.fixture(scope="module")
def found() -> list[Compared]:
    data, fleet = ROOT / "docs/data", ROOT / "examples/demo-fleet.yaml"
    return [
        one
        for run in ("", "-2")
        for one in compared(fleet, data / f"prediction-demo{run}.jsonl.gz", data / f"demo-profiles{run}", 36, SEEDS)
    ]


def test_the_demo_fleets_cells(found: list[Compared]) -> None:
    requests = sum(len(one.measured_ms) for one in found)
    assert f"{requests:,} requests of two runs, each run again" in PAGE
    for label, paced in (("at the pace that the machine then had", True), ("shared cores, as profiled", False)):
        row = next(row for row in PAGE.splitlines() if label in row and row.startswith("|"))
        cells, *told = (cell.strip() for cell in row.split("|")[2:-1])
        assert int(cells) == len(found)
        for quantile, said in zip((0.5, 0.95), told, strict=True):
            off = median(abs(one.off(quantile, paced=paced)) for one in found)
            assert off == pytest.approx(float(said.rstrip("%")) / 100, abs=APART)


def test_branches_run_as_they_did_and_those_cut_end_with_the_last_of_the_others() -> None:
    """A step of B branches takes 10 + B ms."""
    step = StepTime.linear(c0_s=0.010, c_tok_s=0.001, c_kv_s=0.0, p0_s=0.0, p_tok_s=0.0)
    replay = Replay(EngineSpec(step), 0, [], greedy=False)

    def took(*branches: tuple[float, int, bool]) -> float:
        return replay.latency_ms(Request("a", 1, 0, 0.0, 1.0, 1.0, 1.0, 1.0, prompt_tokens=8, branches=branches))

    alone = took((0.0, 11, True))
    assert alone == pytest.approx(10 * 11)
    assert took((0.0, 11, True), (0.0, 3, False)) == pytest.approx(10 * 12, abs=1)
    assert took((0.0, 11, True), (0.0, 6, True)) == pytest.approx(5 * 12 + 5 * 11, abs=1)
    assert took((50.0, 11, True)) == pytest.approx(50 + alone)
