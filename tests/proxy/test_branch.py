"""What a branch reads off its stream."""

from __future__ import annotations

import msgspec
import pytest

from profiler.profile_file import wide_prior
from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.config import BackendConfig
from proxy.gpu_time import GpuTime
from proxy.upstream.pool import Origin, Pool


def _branch() -> BranchStream:
    config = BackendConfig(name="b", url="http://127.0.0.1:1")
    backend = Backend(config, "m", Pool(Origin.parse(config.url), None), wide_prior("b"), GpuTime(1, _clock), {})
    branch = BranchStream(0, backend, _clock, lambda _: None)
    branch.on_head(200, [])
    return branch


def _clock() -> float:
    return 0.0


def _chunk(delta: dict[str, str], **more: object) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"delta": delta, **more}]}) + b"\n\n"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_that_the_engine_told_apart_is_thinking_and_never_the_answer(name: str) -> None:
    branch = _branch()
    branch.on_body(_chunk({name: "7 or 8? "}))
    branch.on_body(_chunk({name: "7.", "content": "It "}))  # the chunk in which the thinking ends
    branch.on_body(_chunk({"content": "is 7."}, finish_reason="stop"))
    branch.on_end()
    assert branch.state == "completed"
    assert branch.text == "<think>7 or 8? 7.</think>It is 7."


async def test_a_branch_cut_while_it_thinks_has_said_nothing() -> None:
    branch = _branch()
    branch.on_body(_chunk({"reasoning": "7 or 8?"}))
    branch.cancel()
    assert branch.text == "<think>7 or 8?"


async def test_without_continuous_usage_a_chunk_counts_as_a_token() -> None:
    branch = _branch()
    for piece in ("a", "b", ""):
        branch.on_body(_chunk({"content": piece}))
    assert (branch.text, branch.completion_tokens) == ("ab", 2)


@pytest.mark.parametrize(
    ("pieces", "thinking"),
    [
        (["7 > 6", "."], 0),
        (["<think>", "7?", "</think>", "7 > 6", "."], 3),
        (["<think>7?", "</", "thi", "nk>\n7", " > 6"], 4),
        (["7?", "</think>", ">", ">"], 2),
        (["<think>", "7?", "</think>", "no", "<think>", "8?", "</think>", "8"], 7),
        (["<think>", "7?", "or"], 3),
    ],
    ids=["none", "tags", "a split tag", "opened by the template", "twice", "unfinished"],
)
async def test_tokens_of_thinking_end_with_its_closing_tag(pieces: list[str], thinking: int) -> None:
    branch = _branch()
    for piece in pieces:
        branch.on_body(_chunk({"content": piece}))
    assert (branch.reasoning_tokens, branch.completion_tokens) == (thinking, len(pieces))


async def test_tokens_of_thinking_that_the_engine_told_apart() -> None:
    branch = _branch()
    for delta in ({"reasoning": "7"}, {"reasoning": "?"}, {"content": "It is"}, {"content": "7"}):
        branch.on_body(_chunk(delta))
    assert branch.reasoning_tokens == 2
