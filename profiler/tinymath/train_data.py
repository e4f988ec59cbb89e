"""The training data: conversations as one long row of token ids, with a mask of what the loss counts."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from profiler.tinymath.task import FIRST_TRAINING_SEED, draw
from profiler.tinymath.tokens import TURN_END, encoded, prompt
from profiler.tinymath.traces import Habits, Segment, make_trace

CHUNK_EXAMPLES: Final = 2500
_MAX_PROCESSES: Final = 16
_T = TypeVar("_T")


@dataclass(frozen=True)
class TokenRow:
    """Token ids and, of the same shape (tokens,), whether the loss counts each."""

    ids: NDArray[np.uint16]
    trained: NDArray[np.bool_]

    def cut(self, length: int) -> "TokenRow":
        """The row as sequences of shape (n, length); what is left over at the end is dropped."""
        whole = len(self.ids) // length * length
        return TokenRow(self.ids[:whole].reshape(-1, length), self.trained[:whole].reshape(-1, length))


def joined(rows: Sequence[TokenRow]) -> TokenRow:
    return TokenRow(np.concatenate([row.ids for row in rows]), np.concatenate([row.trained for row in rows]))


def load_or_build(cache: Path, examples: int, habits: Habits, seconds: float) -> TokenRow:
    """At most `examples` conversations, as many as `seconds` allow, built once and then read from `cache`."""
    if not cache.exists():
        row = build(examples, habits, seconds)
        unfinished = cache.with_suffix(".part.npz")
        np.savez(unfinished, ids=row.ids, trained=row.trained)
        unfinished.rename(cache)
    with np.load(cache) as stored:
        return TokenRow(stored["ids"], stored["trained"])


def build(examples: int, habits: Habits, seconds: float) -> TokenRow:
    """Chunks of conversations, each with a seed of its own, over all cores until the time is up; at least one chunk.

    Raises ValueError without examples; a last chunk that is not full is built short.
    """
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    sizes = [min(CHUNK_EXAMPLES, examples - done) for done in range(0, examples, CHUNK_EXAMPLES)]
    jobs = ((FIRST_TRAINING_SEED + index, size, habits) for index, size in enumerate(sizes))
    return joined(list(on_all_cores(build_chunk, jobs, seconds)))


def build_chunk(seed: int, examples: int, habits: Habits) -> TokenRow:
    """The conversations of one seed, one after the other."""
    rng = Random(seed)
    segments = [segment for _ in range(examples) for segment in conversation(rng, habits)]
    # Segments are encoded one by one, so that no token spans the border of what is trained.
    tokens = encoded([segment.text for segment in segments])
    ids = np.fromiter((token for piece in tokens for token in piece), np.uint16)
    return TokenRow(ids, np.repeat([s.trained for s in segments], [len(piece) for piece in tokens]))


def conversation(rng: Random, habits: Habits) -> list[Segment]:
    """One question and its trace; the loss counts the assistant's text and the end of its turn."""
    question, problem = draw(rng)
    trace = make_trace(rng, problem, habits)
    opening = Segment(prompt(question.question), trained=False)
    return [opening, *trace.segments, Segment(TURN_END), Segment("\n", trained=False)]


def on_all_cores(work: Callable[..., _T], jobs: Iterator[tuple[object, ...]], seconds: float) -> Iterator[_T]:
    """Results of `work(*job)` as they come; no job is started after `seconds`, and one is always done."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes below are the parallelism
    processes = min(_MAX_PROCESSES, os.cpu_count() or 1)
    deadline = time.monotonic() + seconds
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running: set[Future[_T]] = set()
        for started in count():
            if len(running) >= processes + 2:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            job = next(jobs, None)
            if job is None or (started and time.monotonic() > deadline):
                break
            running.add(pool.submit(work, *job))
        yield from (future.result() for future in running)
