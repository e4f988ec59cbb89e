"""What a branch did, in OpenTelemetry's words: one vocabulary for spans and metrics."""

from __future__ import annotations

from proxy.trace import BranchTrace, Trace

PROVIDER = "vllm"
FINISHED = ("completed", "truncated")
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
SCORE = "score"  # of a reward, reranker or embedding model; the conventions have no word for it
OTHER = "_OTHER"


def streamed(trace: Trace, branch: BranchTrace) -> bool:
    """Whether its answer was asked for in chunks: by strategies always, by the client where it is passed through."""
    passed = trace.plan is not None and trace.plan.note == "pass-through"
    return trace.stream if passed else branch.role != SCORE


def first_chunk_s(trace: Trace, branch: BranchTrace) -> float | None:
    """From its start to the first of its answer; None where that came whole, or never."""
    if branch.first_token_ms is None or not streamed(trace, branch):
        return None
    return round((branch.first_token_ms - branch.start_ms) / 1e3, 6)


def per_token_s(trace: Trace, branch: BranchTrace) -> float | None:
    """Of each output token after the first, on average; None where fewer than two came, or all at once."""
    if first_chunk_s(trace, branch) is None or branch.end_ms is None or branch.completion_tokens < 2:
        return None
    assert branch.first_token_ms is not None
    return max(0.0, branch.end_ms - branch.first_token_ms) / 1e3 / (branch.completion_tokens - 1)


def operation(path: str, branch: BranchTrace) -> str:
    """`path`: of the client's request. Steps towards an answer and judges are chats, whatever the client asked by."""
    if branch.role == "score":
        return SCORE
    if branch.role is not None:
        return "chat"
    return OPERATIONS.get(path, OTHER)
