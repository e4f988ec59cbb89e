"""The pictures' data, and that Vega-Lite takes the specification."""

from typing import Any

import pytest
from report_builders import comparison, engine, point

from profiler.report import chart
from profiler.report.page import deadlines

TP1, NGRAM = engine("tp1"), engine("ngram", speculative={"method": "ngram", "num_speculative_tokens": 4})
FLEET = comparison(
    point(TP1, 1, 0.60, 900, gpu_s=1),
    point(TP1, 4, 0.58, 1000, gpu_s=2),
    point(TP1, 8, 0.75, 3000, gpu_s=4),
    point(NGRAM, 1, 0.60, 700, gpu_s=1.5, greedy=True),
)


def spec(axis: chart.Axis) -> dict[str, Any]:
    model = FLEET.models[0]
    return chart.chart(model, chart.values(model, FLEET, 0), axis)


def test_a_curve_keeps_the_points_that_nothing_quicker_surpasses_and_runs_to_the_end() -> None:
    axis = chart.latency_axis(FLEET)
    frontier = spec(axis)["datasets"]["frontier"]

    assert [row["tail_ms"] for row in frontier if row["engine"] == "tp1"] == [900, 3000, axis.high]
    assert [row["accuracy"] for row in frontier if row["engine"] == "ngram"] == pytest.approx([0.62, 0.62])


def test_rows_are_numbered_through_the_comparison() -> None:
    assert [row["id"] for row in chart.values(FLEET.models[0], FLEET, 10)] == [10, 11, 12, 13]


def test_a_point_tells_its_median_its_engine_and_its_cost_on_hover() -> None:
    told = "\n".join(chart.hover(FLEET.points[3], FLEET))
    assert "one greedy answer on ngram (TP 1, ngram k=4)" in told
    assert "p50 350 ms, p95 700 ms" in told and "$1.5e+03 per 1,000 requests" in told


def test_without_prices_the_cost_axis_is_gpu_seconds() -> None:
    unpriced = comparison(point(engine("x", gpu_hour_usd=None), 1, 0.6, 900, gpu_s=2.0))
    assert "GPU-seconds" in chart.cost_axis(unpriced).title
    assert chart.values(unpriced.models[0], unpriced, 0)[0]["cost"] == 2.0


@pytest.mark.parametrize("axis", [chart.latency_axis(FLEET), chart.cost_axis(FLEET)], ids=["latency", "cost"])
def test_vega_lite_compiles_it(axis: chart.Axis) -> None:
    library = pytest.importorskip("vl_convert")

    compiled = library.vegalite_to_vega(spec(axis))

    assert {"deadline_ms", "system", "compute"} <= {signal["name"] for signal in compiled["signals"]}
    assert "run this" in str(library.vegalite_to_svg({**spec(axis), "width": 300, "params": _marked(2)}))


def _marked(identifier: int) -> list[dict[str, Any]]:
    return [{"name": name, "value": identifier} for name in ("deadline_ms", "system", "compute")]


def test_colours_start_again_with_another_dash() -> None:
    looks = [(index % chart.COLOURS, tuple(chart.dash(index))) for index in range(3 * chart.COLOURS)]
    assert len(set(looks)) == len(looks)


def test_summaries_have_round_deadlines_between_the_first_plan_and_the_last_change() -> None:
    assert deadlines(FLEET) == [700, 1000, 1500, 2000, 2500, 3000]
    assert deadlines(comparison(point(TP1, 1, 0.6, 0.01))) == [pytest.approx(0.026)]  # nothing round below 1 ms
