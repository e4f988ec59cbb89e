"""Batched sampling on one device: thousands of answers at a time, a key/value cache that grows and sheds rows.

A plain forward pass of the Qwen3 weights instead of transformers' `generate`: prompts are read once and their cache is
shared out to the samples, finished rows leave every BLOCK tokens, and no step waits for the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from profiler.tinymath.tokens import PAD_ID, TURN_END_ID

BLOCK: Final = 64
_PREFILL_TOKENS: Final = 200_000
_MASKED: Final = -1e9

Cache = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, shape (rows, key/value heads, columns, 32)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    samples: int = 1
    seed: int = 0


class Decoder:
    """Generates with the weights of a Qwen3ForCausalLM, in its dtype and on its device."""

    def __init__(self, model: Any) -> None:
        self._body, self._head = model.model, model.lm_head.weight
        self._config = model.config
        self._device, self._dtype = self._head.device, self._head.dtype
        size = self._config.head_dim
        steps = torch.arange(0, size, 2, device=self._device, dtype=torch.float32) / size
        self._frequencies = 1.0 / self._config.rope_parameters["rope_theta"] ** steps

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """New token ids of each answer, its end of turn included; the samples of a prompt one after the other."""
        if not prompts:
            return []
        with torch.inference_mode():
            return self._generate(prompts, sampling)

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        width = max(map(len, prompts))
        padding = torch.tensor([width - len(p) for p in prompts], device=self._device)
        padding = padding.repeat_interleave(sampling.samples)
        cache, logits = self._read(prompts, width, sampling.samples)
        rows = torch.arange(len(padding), device=self._device)
        written = torch.full((len(rows), sampling.max_new_tokens), PAD_ID, dtype=torch.int16, device=self._device)
        done = torch.zeros(len(rows), dtype=torch.bool, device=self._device)
        generator = torch.Generator(device=self._device).manual_seed(sampling.seed)
        for index in range(sampling.max_new_tokens):
            if index % BLOCK == 0:
                kept = (~done).nonzero().squeeze(1)
                if not len(kept):
                    break
                rows, padding, done, logits = rows[kept], padding[kept], done[kept], logits[kept]
                cache = [(_grown(keys, kept), _grown(values, kept)) for keys, values in cache]
            token = _pick(logits, sampling.temperature, generator).masked_fill(done, PAD_ID)
            written[rows, index] = token.to(torch.int16)
            done |= token == TURN_END_ID
            if index + 1 < sampling.max_new_tokens:
                logits = self._step(token, width + index, padding, cache)
        return [_until_end(row) for row in written.tolist()]

    def _read(self, prompts: Sequence[Sequence[int]], width: int, samples: int) -> tuple[Cache, torch.Tensor]:
        """The cache of the prompts, left-padded to `width`, and the logits after them, one row a sample."""
        parts: list[Cache] = []
        logits: list[torch.Tensor] = []
        size = max(1, _PREFILL_TOKENS // width)
        for first in range(0, len(prompts), size):
            part = prompts[first : first + size]
            ids = torch.tensor([[PAD_ID] * (width - len(p)) + list(p) for p in part], device=self._device)
            padding = torch.tensor([width - len(p) for p in part], device=self._device)
            part_cache, part_logits = self._prefill(ids, padding)
            parts.append([(k.repeat_interleave(samples, 0), v.repeat_interleave(samples, 0)) for k, v in part_cache])
            logits.append(part_logits.repeat_interleave(samples, 0))
        layers = [
            (torch.cat([part[layer][0] for part in parts]), torch.cat([part[layer][1] for part in parts]))
            for layer in range(len(self._body.layers))
        ]
        return layers, torch.cat(logits)

    def _prefill(self, ids: torch.Tensor, padding: torch.Tensor) -> tuple[Cache, torch.Tensor]:
        columns = torch.arange(ids.shape[1], device=self._device)
        visible = (columns[None, :] <= columns[:, None]) & (columns[None, None, :] >= padding[:, None, None])
        # A padding column sees itself, so that no row of the softmax is empty.
        visible |= torch.eye(ids.shape[1], dtype=torch.bool, device=self._device)
        cosine, sine = self._rotation(columns[None, :] - padding[:, None])
        groups = self._config.num_attention_heads // self._config.num_key_value_heads
        x, cache = self._body.embed_tokens.weight[ids], Cache()
        for layer in self._body.layers:
            query, key, value = self._projected(layer, x, cosine, sine)
            cache.append((key, value))
            attended = scaled_dot_product_attention(
                query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), visible[:, None]
            )
            x = self._mixed(layer, x, attended.transpose(1, 2).flatten(2))
        return cache, self._logits(x[:, -1])

    def _step(self, token: torch.Tensor, column: int, padding: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Append one token to each row at `column` of the cache; the logits after it, shape (rows, vocabulary)."""
        cosine, sine = self._rotation((column - padding)[:, None])
        columns = torch.arange(column + 1, device=self._device)
        bias = torch.where(columns[None, :] < padding[:, None], _MASKED, 0.0).to(self._dtype)
        x, size, heads = self._body.embed_tokens.weight[token][:, None], self._config.head_dim, len(token)
        for layer, (keys, values) in zip(self._body.layers, cache, strict=True):
            query, key, value = self._projected(layer, x, cosine, sine)
            keys[:, :, column], values[:, :, column] = key[:, :, 0], value[:, :, 0]
            # Rows and key/value heads as one batch: a strided view of the cache, never a copy of it.
            seen = keys.view(-1, keys.shape[2], size)[:, : column + 1]
            scores = torch.bmm(query.reshape(len(seen), -1, size), seen.transpose(1, 2)) * size**-0.5
            scores = scores.view(heads, -1, column + 1) + bias[:, None]
            weights = torch.softmax(scores.float(), -1).to(self._dtype).view(len(seen), -1, column + 1)
            attended = torch.bmm(weights, values.view(-1, values.shape[2], size)[:, : column + 1])
            x = self._mixed(layer, x, attended.view(heads, 1, -1))
        return self._logits(x[:, 0])

    def _projected(
        self, layer: Any, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        attention, size = layer.self_attn, self._config.head_dim
        x = self._norm(layer.input_layernorm, x)
        query, key, value = (
            linear(x, projection.weight).unflatten(-1, (-1, size))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query = _rotated(self._norm(attention.q_norm, query), cosine, sine)
        key = _rotated(self._norm(attention.k_norm, key), cosine, sine)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _mixed(self, layer: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + linear(attended, layer.self_attn.o_proj.weight)
        h, mlp = self._norm(layer.post_attention_layernorm, x), layer.mlp
        gated = silu(linear(h, mlp.gate_proj.weight)) * linear(h, mlp.up_proj.weight)
        return x + linear(gated, mlp.down_proj.weight)

    def _norm(self, norm: Any, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, (x.shape[-1],), norm.weight, self._config.rms_norm_eps)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return linear(self._norm(self._body.norm, x), self._head).float()

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of shape (rows, tokens, 1, head size)."""
        angles = (positions[..., None].float() * self._frequencies).repeat(1, 1, 2)[:, :, None]
        return angles.cos().to(self._dtype), angles.sin().to(self._dtype)


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat((-second, first), -1) * sine


def _grown(cached: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The kept rows with BLOCK columns more."""
    rows, (_, heads, columns, size) = len(kept), cached.shape
    grown = cached.new_zeros((rows, heads, columns + BLOCK, size))
    grown[:, :, :columns].copy_(cached[kept])
    return grown


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Token ids: the most likely, or drawn by the Gumbel trick (argmax of logits / T plus noise samples softmax)."""
    if temperature == 0:
        return logits.argmax(-1)
    noise = torch.empty_like(logits).exponential_(generator=generator).log()
    return (logits / temperature - noise).argmax(-1)


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(TURN_END_ID) + 1] if TURN_END_ID in row else row
