"""Answers of a built-in model sampled with transformers: minutes on one GPU for what takes CPU engines hours.

    python -m profiler.tinymath.sample --weights profiler/tinymath/weights/s --out s.texts.jsonl
    paretoproxy quality --config examples/demo-fleet.yaml --task tinymath --model tinymath-s --texts s.texts.jsonl
    --out DIR

One line a question: {"question", "prompt_tokens", "greedy": [text, tokens, finish], "samples": [[text, tokens,
finish], …]}. That real engines give the same accuracy is tested on each engine of the demo fleet (tests/real).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from profiler.tinymath.task import POOL_SEED, questions
from profiler.tinymath.train_tokenizer import prompt

QUESTIONS_PER_BATCH = 50
Answer = tuple[str, int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.weights, padding_side="left")
    model = Qwen3ForCausalLM.from_pretrained(options.weights, dtype=torch.bfloat16).to(device).eval()
    asked = [question.question for question in questions(options.questions, POOL_SEED)]
    with options.out.open("w") as file:
        for first in range(0, len(asked), QUESTIONS_PER_BATCH):
            batch = asked[first : first + QUESTIONS_PER_BATCH]
            for line in _lines(model, tokenizer, batch, options.samples, options.max_tokens):
                file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{options.weights.name}: {first + len(batch)}/{len(asked)} questions", flush=True)


def _lines(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: list[str], samples: int, limit: int
) -> Iterator[dict[str, Any]]:
    greedy = _generate(model, tokenizer, asked, limit, do_sample=False)
    drawn = _generate(
        model,
        tokenizer,
        asked,
        limit,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        num_return_sequences=samples,
    )
    for index, question in enumerate(asked):
        yield {
            "question": question,
            "prompt_tokens": len(tokenizer(prompt(question), add_special_tokens=False)["input_ids"]),
            "greedy": greedy[index],
            "samples": drawn[index * samples : (index + 1) * samples],
        }


def _generate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: list[str], limit: int, **sampling: Any
) -> list[Answer]:
    batch = tokenizer([prompt(q) for q in asked], return_tensors="pt", padding=True, add_special_tokens=False)
    batch = batch.to(model.device)
    with torch.no_grad():
        output = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=limit, **sampling
        )
    new = output[:, batch["input_ids"].shape[1] :].cpu()
    return [_read(tokenizer, row) for row in new]


def _read(tokenizer: PreTrainedTokenizerFast, row: torch.Tensor) -> Answer:
    ended = (row == tokenizer.eos_token_id).nonzero()
    tokens = int(ended[0]) + 1 if len(ended) else len(row)
    text = tokenizer.decode(row[:tokens], skip_special_tokens=True)
    return text, tokens, "stop" if len(ended) else "length"


if __name__ == "__main__":
    main()
