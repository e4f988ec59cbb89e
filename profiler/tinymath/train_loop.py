"""The training loop: AdamW on batches until a deadline, the learning rate following the wall clock."""

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from profiler.tinymath.train_data import TokenRow

SEQUENCE_TOKENS: Final = 1536
"""Longer than nearly all conversations, so that every position of an answer is trained."""
WARMUP_STEPS: Final = 100
CONSTANT_SHARE: Final = 0.5
"""Share of the training time at the full learning rate, before it falls linearly."""
LAST_LEARNING_RATE: Final = 0.01
"""Floor of the learning rate, as a share of the full one."""
_COMPILATION_STEPS: Final = 10
_REPORT_EVERY_S: Final = 15.0
_NOT_TRAINED: Final = -100

Progress = Callable[[str], None]
BatchLoss = Callable[[float], torch.Tensor]
"""From the share of the time that has passed to the loss of a fresh batch."""


class Clock:
    """The share of the training time that has passed, 0 at the end of compilation and 1 at the deadline."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._deadline = now() + seconds
        self._started: float | None = None

    def share_at(self, step: int) -> float:
        """0 during the first steps, unless the deadline is over: compilation is to eat no learning rate."""
        now = self._now()
        if now >= self._deadline:
            return 1.0
        if step < _COMPILATION_STEPS:
            return 0.0
        if self._started is None:
            self._started = now
        return (now - self._started) / (self._deadline - self._started)


def run(model: Any, batch_loss: BatchLoss, full_rate: float, seconds: float, progress: Progress) -> int:
    """Train `model` in place for `seconds`, at least one step; the number of steps."""
    clock, reported = Clock(seconds), time.monotonic()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=full_rate, betas=(0.9, 0.95), weight_decay=0.05, fused=model.device.type == "cuda"
    )
    step = 0
    while (share := clock.share_at(step)) < 1 or step == 0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(full_rate, step, share)
        loss = batch_loss(share)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 10 == 0 and model.device.type == "cuda":
            torch.cuda.synchronize()  # the clock is to see the device's time, not that of an ever longer queue
        if time.monotonic() - reported > _REPORT_EVERY_S:
            reported = time.monotonic()
            progress(f"step {step}, {share:.0%}, loss {loss.item():.4f}")
    return step


def learning_rate(full: float, step: int, share: float) -> float:
    """Linear warm-up over WARMUP_STEPS, constant, then linear to zero at share 1 with a floor."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    if share < CONSTANT_SHARE:
        return full * warmup
    return full * warmup * max(LAST_LEARNING_RATE, 1 - (share - CONSTANT_SHARE) / (1 - CONSTANT_SHARE))


class Sequences:
    """Random batches of a token row, on the model's device."""

    def __init__(self, row: TokenRow, batch_size: int, device: torch.device, seed: int = 0) -> None:
        """Raises ValueError where the row does not fill one sequence."""
        length = min(SEQUENCE_TOKENS, max(1, len(row.ids) // batch_size))
        cut = row.cut(length)
        if not len(cut.ids):
            raise ValueError(f"{len(row.ids)} tokens do not fill one sequence: raise --examples")
        self._ids = torch.from_numpy(cut.ids.astype(np.int16)).to(device)
        self._trained = torch.from_numpy(cut.trained).to(device)
        self._batch_size = batch_size
        self._generator = torch.Generator(device=device).manual_seed(seed)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (int64) and mask, both of shape (batch, tokens)."""
        device = self._ids.device
        chosen = torch.randint(0, len(self._ids), (self._batch_size,), device=device, generator=self._generator)
        return self._ids[chosen].long(), self._trained[chosen]


def next_token_loss(forward: Callable[..., Any], ids: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy over the trained tokens of a batch of shape (batch, tokens)."""
    targets = ids.masked_fill(~trained, _NOT_TRAINED)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        logits = forward(input_ids=ids, use_cache=False).logits
    predicted = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return torch.nn.functional.cross_entropy(predicted, targets[:, 1:].reshape(-1), ignore_index=_NOT_TRAINED)
