"""Tokens that nobody told: what an engine had generated when a branch was cancelled, broke off, or told no usage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_branch import _branch

from proxy.passed_tokens import PassedTokens, of_answer, of_events, of_silence
from proxy.relay import RelaySink
from proxy.unseen_tokens import Pace, since_last_chunk


def _chunk(tokens: int) -> bytes:
    told = {"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


async def test_a_cancelled_branch_is_taken_to_have_gone_on_at_its_own_pace() -> None:
    """A token each 10 ms, a chunk each 16 tokens; cancelled 85 ms after the last one."""
    branch, now = _branch(), [0.0]
    branch._clock, branch.interval = lambda: now[0], 16
    for at, tokens in ((0.1, 1), (0.26, 17), (0.42, 33)):
        now[0] = at
        branch.on_body(_chunk(tokens))
    now[0] = 0.505
    branch.cancel()
    assert (branch.completion_tokens, branch.unseen_tokens) == (33, 8)


async def test_a_silence_is_never_more_than_a_chunk() -> None:
    branch, now = _branch(), [0.0]
    branch._clock, branch.interval = lambda: now[0], 16
    for at, tokens in ((0.1, 1), (0.26, 17)):
        now[0] = at
        branch.on_body(_chunk(tokens))
    now[0] = 60.0
    branch.cancel()
    assert branch.unseen_tokens == 15


async def test_a_branch_that_ended_by_itself_has_no_unseen_token_and_teaches_its_pace() -> None:
    branch, now = _branch(), [0.0]
    branch._clock = lambda: now[0]
    for at, tokens in ((0.1, 1), (0.3, 21)):
        now[0] = at
        branch.on_body(_chunk(tokens))
    branch.on_body(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')
    now[0] = 9.0
    branch.on_end()
    assert branch.unseen_tokens == 0
    assert branch.backend.pace.per_token_s == pytest.approx(0.01)


@given(st.floats(0, 1e4), st.none() | st.floats(1e-4, 10), st.integers(1, 64))
def test_an_estimate_is_less_than_a_chunk_and_none_without_a_pace(
    silent_s: float, pace: float | None, every: int
) -> None:
    found = since_last_chunk(silent_s, pace, every)
    assert 0 <= found < every
    assert pace is not None or found == 0


def _sink(tail: bytes, events: int = 0) -> RelaySink:
    sink = RelaySink(None)  # type: ignore[arg-type]  # nothing waits
    sink.tail, sink.events, sink.status = tail, events, 200
    return sink


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 9}}, PassedTokens(7, None, 9)),
        (
            {"usage": {"prompt_tokens": 7, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}},
            PassedTokens(7, 4, 9),
        ),
        (
            {"usage": {"input_tokens": 7, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}},
            PassedTokens(7, 4, 9),
        ),
        ({"usage": None}, None),
        ({"tokens": [1, 2]}, None),
    ],
    ids=["chat", "cached", "responses", "null", "tokenize"],
)
def test_a_whole_answer_tells_its_usage(answer: dict[str, Any], found: PassedTokens | None) -> None:
    assert of_answer(_sink(json.dumps(answer).encode())) == found


def test_a_streamed_response_tells_it_in_its_last_event_even_if_the_beginning_of_that_is_gone() -> None:
    usage = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
    last = json.dumps({"type": "response.completed", "response": {"output": ["x" * 5000], "usage": usage, "id": "r"}})
    assert of_answer(_sink(f"data: {last}\n\n".encode(), 9)) == PassedTokens(7, None, 9)
    assert of_answer(_sink(f"data: {last}\n\n".encode()[-2048:], 9)) == PassedTokens(7, None, 9)


def test_a_stream_without_usage_is_about_a_token_an_event() -> None:
    whole = _sink(b'data: {"choices": []}\n\ndata: [DONE]\n\n', events=12)
    assert of_events(whole, chat=True) == PassedTokens(completion=10, estimated=10, exact=False)
    assert of_events(_sink(b"data: {}", events=12), chat=False).completion == 12
    assert of_events(_sink(b""), chat=True).completion == 0


def test_an_answer_that_never_came_is_what_the_backend_lately_does_in_such_a_time() -> None:
    pace = Pace()
    assert of_silence(pace, 1.0, 1, None) == PassedTokens(exact=False)
    pace.observe_whole(100, 1.0)
    assert of_silence(pace, 0.5, 1, None).completion == 50
    pace.observe(first_s=0.1, tokens=101, decoding_s=1.0)
    assert of_silence(pace, 0.05, 1, None).completion == 0
    assert of_silence(pace, 0.305, 1, None) == PassedTokens(completion=21, estimated=21, exact=False)
    assert of_silence(pace, 0.305, 3, 15) == PassedTokens(completion=45, estimated=45, exact=False)
