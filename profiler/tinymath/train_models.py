"""The shapes of the family, and how its members are stored."""

import copy
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from profiler.tinymath.make_recipe import Shape
from profiler.tinymath.tokens import PAD_ID, TURN_END_ID, VOCABULARY_SIZE, chat_tokenizer

LABELS: Final = 2
"""Classes of a verifier: 0 wrong, 1 right."""


def config(shape: Shape, **more: Any) -> Qwen3Config:
    """A Qwen3 of heads of 32, two query heads to a key/value head, embeddings tied."""
    return Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.hidden_size * 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=2 * max(1, shape.hidden_size // 64),
        num_key_value_heads=max(1, shape.hidden_size // 64),
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=TURN_END_ID,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        **more,
    )


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inference_dtype() -> torch.dtype:
    """What sampling and scoring compute in: bfloat16 on a GPU, where a CPU has it slowly."""
    return torch.bfloat16 if device().type == "cuda" else torch.float32


def save(model: Any, directory: Path) -> None:
    """Weights in bfloat16 and the tokenizer, complete or not there at all; the model itself stays as it is."""
    unfinished = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(unfinished)
    chat_tokenizer().save_pretrained(unfinished)
    unfinished.rename(directory)


def load_policy(directory: Path) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(directory).to(device(), inference_dtype()).eval()
