"""The table of stored runs, every setting against one of them on the same questions, and who was right in time.

python tests/tools/runs_table.py docs/data/strategies-h200.runs.jsonl.gz --against self-consistency:n=8,stop=all
python tests/tools/runs_table.py docs/data/strategies-h200-priority.runs.jsonl.gz --within 2000
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from profiler.runs import UNANSWERED, Run
from profiler.runs_table import markdown

Z_95 = 1.96


def read(path: Path) -> list[Run]:
    lines = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [msgspec.json.decode(line, type=Run) for line in lines.splitlines()]


def by_key(runs: Sequence[Run]) -> dict[str, dict[str, Run]]:
    """Of each setting as it was asked for, the run of each question."""
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        found.setdefault(run.key, {})[run.question] = run
    return found


def paired(ours: Mapping[str, Run], theirs: Mapping[str, Run]) -> tuple[float, float, int]:
    """Mean difference of the accuracy, its 95% half-width, and over how many questions that both were asked."""
    both = sorted(ours.keys() & theirs.keys())
    off = np.array([float(ours[question].correct) - float(theirs[question].correct) for question in both])
    return float(off.mean()), Z_95 * float(off.std(ddof=1)) / len(off) ** 0.5, len(both)


def in_time(runs: Sequence[Run], limit_ms: float) -> tuple[float, float]:
    """The share of the runs answered by then, and the share also right."""
    timely = [run for run in runs if run.latency_ms <= limit_ms and run.note != UNANSWERED]
    return len(timely) / len(runs), sum(run.correct for run in timely) / len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--against", help="a setting as it was asked for")
    parser.add_argument("--within", type=float, metavar="MS", help="a latency")
    told = parser.parse_args()
    runs = read(told.runs)
    print(markdown(runs))
    settings = by_key(runs)
    if told.within is not None:
        print(f"\n| within {told.within:.0f} ms | in time | right and in time |\n|---|--:|--:|")
        for key, ours in settings.items():
            print("| `{}` | {:.1%} | {:.3f} |".format(key, *in_time(list(ours.values()), told.within)))
    if told.against is None:
        return
    theirs = settings[told.against]
    print(f"\n| against `{told.against}` | accuracy | questions | tokens |\n|---|--:|--:|--:|")
    for key, ours in settings.items():
        mean, half, count = paired(ours, theirs)
        tokens = np.mean([run.tokens for run in ours.values()]) / np.mean([run.tokens for run in theirs.values()]) - 1
        print(f"| `{key}` | {mean:+.3f} ± {half:.3f} | {count} | {tokens:+.0%} |")


if __name__ == "__main__":
    main()
