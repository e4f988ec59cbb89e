"""What is assumed where nothing was measured: a stated prior, so that a user without labels gets a sensible choice
on day one.
"""

from __future__ import annotations

import numpy as np

from profiler.quality_file import StoredQuestion, StoredSample

MEAN_TOKENS = 600.0
LENGTH_CV = 0.7
WRONG_ANSWERS = 6
QUESTIONS = 48
SAMPLES = 24


def prior_pool(seed: int = 0) -> list[StoredQuestion]:
    """Synthetic samples: per-question solve rates spread uniformly over 0.1..0.9, wrong answers over six classes,
    lognormal lengths (mean 600 tokens, CV 0.7). More samples then help, with diminishing returns."""
    rng = np.random.default_rng(seed)
    sigma = float(np.sqrt(np.log(1 + LENGTH_CV**2)))
    pool = []
    for index in range(QUESTIONS):
        rate = 0.1 + 0.8 * (index + 0.5) / QUESTIONS
        lengths = rng.lognormal(np.log(MEAN_TOKENS) - sigma**2 / 2, sigma, SAMPLES).astype(int) + 1
        right = rng.random(SAMPLES) < rate
        wrong = rng.integers(WRONG_ANSWERS, size=SAMPLES)
        samples = [
            StoredSample("right" if ok else f"wrong{kind}", int(tokens), "stop", bool(ok))
            for ok, kind, tokens in zip(right, wrong, lengths, strict=True)
        ]
        greedy = StoredSample("right" if rate > 0.5 else "wrong", int(MEAN_TOKENS), "stop", rate > 0.5)
        pool.append(StoredQuestion(f"prior {index}", "right", "prior", 100, greedy, samples))
    return pool
