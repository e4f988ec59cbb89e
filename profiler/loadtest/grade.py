"""Marks the answers of a run. Afterwards, because comparing formulas would make the sends late."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from profiler.loadtest.result import Result
from profiler.loadtest.schedule import Planned
from profiler.marking import Generated, Marking
from strategies.answers import Equivalence


async def grade(
    results: Sequence[Result],
    requests: Sequence[Planned],
    equivalence: Equivalence | None = None,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Sets `correct` of each answer to a labelled question, and drops its text. Questions asked again share their
    classes, so that one formula is compared once."""
    known: dict[tuple[str, str], Marking] = {}
    for result in results:
        planned = requests[result.index]
        if planned.question is not None and planned.answers is not None and result.outcome == "answered":
            key = planned.question.question, planned.question.answer
            marking = known.get(key) or Marking(planned.answers, planned.question.answer, equivalence)
            known[key] = marking
            result.correct = (await marking.mark(Generated(result.text or "", 0, ""))).correct
        result.text = None
        progress()
