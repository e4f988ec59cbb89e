"""Two numbers that say how sure a model was."""

import pytest

from profiler.logprobs import WINDOW, confidence


def test_the_weakest_stretch_is_found_wherever_it_is() -> None:
    sure, unsure = [-0.1] * 100, [-2.0] * WINDOW
    mean, low = confidence(sure + unsure + sure) or (0, 0)
    assert (mean, low) == pytest.approx(((200 * -0.1 + WINDOW * -2.0) / (200 + WINDOW), -2.0), abs=1e-4)


def test_a_short_answer_is_one_stretch() -> None:
    assert confidence([-1.0, -3.0]) == (-2.0, -2.0)


def test_no_logprobs_no_confidence() -> None:
    assert confidence([]) is None
