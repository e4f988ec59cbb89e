"""The training data: conversations as one long row of token ids, with a mask of what the loss counts."""

import os
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from profiler.tinymath.task import FIRST_TRAINING_SEED, draw
from profiler.tinymath.traces import Segment, make_trace
from profiler.tinymath.train_tokenizer import TURN_END, prompt

CHUNK_EXAMPLES: Final = 5000
_MAX_PROCESSES: Final = 16


@dataclass(frozen=True)
class TokenRow:
    """Token ids and, of the same shape (tokens,), whether the loss counts each."""

    ids: NDArray[np.uint16]
    trained: NDArray[np.bool_]

    def cut(self, length: int) -> "TokenRow":
        """The row as sequences of shape (n, length); what is left over at the end is dropped."""
        count = len(self.ids) // length
        whole = count * length
        return TokenRow(self.ids[:whole].reshape(count, length), self.trained[:whole].reshape(count, length))


def load_or_build(tokenizer_file: Path, examples: int, cache: Path) -> TokenRow:
    """The row of `examples` conversations, built once and then read from `cache` (an .npz file)."""
    if not cache.exists():
        row = build(tokenizer_file, examples)
        np.savez(cache, ids=row.ids, trained=row.trained)
    with np.load(cache) as stored:
        return TokenRow(stored["ids"], stored["trained"])


def build(tokenizer_file: Path, examples: int) -> TokenRow:
    """Chunks of CHUNK_EXAMPLES conversations, each with a seed of its own, over all cores.

    Raises ValueError without examples; a last chunk that is not full is built short.
    """
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes below are the parallelism
    sizes = [min(CHUNK_EXAMPLES, examples - done) for done in range(0, examples, CHUNK_EXAMPLES)]
    jobs = [(tokenizer_file, FIRST_TRAINING_SEED + index, size) for index, size in enumerate(sizes)]
    with get_context("spawn").Pool(min(_MAX_PROCESSES, os.cpu_count() or 1, len(jobs))) as pool:
        chunks = pool.starmap(build_chunk, jobs)
    return TokenRow(np.concatenate([c.ids for c in chunks]), np.concatenate([c.trained for c in chunks]))


def build_chunk(tokenizer_file: Path, seed: int, examples: int) -> TokenRow:
    """The conversations of one seed, one after the other."""
    tokenizer, rng = Tokenizer.from_file(str(tokenizer_file)), Random(seed)
    segments = [segment for _ in range(examples) for segment in conversation(rng)]
    # Segments are encoded one by one, so that no token spans the border of what is trained.
    encoded = [e.ids for e in tokenizer.encode_batch([s.text for s in segments], add_special_tokens=False)]
    ids = np.fromiter((token for tokens in encoded for token in tokens), np.uint16)
    return TokenRow(ids, np.repeat([s.trained for s in segments], [len(tokens) for tokens in encoded]))


def conversation(rng: Random) -> list[Segment]:
    """One question and its trace; the loss counts the assistant's text and the end of its turn."""
    question, problem = draw(rng)
    trace = make_trace(rng, problem)
    opening = Segment(prompt(question.question), trained=False)
    return [opening, *trace.segments, Segment(TURN_END), Segment("\n", trained=False)]
