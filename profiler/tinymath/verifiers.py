"""Verifiers: a policy's body with a head of two classes, for a whole answer (orm) or for every token (prm).

Stored as vLLM's pooling runner wants them: Qwen3ForSequenceClassification (its last token is classified; /classify) and
Qwen3ForTokenClassification (one row a token; /pooling with task token_classify). Class 1 is right.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

import numpy as np
import torch
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification, Qwen3ForTokenClassification

from profiler.tinymath.tokens import PAD_ID
from profiler.tinymath.train_loop import BatchLoss
from profiler.tinymath.train_models import LABELS, inference_dtype
from profiler.tinymath.train_models import device as default_device
from profiler.tinymath.verifier_data import UNLABELLED, Example

Kind = Literal["orm", "prm"]
SYNTHETIC_FIRST: Final = 0.4
"""Share of the time spent on made answers only, before those sampled from the policies."""
_SYNTHETIC_LATER: Final = 0.25
_SCORING_TOKENS: Final = 400_000
_LABEL_NAMES: Final = {"id2label": {0: "wrong", 1: "right"}, "label2id": {"wrong": 0, "right": 1}}


def prm_from_policy(policy: Qwen3ForCausalLM) -> Qwen3ForTokenClassification:
    """A process verifier that starts from what a policy knows; float32."""
    model = Qwen3ForTokenClassification(_config(policy, "Qwen3ForTokenClassification"))
    model.model.load_state_dict(policy.float().model.state_dict())
    return model.float().to(policy.device)


def orm_from_prm(prm: Qwen3ForTokenClassification) -> tuple[Qwen3ForSequenceClassification, torch.nn.Linear]:
    """An outcome verifier that starts from a process verifier, and the latter's head for lines; float32."""
    model = Qwen3ForSequenceClassification(_config(prm, "Qwen3ForSequenceClassification"))
    model.model.load_state_dict(prm.float().model.state_dict())
    lines = torch.nn.Linear(prm.config.hidden_size, LABELS)
    lines.load_state_dict(prm.score.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(prm.score.weight)
    return model.float().to(prm.device), lines.float().to(prm.device)


def process_loss(model: Qwen3ForTokenClassification, batches: Iterator["Batch"]) -> BatchLoss:
    """Cross-entropy over the labelled tokens of the next batch."""

    def loss(_share: float) -> torch.Tensor:
        ids, labels = next(batches).to(model.device)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            return _cross_entropy(model.score(hidden), labels)

    return loss


def outcome_loss(
    model: Qwen3ForSequenceClassification, lines: torch.nn.Linear, batches: Iterator["Batch"]
) -> BatchLoss:
    """Cross-entropy over the last token of each answer, and over all labelled ones through a head that is thrown away.

    One label an answer is little to learn from; the lines keep training dense.
    """

    def loss(_share: float) -> torch.Tensor:
        batch = next(batches)
        ids, labels = batch.to(model.device)
        last = torch.from_numpy(batch.lengths).to(model.device) - 1
        rows = torch.arange(len(last), device=model.device)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            outcome = _cross_entropy(model.score(hidden[rows, last]), labels[rows, last])
            return outcome + _cross_entropy(lines(hidden), labels)

    return loss


class Batch:
    """Answers of similar length, padded at the end: causal attention never looks there, so no mask is needed."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.lengths = np.array([len(one.ids) for one in examples], np.int64)
        self._ids = np.full((len(examples), int(self.lengths.max())), PAD_ID, np.int64)
        self._labels = np.full(self._ids.shape, UNLABELLED, np.int64)
        for row, one in enumerate(examples):
            self._ids[row, : len(one.ids)] = one.ids
            self._labels[row, : len(one.ids)] = one.labels

    def to(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels, both of shape (answers, tokens)."""
        return torch.from_numpy(self._ids).to(device), torch.from_numpy(self._labels).to(device)


def mixed(synthetic: Iterator[Batch], sampled: Iterator[Batch], share: "Share", seed: int = 0) -> Iterator[Batch]:
    """Made answers first, then mostly sampled ones; `share` is told by the loop how far it is."""
    rng = Random(seed)
    while True:
        made = share.value < SYNTHETIC_FIRST or rng.random() < _SYNTHETIC_LATER
        yield next(synthetic if made else sampled)


class Share:
    """How much of the training time has passed, 0 to 1, handed from the loop to the choice of batches."""

    value = 0.0

    def seen_by(self, loss: BatchLoss) -> BatchLoss:
        def watched(share: float) -> torch.Tensor:
            self.value = share
            return loss(share)

        return watched


def endless_batches(examples: Sequence[Example], tokens: int, seed: int = 0) -> Iterator[Batch]:
    """Batches of at most `tokens` padded tokens, in random order, for ever. Raises ValueError without examples."""
    if not examples:
        raise ValueError("no labelled answers: the policies' texts are empty")
    rng, groups = Random(seed), by_length([len(one.ids) for one in examples], tokens)
    while True:
        rng.shuffle(groups)
        for group in groups:
            yield Batch([examples[index] for index in group])


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in groups of similar length, each group at most `tokens` when padded (one row where that is too few)."""
    groups: list[list[int]] = [[]]
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups[-1] and (len(groups[-1]) + 1) * lengths[index] > tokens:
            groups.append([])
        groups[-1].append(index)
    return groups


def scores(model: Any, kind: Kind, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The probability of class right: of each token (prm), or one for the last token (orm)."""
    found: list[list[float]] = [[] for _ in rows]
    model = model.to(inference_dtype()).eval()
    for group in by_length([len(row) for row in rows], _SCORING_TOKENS if model.device.type == "cuda" else 20_000):
        batch = Batch([Example(list(rows[index]), [UNLABELLED] * len(rows[index])) for index in group])
        ids, _ = batch.to(model.device)
        with torch.inference_mode():
            logits = model.score(model.model(input_ids=ids, use_cache=False).last_hidden_state).float()
        right = torch.softmax(logits, -1)[..., 1].cpu().tolist()
        for index, row, length in zip(group, right, batch.lengths.tolist(), strict=True):
            found[index] = row[:length] if kind == "prm" else [row[length - 1]]
    return found


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, LABELS).float(), labels.reshape(-1), ignore_index=UNLABELLED
    )


def _config(model: Any, architecture: str) -> Any:
    settings = model.config.to_dict()
    settings.update(architectures=[architecture], num_labels=LABELS, **_LABEL_NAMES)
    return type(model.config)(**settings)


def load(directory: Path, kind: Kind) -> Any:
    """A stored verifier, ready for `scores`."""
    model_class = Qwen3ForTokenClassification if kind == "prm" else Qwen3ForSequenceClassification
    return model_class.from_pretrained(directory).to(default_device(), inference_dtype()).eval()
