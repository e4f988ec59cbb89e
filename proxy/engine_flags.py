"""What vLLM's own flags, as a backend's `launch` has them, say of the batches that it runs."""

from __future__ import annotations

from proxy.config import BackendConfig

DEFAULT_MAX_NUM_SEQS = 256
# vLLM captures CUDA graphs for min(2 · max-num-seqs · tokens per branch, 512) tokens unless told otherwise.
DEFAULT_GRAPH_TOKENS = 512


def max_num_seqs(config: BackendConfig) -> int:
    return int(flag(config, "max-num-seqs") or DEFAULT_MAX_NUM_SEQS)


def max_model_len(config: BackendConfig) -> int | None:
    """None where the flag is not given, or in words ("auto", "32k")."""
    return whole(config, "max-model-len")


def max_num_batched_tokens(config: BackendConfig) -> int | None:
    """Of prompts and branches that one step computes at most. None as above: vLLM then goes by its GPU's memory."""
    return whole(config, "max-num-batched-tokens")


def whole(config: BackendConfig, name: str) -> int | None:
    """A flag's number; None where it is not given, or in words, which vLLM understands ("8k")."""
    found = str(flag(config, name))
    return int(found) if found.isascii() and found.isdigit() else None


def largest_graph_batch(config: BackendConfig) -> int | None:
    """The most branches that a captured CUDA graph runs: with one more, a step may take much longer. A speculating
    engine verifies several tokens of each (newer ones capture every decode batch, and have no cliff there). None where
    no graphs are captured or nothing is known of the flags."""
    if config.launch is None or flag(config, "enforce-eager"):
        return None
    tokens_per_branch = 1 + int((config.speculative or {}).get("num_speculative_tokens", 0))
    default = min(2 * max_num_seqs(config) * tokens_per_branch, DEFAULT_GRAPH_TOKENS)
    return int(flag(config, "max-cudagraph-capture-size") or default) // tokens_per_branch


def by_priority(config: BackendConfig) -> bool:
    """Whether the engine's queue is ordered by the requests' `priority`. vLLM takes the member either way."""
    return flag(config, "scheduling-policy") == "priority"


def flag(config: BackendConfig, name: str) -> str | int | float | bool | None:
    """As `launch.args` has it, spelled with dashes or underscores."""
    args = config.launch.args if config.launch else {}
    return args.get(name, args.get(name.replace("-", "_")))
