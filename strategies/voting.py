"""Counting votes over answer classes, with one tie rule for every strategy that votes."""

from __future__ import annotations

from strategies.base import Answer, Branch, Outcome


class Vote:
    """Votes in order of arrival, each of weight 1 unless told. Ties go to the class whose shortest branch is shortest,
    then to the first seen."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.weights: list[float] = []
        self.arrived = 0
        self.seen: list[tuple[Branch, Answer | None]] = []
        self._shortest: list[Branch] = []
        self._answers: list[Answer] = []
        self._others: list[Branch] = []
        self._weighted = False

    def add(self, branch: Branch, answer: Answer | None, weight: float | None = None) -> None:
        """`weight`: 0 or more. A branch without an answer abstains, whatever its weight."""
        self.arrived += 1
        self.seen.append((branch, answer))
        if weight is not None:
            self._weighted = True
        if answer is None:
            self._others.append(branch)
            return
        value = 1.0 if weight is None else weight
        if answer.group == len(self.counts):
            self.counts.append(1)
            self.weights.append(value)
            self._shortest.append(branch)
            self._answers.append(answer)
            return
        self.counts[answer.group] += 1
        self.weights[answer.group] += value
        if branch.tokens < self._shortest[answer.group].tokens:
            self._others.append(self._shortest[answer.group])
            self._shortest[answer.group] = branch
            self._answers[answer.group] = answer
        else:
            self._others.append(branch)

    @property
    def leaders_share(self) -> float:
        """The heaviest class's share of all weight, 0 to 1; 0 without votes."""
        total = sum(self.weights)
        return max(self.weights) / total if total > 0 else 0.0

    def outcome(self, note: str | None = None) -> Outcome:
        """The winning class is answered by its shortest branch. With no vote at all, the first arrival answers."""
        votes = sum(self.counts)
        if not votes:
            return Outcome(tuple(branch.index for branch in self._others), note=note)
        order = sorted(
            range(len(self.counts)),
            key=lambda group: (-self.weights[group], self._shortest[group].tokens, group),
        )
        best = [self._shortest[group].index for group in order]
        rest = [branch.index for branch in self._others]
        agreement = self.leaders_share if self._weighted else self.counts[order[0]] / votes
        return Outcome(
            ranking=(*best, *rest),
            agreement=agreement,
            answer=self._answers[order[0]].text,
            votes=votes,
            note=note,
        )
