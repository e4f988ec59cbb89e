"""Counting votes over answer classes, with one tie rule for every strategy that votes."""

from __future__ import annotations

from strategies.base import Answer, Branch, Outcome


class Vote:
    """Votes in order of arrival. Ties go to the class whose shortest branch is shortest, then to the first seen."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.arrived = 0
        self._shortest: list[Branch] = []
        self._answers: list[Answer] = []
        self._others: list[Branch] = []

    def add(self, branch: Branch, answer: Answer | None) -> None:
        self.arrived += 1
        if answer is None:
            self._others.append(branch)
            return
        if answer.group == len(self.counts):
            self.counts.append(1)
            self._shortest.append(branch)
            self._answers.append(answer)
            return
        self.counts[answer.group] += 1
        if branch.tokens < self._shortest[answer.group].tokens:
            self._others.append(self._shortest[answer.group])
            self._shortest[answer.group] = branch
            self._answers[answer.group] = answer
        else:
            self._others.append(branch)

    def outcome(self) -> Outcome:
        """The winning class is answered by its shortest branch. With no vote at all, the first arrival answers."""
        total = sum(self.counts)
        if not total:
            return Outcome(tuple(branch.index for branch in self._others))
        order = sorted(
            range(len(self.counts)),
            key=lambda group: (-self.counts[group], self._shortest[group].tokens, group),
        )
        best = [self._shortest[group].index for group in order]
        rest = [branch.index for branch in self._others]
        return Outcome(
            ranking=(*best, *rest),
            agreement=self.counts[order[0]] / total,
            answer=self._answers[order[0]].text,
            votes=total,
        )
