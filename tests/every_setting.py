"""Every installed strategy with small parameters, in each way that asks a backend for something else. The tests of what
all of them have in common run over these, on scripted backends and on real engines."""

from __future__ import annotations

from typing import Any

import pytest

SMALL: dict[str, dict[str, Any]] = {
    "none": {},
    "self-consistency": {"n": 4},
    "self-consistency in windows": {"n": 4, "stop": "esc", "window": 2},
    "weighted-vote by confidence": {"n": 4, "weight": "confidence", "window": 32},
    "weighted-vote by reward": {"n": 4, "weight": "reward"},
    "weighted-vote by steps": {"n": 4, "weight": "process-reward"},
    "first-finish": {"n": 4, "m": 2},
    "best-of-n": {"n": 4, "scorer": "reward"},
    "best-of-n by steps": {"n": 4, "scorer": "process-reward"},
    "best-of-n by reranker": {"n": 4, "scorer": "reranker"},
    "best-of-n by certainty": {"n": 4, "scorer": "self-certainty"},
    "best-of-n by judge": {"n": 2, "scorer": "judge", "judge_tokens": 32},
    "universal-consistency": {"n": 3, "choice_tokens": 32, "answer_chars": 200},
    "beam-search": {"n": 4, "expand": 2, "max_steps": 12},
    "dvts": {"n": 4, "expand": 2, "max_steps": 12},
    "rebase": {"n": 4, "max_steps": 12},
    "particle-filter": {"n": 4, "max_steps": 12},
    "budget-forcing": {"waits": 1, "max_tokens": 400, "answer_tokens": 32},
    "deep-confidence": {"n": 6, "warmup": 2, "window": 32},
    "probe-consensus": {"n": 4, "every_tokens": 48},
    "slim-consistency": {"n": 4, "every_tokens": 32, "delimiter": "\n", "warmup_tokens": 32},
    "strategy-uniform": {"n": 4, "ways": 2, "naming_tokens": 32},
    "self-refine": {"rounds": 1, "critique_tokens": 32, "answer_chars": 200},
    "mixture-of-agents": {"n": 3, "answer_chars": 200},
    "recursive-aggregation": {"n": 3, "k": 2, "rounds": 1, "answer_chars": 200},
    "cascade": {"n": 3},
}
FIRSTS = {setting.split()[0]: setting for setting in reversed(SMALL)}.values()
EVERY_SETTING = pytest.mark.parametrize("setting", SMALL)
EVERY_STRATEGY = pytest.mark.parametrize("setting", FIRSTS)


def tts_of(setting: str) -> dict[str, Any]:
    """The member `tts` of a request that pins it."""
    return {"strategy": setting.split()[0], **SMALL[setting]}
