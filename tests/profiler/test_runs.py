"""Runs of strategies: what they were becomes a curve, wave by wave, and a table against plain voting."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from profiler import runs, runs_table
from profiler.prediction import Setting
from profiler.quality_file import QualityError
from profiler.runs import Run, Span, curve, curves, waves_of


def run(
    question: str,
    correct: bool,
    waves: list[list[int]],
    strategy: str = "self-refine",
    cost_usd: float | None = 0.01,
    **members: object,
) -> Run:
    tokens = sum(map(sum, waves))
    told: dict[str, object] = {"params": {"rounds": 1}, "latency_ms": 100.0, **members}
    return Run("m", "math", strategy, told.pop("params"), question, correct, told.pop("latency_ms"), tokens, waves,
               cost_usd=cost_usd, **told)  # type: ignore[arg-type]  # fmt: skip


def test_branches_that_overlap_are_one_wave_and_a_pause_is_waited_aside() -> None:
    spans = [Span(0, 100, 10), Span(5, 60, 6), Span(150, 250, 10), Span(240, 300, 5)]
    assert waves_of(spans) == ([[10, 6], [10, 5]], 250.0)
    assert waves_of([]) == ([], 0.0)


def test_a_curve_has_every_wave_of_every_run_with_zeros_for_what_was_not_started() -> None:
    made = curve([run("a", True, [[30, 10], [5]], aside_ms=50), run("b", False, [[20]], aside_ms=150)])
    assert (made.lengths, made.later) == ([[0, 20], [10, 30]], [[[0], [5]]])
    assert (made.accuracy, made.aside_s, made.runs) == (0.5, 0.1, 2)


def test_accuracy_is_that_of_questions_however_often_each_was_asked() -> None:
    asked = [run("a", True, [[1]]), run("a", True, [[1]]), run("a", True, [[1]]), run("b", False, [[1]])]
    assert curve(asked).accuracy == 0.5


def test_too_few_questions_make_no_curve() -> None:
    few = [run(str(i), True, [[1]]) for i in range(runs.LEAST_QUESTIONS - 1)]
    assert curves(few) == []
    assert len(curves([*few, run("last", True, [[1]])])) == 1


def test_the_planner_s_own_choice_is_no_strategy_that_it_could_choose() -> None:
    asked = [run(str(i), True, [[1]], strategy=strategy) for i in range(40) for strategy in ("auto", "self-refine")]
    assert [made.strategy for made in curves(asked)] == ["self-refine"]
    assert len(runs_table.rows(asked)) == 2  # what it was worth is told all the same


def test_waves_follow_on_each_other_in_the_prediction() -> None:
    """Of two waves, the steps with k branches running add up, and so does what is waited for."""
    setting = Setting.from_curve(curve([run("a", True, [[11, 21], [6]])]), 2)
    assert setting.steps_at.tolist() == [[10 + 5, 10]]
    assert setting.waited_tokens.tolist() == [25]
    assert setting.tokens.tolist() == [38]


def test_the_file_is_read_up_to_half_a_line_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.math.runs.jsonl"
    line = msgspec.json.encode(run("a", True, [[3]]))
    path.write_bytes(line + b"\n" + line[:20])
    assert [one.question for one in runs.read(path)] == ["a"]
    path.write_bytes(b"{}\n")
    with pytest.raises(QualityError, match="jsonl:1"):
        list(runs.read(path))
    assert runs.path_beside(tmp_path / "m.math.quality.json") == path


def test_a_strategy_is_told_against_voting_at_the_same_cost() -> None:
    def asked(strategy: str, right: int, cost_usd: float, **params: int) -> list[Run]:
        return [run(str(i), i < right, [[10]], strategy, cost_usd, params=params) for i in range(10)]

    every = asked("none", 4, 0.01) + asked("self-consistency", 8, 0.03, n=4) + asked("best-of-n", 7, 0.02, n=2)
    single, vote, best = runs_table.rows(every)
    assert runs_table.voting_at(best.cost_usd, [single, vote]) == (pytest.approx(0.6), False)
    assert runs_table.voting_at(0.5, [single, vote]) == (pytest.approx(0.8), True)  # the dearest that is known
    best_row = runs_table.markdown(every).splitlines()[3]  # after the head, and the vote, which is right more often
    assert "`best-of-n: n=2`" in best_row and "+0.300" in best_row and best_row.endswith("| +0.100 |")


def test_a_sample_at_temperature_0_is_no_plain_vote() -> None:
    def asked(strategy: str, right: int, cost_usd: float, **params: int) -> list[Run]:
        return [run(str(i), i < right, [[10]], strategy, cost_usd, params=params) for i in range(10)]

    lines = runs_table.markdown(asked("none", 4, 0.01) + asked("none", 6, 0.005, greedy=True)).splitlines()[2:]
    assert lines[0].endswith("| +0.200 | +0.200 |") and lines[1].endswith("| +0.000 |  |")


def test_what_a_limit_cut_is_no_plain_vote() -> None:
    free = run("a", True, [[1]], "self-consistency", 0.1)
    limited = msgspec.structs.replace(free, limits={"latency_ms": 300})
    assert [row.plain for row in runs_table.rows([free, limited])] == [True, False]


def test_where_a_cost_is_unknown_nothing_is_compared_by_it() -> None:
    (row,) = runs_table.rows([run("a", True, [[1]], cost_usd=None), run("b", True, [[1]])])
    assert row.cost_usd is None
    assert runs_table.voting_at(row.cost_usd, [row]) is None
    assert np.isfinite([row.low, row.high]).all()
