"""Streamed chunks of the winners, merged into the body that an unstreamed request would have got."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec

from proxy import reply
from proxy.branch import BranchStream
from proxy.reply import Usage
from strategies.base import WHOLE

USAGE = Usage(prompt_tokens=20, completion_tokens=30, reasoning_tokens=12, tts={"strategy": "none"})
HEAD = {"id": "chatcmpl-up", "created": 7, "model": "m", "system_fingerprint": "fp"}


def _winner(*choices: dict[str, Any], finish_reason: str | None = "stop", **head: Any) -> BranchStream:
    """A finished branch whose chunks had these choices, each with the engine's running usage."""
    kind = "chat.completion.chunk"
    chunks = [{**HEAD, "object": kind, **head, "choices": [{"index": 0, **c}], "usage": {"x": 1}} for c in choices]
    events = [msgspec.json.encode(chunk) for chunk in chunks]
    return cast(
        BranchStream, SimpleNamespace(events=events, finish_reason=finish_reason, continues="", generation=WHOLE)
    )


def _whole(*winners: BranchStream, chat: bool = True) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(reply.whole(winners, chat, USAGE, "abc", "m", 99))
    return body


def _message(*deltas: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = _whole(_winner(*({"delta": delta} for delta in deltas)))["choices"][0]["message"]
    return message


def test_a_chat_answer_has_the_standard_shape() -> None:
    winner = _winner(
        {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
        {"delta": {"content": "Hel"}, "logprobs": None, "finish_reason": None},
        {"delta": {"content": "lo"}, "logprobs": None, "finish_reason": "stop", "stop_reason": 13},
    )
    assert _whole(winner) == {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": 13,
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 30,
            "total_tokens": 50,
            "completion_tokens_details": {"reasoning_tokens": 12},
            "tts": {"strategy": "none"},
        },
    }


def test_reasoning_and_content_stay_apart() -> None:
    merged = _message(
        {"reasoning": "be"}, {"reasoning": "cause"}, {"content": "4", "reasoning": None}, {"content": "2"}
    )
    assert merged == {"role": "assistant", "reasoning": "because", "content": "42"}


def test_tool_calls_are_joined_by_index() -> None:
    def call(index: int, arguments: str, **first: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": first.pop("name")} if first else {})}
        return {"tool_calls": [{"index": index, **first, "function": function}]}

    merged = _message(
        {"role": "assistant", "content": None},
        call(0, "", id="a", type="function", name="add"),
        call(1, '{"x"', id="b", type="function", name="neg"),
        call(0, '{"y":1'),
        call(1, ":2}"),
        call(0, "}"),
    )
    assert merged["content"] is None
    assert merged["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"y":1}'}},
        {"id": "b", "type": "function", "function": {"name": "neg", "arguments": '{"x":2}'}},
    ]


def _logprobs(*parts: Any) -> Any:
    choices = [{"delta": {"content": "x"}, "logprobs": part} for part in parts]
    return _whole(_winner(*choices))["choices"][0]["logprobs"]


def test_logprobs_are_concatenated_and_a_null_takes_nothing_away() -> None:
    assert _logprobs({"content": [1]}, None, {"content": [2, 3]}) == {"content": [1, 2, 3]}
    assert _logprobs({"content": None, "refusal": None}, {"content": [1]}) == {"content": [1], "refusal": None}
    assert _logprobs({"content": [1]}, {"content": None}) == {"content": [1]}
    assert _logprobs(None, None) is None


def test_token_ids_of_all_chunks_are_kept() -> None:
    choices = [{"delta": {"content": "x"}, "token_ids": ids} for ids in ([1, 2], None, [3])]
    assert _whole(_winner(*choices))["choices"][0]["token_ids"] == [1, 2, 3]


def test_a_text_completion_joins_its_text_and_parallel_logprobs() -> None:
    winner = _winner(
        {"text": "Hel", "logprobs": {"tokens": ["Hel"], "text_offset": [0]}},
        {"text": "lo", "logprobs": {"tokens": ["lo"], "text_offset": [3]}},
    )
    body = _whole(winner, chat=False)
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {
            "index": 0,
            "text": "Hello",
            "logprobs": {"tokens": ["Hel", "lo"], "text_offset": [0, 3]},
            "finish_reason": "stop",
        }
    ]


def test_several_answers_are_indexed_best_first_and_a_cut_one_ends_for_length() -> None:
    first = _winner({"delta": {"content": "a"}, "finish_reason": "tool_calls"}, finish_reason="tool_calls")
    cut = _winner({"delta": {"content": "b"}, "finish_reason": None}, finish_reason=None)
    choices = _whole(first, cut)["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "a", "tool_calls"),
        (1, "b", "length"),
    ]


def test_without_any_chunk_the_head_is_our_own() -> None:
    body = _whole(cast(BranchStream, SimpleNamespace(events=[], finish_reason=None, continues="", generation=WHOLE)))
    assert (body["id"], body["created"], body["model"]) == ("chatcmpl-abc", 99, "m")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": None}


def test_a_relayed_chunk_loses_the_running_usage_and_takes_its_choices_index() -> None:
    event = _winner({"delta": {"content": "a"}}).events[0]
    sent = msgspec.json.decode(reply.chunk(event, 2))
    assert "usage" not in sent
    assert sent["choices"] == [{"index": 2, "delta": {"content": "a"}}]
    assert sent["id"] == "chatcmpl-up"


def test_a_cut_stream_ends_with_an_empty_delta_for_length() -> None:
    event = _winner({"delta": {"content": "a"}}).events[0]
    sent = msgspec.json.decode(reply.final_chunk(event, 1, True, "abc", "m", 99))
    assert sent["choices"] == [{"index": 1, "logprobs": None, "finish_reason": "length", "delta": {}}]
    assert (sent["id"], "usage" in sent) == ("chatcmpl-up", False)
    bare = msgspec.json.decode(reply.final_chunk(None, 0, False, "abc", "m", 99))
    assert (bare["id"], bare["object"], bare["choices"][0]["text"]) == ("cmpl-abc", "text_completion", "")


def test_the_usage_chunk_has_no_choices_and_all_tokens() -> None:
    event = _winner({"delta": {"content": "a"}}).events[0]
    sent = msgspec.json.decode(reply.usage_chunk(event, USAGE, True, "abc", "m", 99))
    assert (sent["choices"], sent["usage"]["total_tokens"], sent["id"]) == ([], 50, "chatcmpl-up")
