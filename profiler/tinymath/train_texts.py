"""Texts sampled from the policies, stored as ids: what the draft and the verifiers are trained on."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from profiler.tinymath.decode import Decoder, Sampling
from profiler.tinymath.tokens import decoded
from profiler.tinymath.train_data import TokenRow
from profiler.tinymath.train_evaluation import Asked, ask
from profiler.tinymath.verifier_data import LABEL_SEED, NEWLINE_ID, Example, example

SAMPLES_PER_QUESTION: Final = 4


@dataclass(frozen=True)
class Texts:
    """Answers of one policy: ids one after the other, the length of each, and how the questions were drawn.

    Batch i holds SAMPLES_PER_QUESTION answers to each of the first `per_batch` questions of seed `seeds[i]`.
    """

    ids: NDArray[np.uint16]
    lengths: NDArray[np.int32]
    seeds: NDArray[np.int64]
    per_batch: int

    def rows(self) -> Iterator[tuple[Asked, list[int]]]:
        ends = np.cumsum(self.lengths)
        asked = (one for seed in self.seeds.tolist() for one in ask(self.per_batch, seed))
        answered = (one for one in asked for _ in range(SAMPLES_PER_QUESTION))
        for one, end, length in zip(answered, ends.tolist(), self.lengths.tolist(), strict=True):
            yield one, self.ids[end - length : end].tolist()


def sample_texts(decoder: Decoder, seconds: float, per_batch: int, max_new_tokens: int, first_seed: int) -> Texts:
    """Batches of answers at temperature 1 until the time is up, at least one."""
    deadline, ids, seeds = time.monotonic() + seconds, list[list[int]](), list[int]()
    while not seeds or time.monotonic() < deadline:
        started, seed = time.monotonic(), first_seed + len(seeds)
        prompts = [one.prompt_ids for one in ask(per_batch, seed)]
        ids += decoder.generate(prompts, Sampling(max_new_tokens, samples=SAMPLES_PER_QUESTION, seed=seed))
        seeds.append(seed)
        if time.monotonic() + (time.monotonic() - started) * 0.7 > deadline:
            break
    flat = np.fromiter((token for row in ids for token in row), np.uint16)
    return Texts(flat, np.array([len(row) for row in ids], np.int32), np.array(seeds, np.int64), per_batch)


def store(texts: Texts, file: Path) -> None:
    unfinished = file.with_suffix(".part.npz")
    np.savez(unfinished, ids=texts.ids, lengths=texts.lengths, seeds=texts.seeds, per_batch=texts.per_batch)
    unfinished.rename(file)


def load(file: Path) -> Texts:
    with np.load(file) as stored:
        return Texts(stored["ids"], stored["lengths"], stored["seeds"], int(stored["per_batch"]))


def first_seed(policy_index: int) -> int:
    """Each policy answers questions of its own."""
    return LABEL_SEED + 10_000 * policy_index


def as_token_row(all_texts: Sequence[Texts]) -> TokenRow:
    """Prompts and answers one after the other, the answers trained on, in random order."""
    rows = [row for texts in all_texts for row in texts.rows()]
    Random(0).shuffle(rows)
    ids = [token for asked, answer in rows for token in (*asked.prompt_ids, *answer, NEWLINE_ID)]
    trained = [flag for a, answer in rows for flag in (*[False] * len(a.prompt_ids), *[True] * len(answer), False)]
    return TokenRow(np.array(ids, np.uint16), np.array(trained, np.bool_))


def as_examples(all_texts: Sequence[Texts]) -> list[Example]:
    """The answers with the checker's labels."""
    rng, examples = Random(1), list[Example]()
    for texts in all_texts:
        rows = list(texts.rows())
        for (asked, ids), text in zip(rows, decoded([ids for _, ids in rows]), strict=True):
            one = example(rng, asked.problem, asked.prompt_ids, ids, text)
            examples += [one] if one else []
    return examples
