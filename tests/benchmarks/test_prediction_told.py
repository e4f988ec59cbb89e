"""The README's figures of predictions are those of the stored requests."""

import re

import pytest
from bench_fleet import ROOT
from prediction import report, stored

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("runs", "whole", "names", "cells", "requests"),
    [
        (["h200"], 60, None, 38, 2280),
        (["h200"], 60, "m-tp1,s-tp1", 20, 1200),
        (["demo", "demo-2"], 36, None, 31, 2364),
        (["demo", "demo-2"], 36, "m-tp1,s-tp1", 20, 1920),
    ],
)
def test_the_readme_tells_what_was_measured(
    runs: list[str], whole: int, names: str | None, cells: int, requests: int
) -> None:
    told = report(stored([ROOT / f"docs/data/prediction-{run}.jsonl.gz" for run in runs], names), whole).splitlines()

    for kind, label in (("with online correction", "as served"), ("profile alone", "from the profile alone")):
        line = next(line for line in told if line.startswith(kind))
        median, worst, within = re.findall(r"(\d+\.\d)%", line)
        assert f"over {cells} cells" in line and f"of {requests} requests" in line
        row = next(row for row in README.splitlines() if f"| {label} | {median}% |" in row)
        assert row.endswith(f"| {within}% |") and (f"| {worst}% |" in row or f"| {float(worst):.0f}% |" in row)


def test_the_readme_tells_each_run_of_the_demo_fleet() -> None:
    text = " ".join(README.split())
    for run, words in (("demo", "the first had {} over its 31 cells"), ("demo-2", "the second {} over its 20")):
        told = report(stored([ROOT / f"docs/data/prediction-{run}.jsonl.gz"]), 36).splitlines()
        line = next(line for line in told if line.startswith("profile alone"))
        assert words.format(re.findall(r"\d+\.\d%", line)[0]) in text
