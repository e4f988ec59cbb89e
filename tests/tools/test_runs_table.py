"""Settings are compared on the questions that both were asked."""

import pytest
from runs_table import by_key, paired, read

from profiler.runs import Run


def run(key: str, question: str, *, correct: bool) -> Run:
    return Run("m", "t", "none", {}, question, correct, 1.0, 10, [[10]], key=key)


def test_a_paired_difference_leaves_out_what_only_one_was_asked() -> None:
    ours = [run("a", question, correct=question != "q1") for question in ("q1", "q2", "q3", "only a")]
    theirs = [run("b", question, correct=False) for question in ("q1", "q2", "q3")]
    settings = by_key([*ours, *theirs])
    mean, half, count = paired(settings["a"], settings["b"])
    assert (mean, count) == (pytest.approx(2 / 3), 3)
    assert half == pytest.approx(1.96 * (1 / 3) ** 0.5 / 3**0.5)


def test_the_page_holds_the_table_of_the_stored_runs() -> None:
    from audit import ROOT

    from profiler.runs_table import markdown

    table = markdown(read(ROOT / "docs/data/strategies-h200.runs.jsonl.gz"))
    assert table in (ROOT / "docs/strategies.md").read_text()
