"""What comes over sockets and out of files: whatever it is, it is understood or refused, and never kept without end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml
from effort import examples
from hypothesis import given
from hypothesis import strategies as st

from proxy import sse, upstream_body
from proxy.branch import BranchStream
from proxy.call import parse
from proxy.client_keys import KeysError, load_keys
from proxy.config import ConfigError, SloDefaults, load
from proxy.controls import CONTROL_HEADERS, read
from proxy.errors import InvalidRequest
from proxy.health import Health
from proxy.overrun import Overrun
from proxy.trace_context import incoming
from proxy.unseen_tokens import Pace
from proxy.upstream.errors import UpstreamError
from proxy.upstream.request import forwarded_lines, returned_headers

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
printable = st.binary(max_size=40).map(lambda raw: raw.translate(None, b"\r\n\0"))


# -- event streams --

events = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"data", b": c", b"\n", b"\r", b"\r\n", b"\n\n", b"{}", b"x", b"[DONE]", b"\xff"]
    )
    | st.binary(max_size=6),
    max_size=40,
).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@examples(133)
@given(data=events, at=st.lists(st.integers(0, 500), max_size=6))
def test_where_a_stream_is_cut_makes_no_difference(data: bytes, at: list[int]) -> None:
    whole, splitter = sse.EventSplitter().feed(data), sse.EventSplitter()
    assert [payload for part in cut(data, at) for payload in splitter.feed(part)] == whole


def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10_000)
    splitter = sse.EventSplitter()
    with pytest.raises(sse.EventTooLarge):
        for _ in range(200):
            splitter.feed(b"data: " + b"x" * 100)


chunks = st.one_of(
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {},
        optional={
            "choices": st.lists(
                st.fixed_dictionaries(
                    {}, optional={"delta": json_values, "text": json_values, "finish_reason": json_values}
                )
                | json_values,
                max_size=2,
            ),
            "usage": json_values
            | st.fixed_dictionaries({"prompt_tokens": json_values, "completion_tokens": json_values}),
            "error": json_values,
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@examples(100)
@given(status=st.sampled_from([200, 200, 200, 400, 503]), payloads=st.lists(chunks, max_size=8), ends=st.booleans())
def test_a_branch_ends_once_whatever_the_backend_sends(status: int, payloads: list[bytes], ends: bool) -> None:
    class Time:
        left = 0

        def enter(self, branches: int = 1) -> float:
            return 0.0

        def leave(self, mark: float, branches: int = 1) -> float:
            self.left += 1
            return 0.0

    gpu_time, over = Time(), list[BranchStream]()
    health = Health("a", None, lambda: 0.0)
    backend: Any = SimpleNamespace(
        name="a",
        gpu_time=gpu_time,
        health=health,
        line=None,
        pace=Pace(),
        overrun=Overrun(),
        without_key=lambda data: data,
    )
    branch = BranchStream(0, backend, lambda: 0.0, over.append)
    branch.on_head(status, [])
    for payload in payloads:
        branch.on_body(b"data: " + payload + b"\n\n")
    if ends:
        branch.on_end()
    else:
        branch.on_error(UpstreamError("gone"))
    branch.cancel()
    assert (len(over), gpu_time.left) == (1, 1)
    assert isinstance(branch.text, str) and branch.completion_tokens is not None


# -- requests --

header_names = st.sampled_from([name.encode() for name in CONTROL_HEADERS]) | st.sampled_from(
    [b"traceparent", b"x-request-id", b"authorization", b"connection", b"x-slo-x", b"x-tts-", b"content-length"]
)
headers = st.lists(
    st.tuples(
        header_names, printable | st.integers().map(lambda n: str(n).encode()) | st.sampled_from([b"nan", b"1e400"])
    ),
    max_size=5,
)


@examples(100)
@given(lines=headers, slo=json_values, tts=json_values, suffix=st.none() | st.text(max_size=12))
def test_controls_are_read_or_named(lines: list[tuple[bytes, bytes]], slo: Any, tts: Any, suffix: str | None) -> None:
    try:
        controls = read(lines, slo, tts, suffix, SloDefaults())
    except InvalidRequest as error:
        assert error.param and json.dumps(error.message)
        return
    assert controls.n is None or 1 <= controls.n <= 256


@examples(66)
@given(lines=headers)
def test_no_header_breaks_its_line(lines: list[tuple[bytes, bytes]]) -> None:
    incoming(lines)
    returned_headers(lines)
    sent = forwarded_lines(lines)
    assert sent.count(b"\r\n") == sent.count(b"\n") == sent.count(b"\r")
    assert not any(name in sent for name in (b"authorization", b"content-length", b"x-tts-", b"x-slo-"))


members = st.dictionaries(
    st.sampled_from(
        ["model", "messages", "prompt", "n", "seed", "stream", "slo", "tts", "cache_salt", "max_tokens", "x"]
    ),
    json_values,
    max_size=6,
)
bodies = st.binary(max_size=80) | members.map(lambda value: json.dumps({"model": "m", **value}).encode())


@examples(133)
@given(body=bodies, salt=st.none() | st.just("s" * 43))
def test_a_body_is_parsed_or_refused_and_stays_what_it_was(body: bytes, salt: str | None) -> None:
    try:
        call = parse("/v1/chat/completions", [], body, SloDefaults())
        call.salt = salt
        sent = upstream_body.relayed(call, call.model)
    except InvalidRequest as error:
        json.dumps(error.message)
        return
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    before, after = decode(body), decode(sent)
    for name in ("slo", "tts", "optillm_approach"):
        if before.get(name) is not None and bytes(before[name]) != b"null":
            before.pop(name)
            assert name not in after
    before.pop("model"), after.pop("model")
    if salt is not None:
        assert json.loads(bytes(after.pop("cache_salt"))) == salt
        before.pop("cache_salt", None)
    assert {k: bytes(v) for k, v in before.items() if k in after} == {k: bytes(v) for k, v in after.items()}


# -- files --

yaml_text = st.text(alphabet="abn01:-[]{}&*!|>'\"#%@ \n\t\\,?.~<", max_size=60)
sections = st.dictionaries(
    st.sampled_from(["server", "slo", "traces", "limits", "models", "x"]),
    json_values
    | st.dictionaries(
        st.sampled_from(["port", "api_keys", "tls", "percentile", "defaults", "redis_url", "name", "backends", "url"]),
        json_values,
    )
    | st.lists(
        st.dictionaries(st.sampled_from(["name", "backends", "any_of", "task", "quality"]), json_values), max_size=2
    ),
)


@examples(50)
@given(text=yaml_text | sections.map(lambda value: yaml.safe_dump(value)))
def test_a_configuration_is_read_or_refused_in_words(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        path.write_text(text)
        try:
            load(path, environ={})
        except ConfigError as error:
            assert "fleet.yaml" in str(error)


@examples(33)
@given(
    value=st.sampled_from(["models", "server", "server__port", "models__0__name", "limits__redis_url"]), text=yaml_text
)
def test_a_variable_is_read_or_refused_in_words(value: str, text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        path.write_text("models: [{name: m, backends: [{name: a, url: 'http://a'}]}]")
        try:
            load(path, environ={f"PARETOPROXY_{value.upper()}": text})
        except ConfigError as error:
            assert str(error)


@examples(50)
@given(
    text=yaml_text
    | st.lists(st.dictionaries(st.sampled_from(["name", "hash", "limits", "expires"]), json_values)).map(yaml.safe_dump)
)
def test_keys_are_read_or_refused_in_words(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "keys.yaml"
        path.write_text(text)
        try:
            load_keys(path)
        except KeysError as error:
            assert "keys.yaml" in str(error)
