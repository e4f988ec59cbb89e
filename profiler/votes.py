"""Who wins a vote, over many draws at once: the answer's agreement, whether it is right, and how long each branch ran,
under any stop rule. Rules are asked once per distinct count of votes, not once per draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.base import Shape, StopRule
from strategies.stopping import WindowAgrees

ABSTAINS = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """One stored generation: `answer` is its class among the question's answers (None abstains)."""

    answer: str | None
    tokens: int
    correct: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """R draws of n branches, (R, n) each: answer classes (ABSTAINS for none), tokens, and whether each is right."""

    answers: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray

    def cut(self, budget: int) -> Drawn:
        """The same draws when generation ends after `budget` tokens: what is longer has no answer, so it abstains."""
        whole = self.tokens <= budget
        return Drawn(np.where(whole, self.answers, ABSTAINS), np.minimum(self.tokens, budget), self.correct & whole)


@dataclass(frozen=True, slots=True)
class Votes:
    """Per draw, (R,): `agreement`: the winner's share of the votes, 0 where nobody voted; `votes`: how many did;
    `correct`: of the answer given. `lengths` (R, n): tokens of each branch until the decision, ascending; `later`: the
    same of each further window, (R, its branches), 0 where it was not started."""

    agreement: np.ndarray
    votes: np.ndarray
    correct: np.ndarray
    lengths: np.ndarray
    later: tuple[np.ndarray, ...] = ()


def draw(
    pool: Sequence[Sequence[Sample]],
    branches: int,
    per_question: int,
    seed: int = 0,
    first: Sequence[Sample] | None = None,
) -> Drawn:
    """`per_question` draws without replacement of each question, in order. `first`: of each question the sample that
    is always drawn, before the others.

    Raises ValueError where a question has fewer samples than `branches`.
    """
    rng = np.random.default_rng(seed)
    answers, tokens, correct = [], [], []
    for index, drawn_from in enumerate(pool):
        samples = [*drawn_from, *([first[index]] if first is not None else [])]
        if len(samples) < branches:
            raise ValueError(f"question {index} has {len(samples)} samples; the shape needs {branches}")
        classes = {answer: number for number, answer in enumerate(dict.fromkeys(s.answer for s in samples))}
        codes = np.array([ABSTAINS if s.answer is None else classes[s.answer] for s in samples])
        picks = np.array([rng.permutation(len(drawn_from))[:branches] for _ in range(per_question)])
        if first is not None:
            always = np.full((per_question, 1), len(drawn_from))
            picks = np.hstack([always, picks[:, : branches - 1]])
        answers.append(codes[picks])
        tokens.append(np.array([s.tokens for s in samples])[picks])
        correct.append(np.array([s.correct for s in samples])[picks])
    return Drawn(np.concatenate(answers), np.concatenate(tokens), np.concatenate(correct))


def vote(drawn: Drawn, shape: Shape) -> Votes:
    """Branches arrive in the order of their tokens until the rule has decided. Ties go to the class that came first:
    its shortest branch is the shortest."""
    if shape.window is not None:
        return _in_windows(drawn, shape, shape.window)
    order = np.argsort(drawn.tokens, axis=1, kind="stable")
    answers = np.take_along_axis(drawn.answers, order, axis=1)
    tokens = np.take_along_axis(drawn.tokens, order, axis=1)
    rows = np.arange(len(answers))
    counts, decided_at = _counted(answers, shape.stop)
    winner, votes = counts.argmax(axis=1), counts.sum(axis=1)
    agreement = counts[rows, winner] / np.maximum(votes, 1)
    # The winning class is answered by its shortest branch, which is its first; without votes the first arrival answers.
    answered = np.where(votes > 0, winner, 0)
    correct = np.take_along_axis(drawn.correct, order, axis=1)[rows, answered]
    return Votes(agreement, votes, correct, np.minimum(tokens, tokens[rows, decided_at][:, None]))


def _counted(answers: np.ndarray, rule: StopRule) -> tuple[np.ndarray, np.ndarray]:
    """Votes per class when the rule decides, (draws, classes), and the arrival that settled it, (draws,). `answers`: in
    the order of arrival. A class is named by the arrival that it was first seen at, so that of equal counts the first
    one is the winner."""
    total = answers.shape[1]
    first_seen = (answers[:, :, None] == answers[:, None, :]).argmax(axis=2)
    counts = np.zeros(answers.shape, int)
    decided_at = np.full(len(answers), total - 1)
    open_rows = np.arange(len(answers))
    for arrived in range(1, total + 1):
        at = arrived - 1
        voting = open_rows[answers[open_rows, at] != ABSTAINS]
        counts[voting, first_seen[voting, at]] += 1
        if arrived < total:  # with all arrived there is nothing left to decide
            decided = _decided(counts[open_rows], rule, arrived, total)
            decided_at[open_rows[decided]] = at
            open_rows = open_rows[~decided]
        if not len(open_rows):
            break
    return counts, decided_at


def _in_windows(drawn: Drawn, shape: Shape, window: int) -> Votes:
    """Windows of branches in the order drawn, until the vote is settled; then a vote over all that arrived."""
    answers, tokens = drawn.answers, drawn.tokens
    total = answers.shape[1]
    arrival = _arrival_ranks(tokens, window)
    last = _last_agreeing(answers, window) if isinstance(shape.stop, WindowAgrees) else _last(answers, arrival, shape)
    ran = arrival <= last[:, None]
    waves = []
    for start in range(0, total, window):
        columns = slice(start, min(start + window, total))
        part, came = tokens[:, columns], ran[:, columns]
        # Those that had not come when the vote was settled had got as far as the last one.
        until = np.where(came, part, 0).max(axis=1, keepdims=True)
        waves.append(np.sort(np.minimum(part, until), axis=1))
    votes = ran & (answers != ABSTAINS)
    same = (answers[:, :, None] == answers[:, None, :]) & votes[:, :, None] & votes[:, None, :]
    counts = same.sum(axis=2)  # of each branch's class
    # The class: most votes, then the shortest shortest branch, then the first seen; its branch: the shortest and first.
    longest = int(tokens.max()) + 1
    shortest = np.where(same, tokens[:, None, :], longest).min(axis=2)
    seen = np.where(same, arrival[:, None, :], total).min(axis=2)
    of_class = ((total - counts) * (longest + 1) + shortest) * (total + 1) + seen
    keys = (of_class * (longest + 1) + tokens) * (total + 1) + arrival
    answered = np.where(ran, keys, np.iinfo(np.int64).max).argmin(axis=1)
    rows = np.arange(len(answers))
    silent = ~votes.any(axis=1)  # nobody voted: the first arrival answers
    answered[silent] = np.where(ran, arrival, total)[silent].argmin(axis=1)
    agreement = np.where(silent, 0.0, counts[rows, answered] / np.maximum(votes.sum(axis=1), 1))
    return Votes(agreement, votes.sum(axis=1), drawn.correct[rows, answered], waves[0], tuple(waves[1:]))


def _last(answers: np.ndarray, arrival: np.ndarray, shape: Shape) -> np.ndarray:
    """The arrival that settles the vote, (draws,)."""
    ordered = np.take_along_axis(answers, arrival.argsort(axis=1), axis=1)
    return _counted(ordered, shape.stop)[1]


def _last_agreeing(answers: np.ndarray, window: int) -> np.ndarray:
    """The last arrival of the first window whose branches all gave the same answer, or of all, (draws,)."""
    total = answers.shape[1]
    last = np.full(len(answers), total - 1)
    for start in range(total - total % window - window, -1, -window):
        part = answers[:, start : start + window]
        agreed = (part == part[:, :1]).all(axis=1) & (part[:, 0] != ABSTAINS)
        last[agreed] = start + window - 1
    return last


def _arrival_ranks(tokens: np.ndarray, window: int) -> np.ndarray:
    """Of each branch when it arrives among all: windows follow on each other, within one the shorter comes first."""
    ranks = np.empty(tokens.shape, int)
    for start in range(0, tokens.shape[1], window):
        part = tokens[:, start : start + window]
        ranks[:, start : start + window] = start + part.argsort(axis=1, kind="stable").argsort(axis=1)
    return ranks


def _decided(counts: np.ndarray, rule: StopRule, arrived: int, total: int) -> np.ndarray:
    """Of each row of counts whether `rule` stops there, (rows,)."""
    ranked = -np.sort(-counts, axis=1)
    _, first, which = np.unique(_names(ranked, total), return_index=True, return_inverse=True)
    told = [rule.decided([count for count in ranked[row].tolist() if count], arrived, total) for row in first]
    return np.array(told, bool)[which]


def _names(rows: np.ndarray, largest: int) -> np.ndarray:
    """A whole number per row, equal only for equal rows of numbers up to `largest`. As many columns at a time as fit 64
    bits beside the name so far: numpy's own comparison of whole rows takes ten times as long."""
    bits = largest.bit_length()
    at_once = 40 // bits
    weights = 1 << (bits * np.arange(at_once))
    names = np.zeros(len(rows), np.int64)
    for start in range(0, rows.shape[1], at_once):
        part = rows[:, start : start + at_once]
        if not part.any():  # rows are sorted: nothing is to come
            break
        whole = (names << (bits * at_once)) + part @ weights[: part.shape[1]]
        names = np.unique(whole, return_inverse=True)[1]
    return names
