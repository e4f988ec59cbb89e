"""What the proxy peeks at in a body, and the bodies that it refuses."""

import msgspec
import pytest

from proxy.call import MOST_BEFORE, Call, parse
from proxy.config import SloDefaults
from proxy.errors import InvalidRequest


def _parse(body: bytes, path: str = "/v1/chat/completions", **headers: str) -> Call:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return parse(path, raw, body, SloDefaults())


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model":"m"} x', "invalid_json", None),
        (b'{"model":"m",}', "invalid_json", None),
        (b'{"model":"\xff"}', "invalid_json", None),
        (b'{"model":"m","unknown":"\xff"}', "invalid_json", None),
        (b'{"model":"m","unknown":"\xed\xa0\x80"}', "invalid_json", None),  # half a surrogate pair
        (b'{"model":"m","tts":{"\\ud800":1}}', "invalid_json", None),
        (b'{"model":"m","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "invalid_json", None),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
        (b"[]", None, None),
        (b"{}", "model_missing", "model"),
        (b'{"model":5}', None, "model"),
        (b'{"model":"m","n":"2"}', None, "n"),
        (b'{"model":"m","n":0}', None, "n"),
        (b'{"model":"m","n":129}', None, "n"),
        (b'{"model":"m","stream":1}', None, "stream"),
    ],
)
def test_a_bad_body_is_a_400_that_says_why(body: bytes, code: str | None, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        _parse(body)
    assert (raised.value.http_status, raised.value.code, raised.value.param) == (400, code, param)


def test_reading_the_whole_body_later_is_as_safe_as_peeking() -> None:
    call = _parse(b'{"model":"m"}')
    call.body = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        call.decoded()
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        call.members()


def test_of_duplicate_members_the_last_holds_for_the_proxy_and_the_backend() -> None:
    call = _parse(b'{"model":"a","model":"b","x":1,"x":2}')
    assert call.model == "b"
    assert {name: bytes(raw) for name, raw in call.members().items()} == {"model": b'"b"', "x": b"2"}


def test_what_is_peeked_at() -> None:
    call = _parse(b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"n":3,"temperature":0,"seed":7}')
    assert (call.chat, call.stream, call.include_usage, call.answers_wanted, call.greedy) == (True, True, True, 3, True)
    plain = _parse(b'{"model":"m","stream":null}', path="/v1/completions")
    assert (plain.chat, plain.stream, plain.include_usage, plain.answers_wanted, plain.greedy) == (
        (False, False, False, 1, False)
    )


@pytest.mark.parametrize(
    ("body", "header", "limit"),
    [
        (b'{"model":"m"}', {}, None),
        (b'{"model":"m","max_tokens":50}', {}, 50),
        (b'{"model":"m","max_tokens":50,"max_completion_tokens":40}', {}, 40),
        (b'{"model":"m","max_tokens":50}', {"x_tts_max_tokens": "30"}, 30),
        (b'{"model":"m","max_tokens":50}', {"x_tts_max_tokens": "70"}, 50),
        (b'{"model":"m"}', {"x_tts_max_tokens": "70"}, 70),
    ],
)
def test_the_tightest_token_limit_holds(body: bytes, header: dict[str, str], limit: int | None) -> None:
    assert _parse(body, **header).max_tokens == limit


def test_an_awkward_token_limit_does_not_break_the_look_up_of_tables() -> None:
    from proxy.catalog import _bucket

    assert [_bucket(limit) for limit in (None, -5, 0, 1, 600, 2**21)] == [0, 1, 1, 1, 609, 0]


def _asks(*messages: dict[str, object]) -> str:
    return _parse(msgspec.json.encode({"model": "m", "messages": messages})).question()


def test_the_question_of_one_message_is_its_text() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url"}, {"type": "text", "text": "this?"}]
    assert _asks({"role": "user", "content": parts}) == "What is\nthis?"
    assert _asks({"role": "assistant", "content": "Hello"}) == ""


def test_the_question_of_a_conversation_has_what_was_said_before_without_thinking() -> None:
    question = _asks(
        {"role": "system", "content": "Answer in {French}."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "<think>hm</think>Quatre."},
        {"role": "user", "content": "And 3 + 3?"},
        {"role": "assistant", "content": "Si"},  # to be gone on from
    )
    assert question == (
        "system: Answer in {French}.\n\nuser: What is 2 + 2?\n\nassistant: Quatre.\n\n"
        "The last message, which is to be answered:\n\nAnd 3 + 3?"
    )


def test_of_a_long_conversation_the_end_is_kept() -> None:
    question = _asks({"role": "user", "content": "a" * 9000 + "b"}, {"role": "user", "content": "And?"})
    before, _, asked = question.partition("\n\nThe last message")
    assert (before, asked[-4:]) == ("… " + "a" * (MOST_BEFORE - 1) + "b", "And?")
