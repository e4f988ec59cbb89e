"""The fidelity that docs/load-testing.md tells of the demo fleet is that of the stored requests."""

from statistics import median

import pytest
from bench_fleet import ROOT
from fidelity import Compared, compared

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


def test_a_simulation_that_is_off_is_found_out(found: list[Compared]) -> None:
    """The yardstick itself, with measured times half as long again."""
    alone = [one for one in found if one.backend in ("m-tp1", "s-tp1")]
    longer = [
        Compared(one.backend, one.n, one.others, [1.5 * ms for ms in one.measured_ms], one.simulated_ms, one.paced_ms)
        for one in alone
    ]
    assert median(abs(one.off(0.5, paced=True)) for one in longer) > 0.25
