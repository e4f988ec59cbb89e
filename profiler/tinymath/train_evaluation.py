"""How well a trained model answers: sampled with transformers, scored by profiler.tinymath.metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from profiler.tinymath import metrics
from profiler.tinymath.task import EVALUATION_SEED, Question, boxed_answer, questions
from profiler.tinymath.train_tokenizer import prompt

SAMPLES_PER_QUESTION: Final = 16
_QUESTIONS_PER_BATCH: Final = 100


@dataclass(frozen=True)
class Generated:
    """One sampled text and its length in tokens, the end of turn included."""

    text: str
    tokens: int


def evaluate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, max_new_tokens: int
) -> dict[str, Any]:
    """Accuracies (0 to 1) and lengths (tokens) at temperature 1.0 over `count` questions, as JSON values."""
    asked = questions(count, EVALUATION_SEED)
    generated = list(sample_answers(model, tokenizer, asked, max_new_tokens))
    sampled = [
        metrics.Samples(tuple(boxed_answer(g.text) for g in texts), question.answer, question.steps)
        for question, texts in zip(asked, generated, strict=True)
    ]
    return {
        "pass@1": metrics.pass_at_1(sampled),
        **{f"vote@{size}": metrics.vote_at(size, sampled) for size in metrics.VOTE_SIZES},
        f"pass@{SAMPLES_PER_QUESTION}": metrics.pass_at_all(sampled),
        "len": _lengths([g.tokens for texts in generated for g in texts]),
        "by_steps": {steps: round(value, 3) for steps, value in metrics.accuracy_by_steps(sampled).items()},
    }


def sample_answers(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Question],
    max_new_tokens: int,
) -> Iterator[list[Generated]]:
    """SAMPLES_PER_QUESTION texts for each question, in the order of the questions."""
    tokenizer.padding_side = "left"
    for first in range(0, len(asked), _QUESTIONS_PER_BATCH):
        prompts = [prompt(question.question) for question in asked[first : first + _QUESTIONS_PER_BATCH]]
        rows = _generate(model, tokenizer, prompts, max_new_tokens)
        for start in range(0, len(rows), SAMPLES_PER_QUESTION):
            yield [_read(tokenizer, row) for row in rows[start : start + SAMPLES_PER_QUESTION]]


def _generate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], max_new_tokens: int
) -> torch.Tensor:
    """New token ids, shape (prompts * SAMPLES_PER_QUESTION, at most max_new_tokens), padded at the end."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    output = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=max_new_tokens,
        num_return_sequences=SAMPLES_PER_QUESTION,
    )
    return output[:, batch["input_ids"].shape[1] :]


def _read(tokenizer: PreTrainedTokenizerFast, row: torch.Tensor) -> Generated:
    tokens = int((row != tokenizer.pad_token_id).sum())
    return Generated(tokenizer.decode(row, skip_special_tokens=False), tokens)


def _lengths(tokens: Sequence[int]) -> dict[str, float]:
    return {
        "mean": float(np.mean(tokens)),
        "p50": float(np.median(tokens)),
        "p95": float(np.quantile(tokens, 0.95)),
        "max": max(tokens),
    }
