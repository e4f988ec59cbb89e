"""Settings are compared on the questions that both were asked."""

import pytest
from msgspec import structs
from runs_table import by_key, in_time, paired, read

from profiler.runs import UNANSWERED, Run


def run(key: str, question: str, *, correct: bool, latency_ms: float = 1.0) -> Run:
    return Run("m", "t", "none", {}, question, correct, latency_ms, 10, [[10]], key=key)


def test_a_paired_difference_leaves_out_what_only_one_was_asked() -> None:
    ours = [run("a", question, correct=question != "q1") for question in ("q1", "q2", "q3", "only a")]
    theirs = [run("b", question, correct=False) for question in ("q1", "q2", "q3")]
    settings = by_key([*ours, *theirs])
    mean, half, count = paired(settings["a"], settings["b"])
    assert (mean, count) == (pytest.approx(2 / 3), 3)
    assert half == pytest.approx(1.96 * (1 / 3) ** 0.5 / 3**0.5)


def test_a_right_answer_that_comes_too_late_is_not_right_in_time() -> None:
    late, wrong = run("a", "q1", correct=True, latency_ms=900.0), run("a", "q2", correct=False, latency_ms=400.0)
    right = run("a", "q3", correct=True, latency_ms=500.0)
    silent = structs.replace(wrong, note=UNANSWERED)
    assert in_time([late, wrong, right, silent], 500.0) == (0.5, 0.25)


@pytest.mark.parametrize("name", ["strategies-h200", "strategies-h200-priority"])
def test_the_page_holds_the_tables_of_the_stored_runs(name: str) -> None:
    from audit import ROOT

    from profiler.runs_table import markdown

    table = markdown(read(ROOT / f"docs/data/{name}.runs.jsonl.gz"))
    assert table in (ROOT / "docs/strategies.md").read_text()
