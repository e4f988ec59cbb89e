"""Does an engine give the model's accuracy and completion lengths? A sequential test against stored samples.

    test = AgreementTest("sampled", Limits())
    standing = test.add(question, fresh)        # question by question, until standing.verdict is not "undecided"

**Error control.** An engine that draws what the reference drew is called "differs" with a probability of at most
`alpha`, however many questions are asked and whenever one stops; the noise of the stored samples is in it. It is the
average of e-processes for accuracy and for lengths (`exchangeability.py`), alarming at 1/alpha. At temperature 0 an
engine may differ by rounding; a third one then tests whether more than a share `tolerance` of its answers differ, and
the others, a question's stored and fresh answer being one sample each, whether what differs is worse (or longer) more
often than better (or shorter): rounding has no side.

"agrees" is said when the accuracy is within `margin` of the reference's with confidence 1 − `margin_alpha` (a sequence
of confidence intervals, valid at all questions together), or when `questions` were asked without an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt

import numpy as np

from profiler.exchangeability import Wealth, log_e_of_lengths, log_e_of_right, log_e_of_share
from profiler.quality_file import StoredQuestion, StoredSample
from profiler.verdict import Said, SamplingSetting

WORTH_A_WORD = 1.0  # log e-value from which a part is named beside those that raised the alarm
MIXED_VARIANCE = 1.0  # of Robbins' mixture: the intervals are narrowest at about ten times this summed variance


@dataclass(frozen=True, slots=True)
class Limits:
    """`alpha`: chance of a false "differs"; `margin`: of accuracy, to agree early, wrong at most `margin_alpha` of the
    time; `questions`: asked at most; `tolerance`: share of greedy answers that rounding may change (in bfloat16, long
    reasoning differs between batch sizes and TP degrees in several percent of its answers: arXiv 2506.09501)."""

    alpha: float = 0.001
    margin: float = 0.05
    margin_alpha: float = 0.05
    questions: int = 60
    tolerance: float = 0.2


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a test is. `difference`: interval of the accuracy less the reference's over the questions asked.

    `length_ratio`: mean over questions of the tokens over the reference's. `evidence`: log e-value per part
    ("accuracy", "lengths", "answers"); `reason`: in words.
    """

    verdict: Said
    questions: int
    accuracy: float
    expected_accuracy: float
    difference: tuple[float, float]
    length_ratio: float
    evidence: Mapping[str, float]
    reason: str


@dataclass(slots=True)
class AgreementTest:
    """Takes results question by question, in an order that does not depend on them."""

    setting: SamplingSetting
    limits: Limits = field(default_factory=Limits)
    _wealth: dict[str, Wealth] = field(init=False)
    _shares: list[tuple[float, float]] = field(default_factory=list)  # right of the fresh, of the stored
    _ratios: list[float] = field(default_factory=list)  # mean tokens of the fresh over those of the stored
    _variance: float = 0.0
    _changed: int = 0  # answers at temperature 0 that are not the stored ones

    def __post_init__(self) -> None:
        parts = ("accuracy", "lengths") if self.setting == "sampled" else ("accuracy", "lengths", "answers")
        self._wealth = {part: Wealth() for part in parts}

    def add(self, question: StoredQuestion, fresh: Sequence[StoredSample]) -> Standing:
        """Count one question's fresh answers, at least one. Raises ValueError where there are none, or none stored."""
        stored = question.samples if self.setting == "sampled" else [question.greedy]
        if not fresh or not stored:
            raise ValueError("a question needs at least one fresh and one stored sample")
        right = [s.correct for s in stored], [s.correct for s in fresh]
        tokens = [s.tokens for s in stored], [s.tokens for s in fresh]
        self._wealth["accuracy"].win(log_e_of_right(*right))
        self._wealth["lengths"].win(log_e_of_lengths(*tokens))
        if "answers" in self._wealth:
            changed = fresh[0].answer != stored[0].answer
            self._changed += changed
            self._wealth["answers"].win(log_e_of_share(changed, self.limits.tolerance))
        self._shares.append((float(np.mean(right[1])), float(np.mean(right[0]))))
        self._ratios.append(float(np.mean(tokens[1]) / max(1.0, float(np.mean(tokens[0])))))
        self._variance += (1 / len(fresh) + 1 / len(stored)) / 4  # no share of right answers varies more
        return self.standing

    @property
    def standing(self) -> Standing:
        evidence = {part: wealth.log for part, wealth in self._wealth.items()}
        asked = len(self._shares)
        accuracy, expected = map(float, np.mean(self._shares, axis=0)) if asked else (0.0, 0.0)
        half = self._half_width()
        interval = (max(-1.0, accuracy - expected - half), min(1.0, accuracy - expected + half))
        verdict = self._verdict(evidence, interval)
        ratio = float(np.mean(self._ratios)) if asked else 1.0
        standing = Standing(verdict, asked, accuracy, expected, interval, ratio, evidence, "")
        return replace(standing, reason=self._reason(standing))

    def _reason(self, standing: Standing) -> str:
        words = {
            "accuracy": f"accuracy {standing.accuracy:.2f} where the table has {standing.expected_accuracy:.2f}",
            "lengths": f"completion lengths ({standing.length_ratio:.2f} times the table's on average)",
            "answers": f"{self._changed} answers that are not the stored ones, more than rounding explains",
        }
        asked, (low, high) = standing.questions, standing.difference
        if standing.verdict == "differs":
            apart = [words[part] for part, value in standing.evidence.items() if value >= WORTH_A_WORD]
            once_in = exp(min(_together(standing.evidence), log(1e9)))
            return f"{' and '.join(apart)}, after {asked} questions; by chance at most once in {once_in:,.0f} tests"
        if standing.verdict == "undecided":
            return f"neither agreement nor a difference is shown after {asked} questions"
        if self.setting == "greedy":
            return f"{asked - self._changed} of {asked} answers are the stored ones, no sign of a difference"
        return (
            f"no sign of a difference in {asked} questions; accuracy {standing.accuracy:.2f}, the table's "
            f"{standing.expected_accuracy:.2f}, apart by {low:+.2f} to {high:+.2f}"
        )

    def _verdict(self, evidence: Mapping[str, float], interval: tuple[float, float]) -> Said:
        if _together(evidence) >= -log(self.limits.alpha):
            return "differs"
        within = -self.limits.margin <= interval[0] and interval[1] <= self.limits.margin
        if within or len(self._shares) >= self.limits.questions:
            return "agrees"
        return "undecided"

    def _half_width(self) -> float:
        """Of the interval of the mean difference. Robbins' normal mixture: shares are sub-Gaussian with at most the
        variance of a fair coin's, so that it holds for any accuracies, at all questions together."""
        if not self._shares:
            return 1.0
        v = self._variance + MIXED_VARIANCE
        return sqrt(v * log(v / MIXED_VARIANCE / self.limits.margin_alpha**2)) / len(self._shares)


def _together(evidence: Mapping[str, float]) -> float:
    """Log of the average e-value: as valid as each."""
    return float(np.logaddexp.reduce(list(evidence.values())) - log(len(evidence)))
