"""Answers of built-in models sampled without an engine: a minute on one GPU for what takes CPU engines hours.

    python -m profiler.tinymath.sample --weights profiler/tinymath/weights/s profiler/tinymath/weights/m --out DIR
    paretoproxy quality --config examples/demo-fleet.yaml --task tinymath --model tinymath-s
    --texts DIR/s.texts.jsonl --out QUALITY

One file a model, named after its folder, and in it one line a question: {"question", "prompt_tokens", "greedy":
[text, tokens, finish], "samples": [[text, tokens, finish], …]}. A file that is there is not sampled again. That real
engines give the same accuracy is tested on each engine of the demo fleet (tests/real).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.tinymath.decode import Decoder, Sampling
from profiler.tinymath.task import HELD_OUT_SEED, POOL_SEED, Question, questions
from profiler.tinymath.tokens import TURN_END_ID, bpe, encoded, prompt
from profiler.tinymath.train_models import load_policy

Answer = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Order:
    """How many questions and answers, how long, how many answers are generated at a time, and of which seed the
    questions are."""

    questions: int
    samples: int
    max_tokens: int
    rows: int
    seed: int
    of: int = POOL_SEED


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, nargs="+", required=True, help="folders of policies")
    add("--out", type=Path, required=True, help="a directory, or for one model a .jsonl file")
    add("--questions", type=int, default=200)
    add("--samples", type=int, default=64)
    add("--max-tokens", type=int, default=1280)
    add("--rows", type=int, default=6144, help="answers generated at a time; fewer need less memory")
    add("--seed", type=int, default=0)
    add("--held-out", action="store_true", help="the held-out questions instead of the pool's")
    options = parser.parse_args(arguments)
    of = HELD_OUT_SEED if options.held_out else POOL_SEED
    order = Order(options.questions, options.samples, options.max_tokens, options.rows, options.seed, of)
    if options.out.suffix == ".jsonl" and len(options.weights) > 1:
        parser.error("several --weights need a directory as --out: each model gets a file of its own")
    for weights in options.weights:
        single = options.out.suffix == ".jsonl"
        file = options.out if single else options.out / f"{weights.name}.texts.jsonl"
        if single or not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            sample_to(file, weights, order)


def sample_to(file: Path, weights: Path, order: Order) -> None:
    """Sample one model; the file appears when it is complete."""
    began, decoder, asked = time.monotonic(), Decoder(load_policy(weights)), questions(order.questions, order.of)
    unfinished, size = file.with_suffix(".part"), max(1, order.rows // order.samples)
    with unfinished.open("w") as lines:
        for first in range(0, len(asked), size):
            for line in _lines(decoder, asked[first : first + size], order, order.seed * 100_003 + first):
                lines.write(json.dumps(line) + "\n")
            done = min(first + size, len(asked))
            print(f"{weights.name}: {done}/{len(asked)} questions, {time.monotonic() - began:.0f} s", flush=True)
    unfinished.rename(file)


def _lines(decoder: Decoder, asked: Sequence[Question], order: Order, seed: int) -> Iterator[dict[str, Any]]:
    prompts = encoded([prompt(question.question) for question in asked])
    greedy = decoder.generate(prompts, Sampling(order.max_tokens, temperature=0.0))
    drawn = decoder.generate(prompts, Sampling(order.max_tokens, samples=order.samples, seed=seed))
    for index, question in enumerate(asked):
        yield {
            "question": question.question,
            "prompt_tokens": len(prompts[index]),
            "greedy": _read(greedy[index]),
            "samples": [_read(ids) for ids in drawn[index * order.samples : (index + 1) * order.samples]],
        }


def _read(ids: Sequence[int]) -> Answer:
    """Text as an engine gives it (no special tokens), tokens with the end of turn, and why it ended."""
    text = bpe().decode(list(ids), skip_special_tokens=True)
    return text, len(ids), "stop" if TURN_END_ID in ids else "length"


if __name__ == "__main__":
    main()
