"""What is sent upstream: the client's own bytes, but for the proxy's few members."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, parse
from proxy.config import SloDefaults
from proxy.upstream_body import VOTE_STREAM_INTERVAL, branch, relayed, with_seed

ODD = {
    "temperature": b"1.0",
    "top_p": b"1e0",
    "seed": b"123456789012345678901234567890",
    "messages": rb'[ {"role":"user", "content":"\u00e9 \ud83d\ude00 \/ caf\u00c9"} ]',
    "unknown": b'{"a" : -0.0, "a": 1.10}',
}


def _call(path: str = "/v1/chat/completions", **members: bytes) -> Call:
    given_members = {"model": b'"m"', **members}
    body = b"{" + b" ,".join(b'"%b":%b' % (name.encode(), raw) for name, raw in given_members.items()) + b"}"
    return parse(path, [], body, SloDefaults())


def _raw(body: bytes) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


def test_a_plain_request_is_relayed_byte_for_byte() -> None:
    call = _call(**ODD)
    assert relayed(call, "m") is call.body


def test_relaying_takes_out_the_controls_and_renames_the_model_and_nothing_else() -> None:
    call = _call(**ODD, slo=b'{"latency_ms":5}', tts=b'{"strategy":"none"}')
    assert _raw(relayed(call, "m")) == {"model": b'"m"', **ODD}
    suffixed = _call(**{**ODD, "model": b'"m@none"'})
    assert _raw(relayed(suffixed, "m")) == {"model": b'"m"', **ODD}


def test_a_branch_keeps_unknown_fields_exactly_and_adds_what_streaming_and_counting_need() -> None:
    sent = _raw(branch(_call(**ODD, slo=b"{}", tts=b"{}", n=b"3", best_of=b"4", stream=b"false"), "m", live=False))
    assert {name: sent.pop(name) for name in ODD} == ODD
    assert sent == {
        "model": b'"m"',
        "stream": b"true",
        "stream_options": b'{"include_usage":true,"continuous_usage_stats":true}',
        "stream_interval": str(VOTE_STREAM_INTERVAL).encode(),
    }


def test_only_votes_get_coarse_chunks_and_never_against_the_clients_wish() -> None:
    assert "stream_interval" not in _raw(branch(_call(), "m", live=True))
    assert _raw(branch(_call(stream_interval=b"2"), "m", live=False))["stream_interval"] == b"2"


def test_a_tighter_token_limit_replaces_the_requests_own_under_the_endpoints_name() -> None:
    def limits(path: str, own: bytes, control: bytes) -> dict[str, bytes]:
        call = _call(path, max_tokens=own, tts=b'{"max_tokens":%b}' % control)
        return {name: raw for name, raw in _raw(branch(call, "m", live=True)).items() if "max_" in name}

    assert limits("/v1/chat/completions", b"90", b"50") == {"max_completion_tokens": b"50"}
    assert limits("/v1/completions", b"90", b"50") == {"max_tokens": b"50"}
    assert limits("/v1/completions", b"40", b"50") == {"max_tokens": b"40"}


def test_seeds_are_replaced_one_by_one() -> None:
    body = branch(_call(**ODD), "m", live=False)
    sent = [_raw(with_seed(body, seed)) for seed in (7, 8)]
    assert [one.pop("seed") for one in sent] == [b"7", b"8"]
    assert sent[0] == sent[1] == {name: raw for name, raw in _raw(body).items() if name != "seed"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.text(), VALUES, st.booleans())
def test_any_unknown_member_survives_byte_for_byte(suffix: str, value: object, ascii_only: bool) -> None:
    name = f"x{suffix}"
    raw = json.dumps({"model": "m", name: value}, ensure_ascii=ascii_only, indent=1).encode()
    call = parse("/v1/chat/completions", [], raw, SloDefaults())
    assert _raw(branch(call, "m", live=False))[name] == _raw(raw)[name]
