"""Train a tiny Qwen3-architecture reasoner on the built-in task: python -m profiler.tinymath.train --help.

Needs the `train` extra (torch, transformers). The schedule follows the wall clock, so two runs never give quite the
same weights.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from profiler.tinymath.train_data import TokenRow, load_or_build
from profiler.tinymath.train_evaluation import evaluate
from profiler.tinymath.train_tokenizer import VOCABULARY_SIZE, as_chat_tokenizer, train_bpe

SEQUENCE_TOKENS: Final = 1024
WARMUP_STEPS: Final = 200
CONSTANT_SHARE: Final = 0.6
"""Share of the training time at the full learning rate, before it falls linearly."""
LAST_LEARNING_RATE: Final = 0.02
"""Floor of the learning rate, as a share of the full one."""
_COMPILATION_STEPS: Final = 20
_REPORT_EVERY_STEPS: Final = 200
_NOT_TRAINED: Final = -100

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one training run is told; defaults are those of the first recipe."""

    out: Path
    name: str
    hidden_size: int
    layers: int
    seconds: float
    max_steps: int | None
    examples: int
    learning_rate: float
    batch_size: int
    checkpoints: tuple[float, ...]
    evaluation_questions: int
    evaluation_max_new_tokens: int
    compiled: bool
    seed: int


class Clock:
    """The share of the training time that has passed; compilation in the first steps is not counted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started: float | None = None

    def share_at(self, step: int) -> float:
        """0 up to step 20, then seconds since over seconds allowed."""
        if step < _COMPILATION_STEPS:
            return 0.0
        if self._started is None:
            self._started = time.monotonic()
        return (time.monotonic() - self._started) / self._seconds


def train(recipe: Recipe, progress: Progress) -> Path:
    """Tokenizer, data, model, loop, evaluation; the directory of the finished weights."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_or_train_tokenizer(recipe.out / "tok")
    data = load_data(recipe, progress)
    model = build_model(recipe, tokenizer).to(device)
    progress(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters on {device.type}")
    run_loop(recipe, model, tokenizer, data, progress)
    directory = recipe.out / recipe.name
    save(model, tokenizer, directory)
    if recipe.evaluation_questions:
        report(recipe, tokenizer, directory, device, progress)
    return directory


def load_or_train_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    if not directory.exists():
        as_chat_tokenizer(train_bpe()).save_pretrained(directory)
    return PreTrainedTokenizerFast.from_pretrained(directory)


def load_data(recipe: Recipe, progress: Progress) -> TokenRow:
    """Training sequences, ids and mask of shape (n, SEQUENCE_TOKENS). Raises ValueError if there is none."""
    started = time.monotonic()
    cache = recipe.out / f"data-{recipe.examples}.npz"
    row = load_or_build(recipe.out / "tok" / "tokenizer.json", recipe.examples, cache)
    if len(row.ids) < SEQUENCE_TOKENS:
        raise ValueError(f"{recipe.examples} examples do not fill one sequence of {SEQUENCE_TOKENS} tokens")
    tokens = len(row.ids)
    progress(
        f"data: {tokens / 1e6:.1f}M tokens, {tokens / recipe.examples:.0f} per example, "
        f"{time.monotonic() - started:.0f} s"
    )
    return row.cut(SEQUENCE_TOKENS)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of heads of 32, two query heads to a key/value head, embeddings tied."""
    config = Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=max(1, recipe.hidden_size // 32),
        num_key_value_heads=max(1, recipe.hidden_size // 64),
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def run_loop(
    recipe: Recipe,
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    data: TokenRow,
    progress: Progress,
) -> None:
    """AdamW on random batches until the time, or the number of steps, is used up."""
    device = model.device
    ids = torch.from_numpy(data.ids.astype(np.int32)).to(device)
    trained = torch.from_numpy(data.trained).to(device)
    forward = torch.compile(model) if recipe.compiled and device.type == "cuda" else model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        fused=device.type == "cuda",
    )
    generator = torch.Generator(device=device).manual_seed(recipe.seed)
    clock, started, pending = Clock(recipe.seconds), time.monotonic(), sorted(recipe.checkpoints)
    step = 0
    while step != recipe.max_steps and (share := clock.share_at(step)) < 1:
        set_learning_rate(optimizer, learning_rate(recipe.learning_rate, step, share))
        chosen = torch.randint(0, len(ids), (recipe.batch_size,), device=device, generator=generator)
        loss = masked_loss(forward, ids[chosen].long(), trained[chosen])
        take_step(model, optimizer, loss)
        step += 1
        while pending and share >= pending[0]:
            save(model, tokenizer, recipe.out / f"{recipe.name}_{round(pending.pop(0) * 100)}")
        if step % _REPORT_EVERY_STEPS == 0:
            progress(_speed(recipe, step, loss, time.monotonic() - started))


def learning_rate(full: float, step: int, share: float) -> float:
    """Linear warm-up over WARMUP_STEPS, constant, then linear to zero at share 1 with a floor."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    if share < CONSTANT_SHARE:
        return full * warmup
    return full * warmup * max(LAST_LEARNING_RATE, 1 - (share - CONSTANT_SHARE) / (1 - CONSTANT_SHARE))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def masked_loss(forward: Callable[..., Any], ids: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy over the trained tokens of a batch of shape (batch, tokens)."""
    targets = ids.masked_fill(~trained, _NOT_TRAINED)
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = forward(input_ids=ids).logits
    predicted = logits[:, :-1].reshape(-1, VOCABULARY_SIZE).float()
    return torch.nn.functional.cross_entropy(predicted, targets[:, 1:].reshape(-1), ignore_index=_NOT_TRAINED)


def take_step(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write weights in bfloat16 and the tokenizer; the model itself stays as it is."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def report(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    device: torch.device,
    progress: Progress,
) -> None:
    """Evaluate the weights as saved; results go to eval.json beside them."""
    model = Qwen3ForCausalLM.from_pretrained(directory).to(device, torch.bfloat16).eval()
    results = evaluate(model, tokenizer, recipe.evaluation_questions, recipe.evaluation_max_new_tokens)
    progress(f"{recipe.name} {json.dumps(results)}")
    (directory / "eval.json").write_text(json.dumps(results, indent=2) + "\n")


def _speed(recipe: Recipe, step: int, loss: torch.Tensor, seconds: float) -> str:
    tokens = step * recipe.batch_size * SEQUENCE_TOKENS
    return f"step {step}, loss {loss.item():.4f}, {tokens / 1e6 / seconds:.2f}M tokens/s, {seconds:.0f} s"


def parse_recipe(arguments: Sequence[str] | None = None) -> Recipe:
    parser = argparse.ArgumentParser(
        prog="python -m profiler.tinymath.train",
        description="Train a tiny reasoner on the built-in task.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("out"), help="directory for tokenizer, data and weights")
    add("--name", default="m", help="weights go to OUT/NAME")
    add("--hidden-size", type=int, default=256, help="width of the model")
    add("--layers", type=int, default=6, help="depth of the model")
    add("--seconds", type=float, default=240.0, help="training time, compilation not counted")
    add("--max-steps", type=int, default=None, help="stop after so many steps, whatever the time")
    add("--examples", type=int, default=1_500_000, help="conversations in the training data")
    add("--learning-rate", type=float, default=1.5e-3, help="full learning rate")
    add("--batch-size", type=int, default=128, help=f"sequences of {SEQUENCE_TOKENS} tokens in a step")
    add("--checkpoints", type=float, nargs="*", default=(), help="shares of the time at which to save too")
    add("--evaluation-questions", type=int, default=400, help="0: no evaluation")
    add("--evaluation-max-new-tokens", type=int, default=900, help="length limit of a sampled answer")
    add("--compiled", action=argparse.BooleanOptionalAction, default=True, help="torch.compile, on a GPU")
    add("--seed", type=int, default=0, help="of the initial weights and of the choice of batches")
    values = vars(parser.parse_args(arguments))
    return Recipe(**{**values, "checkpoints": tuple(values["checkpoints"])})


def main() -> None:
    recipe = parse_recipe()
    recipe.out.mkdir(parents=True, exist_ok=True)
    train(recipe, progress=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
