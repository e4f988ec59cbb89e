"""What a branch did, in OpenTelemetry's words: one vocabulary for spans and metrics."""

from __future__ import annotations

from proxy.trace import BranchTrace

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


def operation(path: str, branch: BranchTrace) -> str:
    """`path`: of the client's request. Steps towards an answer and judges are chats, whatever the client asked by."""
    if branch.role == "score":
        return SCORE
    if branch.role is not None:
        return "chat"
    return OPERATIONS.get(path, OTHER)
