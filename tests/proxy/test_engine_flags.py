"""What a backend's launch flags say of its batches, as vLLM's own defaults have it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import BackendConfig, LaunchConfig
from proxy.engine_flags import largest_graph_batch, max_num_batched_tokens, max_num_seqs


def launched(speculative: dict[str, Any] | None = None, **args: Any) -> BackendConfig:
    flags = {name.replace("_", "-"): value for name, value in args.items()}
    return BackendConfig(
        name="a", url="http://localhost:1", speculative=speculative, launch=LaunchConfig(model="m", args=flags)
    )


def test_max_num_seqs_is_the_flag_or_vllms_default() -> None:
    assert max_num_seqs(launched(max_num_seqs=64)) == 64
    assert max_num_seqs(launched()) == 256
    assert max_num_seqs(BackendConfig(name="a", url="http://localhost:1")) == 256


def test_how_many_tokens_a_step_computes_is_not_guessed() -> None:
    """vLLM's default goes by the GPU's memory."""
    assert max_num_batched_tokens(launched(max_num_batched_tokens=8192)) == 8192
    assert max_num_batched_tokens(launched()) is None
    assert max_num_batched_tokens(launched(max_num_batched_tokens="8k")) is None


@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (launched(), 512),
        (launched(max_num_seqs=16), 32),  # twice as many as ever run: there is no cliff in reach
        (launched({"method": "ngram", "num_speculative_tokens": 4}), 102),
        (launched({"method": "draft_model", "num_speculative_tokens": 3}), 128),
        (launched({"method": "ngram", "num_speculative_tokens": 4}, max_cudagraph_capture_size=1280), 256),
        (launched(enforce_eager=True), None),
        (BackendConfig(name="a", url="http://localhost:1"), None),  # not started by us: nothing is known
    ],
)
def test_the_largest_batch_in_a_captured_graph(config: BackendConfig, batch: int | None) -> None:
    assert largest_graph_batch(config) == batch
