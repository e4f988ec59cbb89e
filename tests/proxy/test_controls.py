"""The controls of a request: every spelling, who beats whom, and every malformed one named in a 400."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.call import Call, parse
from proxy.config import SloDefaults
from proxy.controls import CONTROL_HEADERS, NO_CONTROLS, Controls, Slo
from proxy.errors import InvalidControl, InvalidRequest, envelope

Given = dict[str, Any]


def _call(headers: dict[str, str] | None = None, defaults: SloDefaults | None = None, **body: Any) -> Call:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return parse("/v1/chat/completions", raw, msgspec.json.encode({"model": "m", **body}), defaults or SloDefaults())


def _refused(headers: dict[str, str] | None = None, **body: Any) -> InvalidControl:
    with pytest.raises(InvalidControl) as raised:
        _call(headers, **body)
    assert raised.value.http_status == 400
    assert raised.value.param is not None
    assert raised.value.param in raised.value.message
    return raised.value


SPELLINGS: list[tuple[str, str, Given, Controls]] = [
    ("x-slo-latency-ms", "2.5e3", {"slo": {"latency_ms": 2500}}, Controls(slo=Slo(latency_ms=2500))),
    ("x-slo-ttft-ms", "80", {"slo": {"ttft_ms": 80}}, Controls(slo=Slo(ttft_ms=80))),
    ("x-slo-tpot-ms", "9.5", {"slo": {"tpot_ms": 9.5}}, Controls(slo=Slo(tpot_ms=9.5))),
    ("x-llm-d-slo-ttft-ms", "80", {"slo": {"ttft_ms": 80}}, Controls(slo=Slo(ttft_ms=80))),
    ("x-llm-d-slo-tpot-ms", " 9.5 ", {"slo": {"tpot_ms": 9.5}}, Controls(slo=Slo(tpot_ms=9.5))),
    ("x-slo-cost-usd", "0.001", {"slo": {"cost_usd": 0.001}}, Controls(slo=Slo(cost_usd=0.001))),
    ("x-slo-quality", "1", {"slo": {"quality": 1}}, Controls(slo=Slo(quality=1))),
    ("x-slo-objective", "cost", {"slo": {"objective": "cost"}}, Controls(slo=Slo(objective="cost"))),
    ("x-slo-mode", "strict", {"slo": {"mode": "strict"}}, Controls(slo=Slo(strict=True))),
    ("x-tts-strategy", "auto", {"tts": {"strategy": "auto"}}, Controls(strategy="auto")),
    ("x-tts-n", "8", {"tts": {"n": 8}}, Controls(n=8)),
    ("x-tts-max-tokens", "512", {"tts": {"max_tokens": 512}}, Controls(max_tokens=512)),
    ("x-tts-task", "math", {"tts": {"task": "math"}}, Controls(task="math")),
]


@pytest.mark.parametrize(("header", "text", "body", "controls"), SPELLINGS)
def test_header_and_body_are_two_spellings_of_one_thing(
    header: str, text: str, body: Given, controls: Controls
) -> None:
    assert _call({header: text}).controls == _call(**body).controls == replace(controls, given=True)


def test_the_table_above_is_complete() -> None:
    assert sorted(row[0] for row in SPELLINGS) == list(CONTROL_HEADERS)


def test_the_model_suffix_pins_strategy_and_n() -> None:
    call = _call(model="org/m:8b@self-consistency:4")
    assert (call.model, call.controls.pinned, call.controls.n) == ("org/m:8b", "self-consistency", 4)
    assert _call(model="m@none").controls.n is None
    assert _call(model="m@auto").controls.pinned is None


def test_without_any_control_a_request_is_pass_through() -> None:
    for body in ({}, {"slo": {}, "tts": {}}, {"slo": None, "tts": None}, {"slo": {"latency_ms": None}}):
        assert _call({"x-request-id": "1", "x-slow": "2"}, **body).controls is NO_CONTROLS


def test_header_beats_body_beats_suffix_beats_defaults_key_by_key() -> None:
    defaults = SloDefaults(latency_ms=1000, cost_usd=1)
    suffixed = {"model": "m@first-finish:2"}
    body = {"tts": {"strategy": "self-consistency", "n": 4, "task": "math"}, "slo": {"latency_ms": 2000}}
    headers = {"x-tts-n": "8", "x-slo-latency-ms": "3000"}
    assert _call(defaults=defaults).controls.slo == Slo(latency_ms=1000, cost_usd=1)
    assert _call(defaults=defaults).controls.given
    assert _call(**suffixed).controls == Controls(strategy="first-finish", n=2, given=True)
    all_four = _call(headers, defaults, **suffixed, **body).controls
    assert (all_four.strategy, all_four.n, all_four.task) == ("self-consistency", 8, "math")
    assert all_four.slo == Slo(latency_ms=3000, cost_usd=1)
    assert _call(None, defaults, **suffixed, **body).controls.n == 4
    assert _call(None, defaults, **body).controls.slo.latency_ms == 2000


def test_a_strategys_own_parameters_come_in_the_body_with_its_name() -> None:
    body = {"tts": {"strategy": "first-finish", "m": 2, "progress": True}}
    assert _call(**body).controls == Controls(strategy="first-finish", progress=True, params={"m": 2}, given=True)
    assert _call({"x-tts-strategy": "first-finish"}, tts={"m": 2}).controls.params == {"m": 2}
    for tts in ({"m": 2}, {"m": 2, "strategy": "auto"}):
        assert _refused(tts=tts).param == "tts.m"


@pytest.mark.parametrize("header", ["x-slo-latency-ms", "x-slo-ttft-ms", "x-llm-d-slo-tpot-ms", "x-slo-cost-usd"])
@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "inf", "1e400", "soon", "1_000", "0x10", "5,0", "٣".encode().decode("latin-1")]
)
def test_a_malformed_limit_is_named(header: str, text: str) -> None:
    assert _refused({header: text}).param == header


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("x-slo-latency-ms", "86400001"),
        ("x-slo-quality", "1.01"),
        ("x-slo-quality", "-0.1"),
        ("x-slo-objective", "speed"),
        ("x-slo-mode", "Strict"),
        ("x-tts-n", "0"),
        ("x-tts-n", "257"),
        ("x-tts-n", "2.0"),
        ("x-tts-n", "1_0"),
        ("x-tts-n", "9" * 5000),
        ("x-tts-max-tokens", "-5"),
        ("x-tts-strategy", ""),
        ("x-tts-task", "a" * 101),
        ("x-slo-latency", "5"),
        ("x-tts-progress", "true"),
        ("x-llm-d-slo-latency-ms", "5"),
    ],
)
def test_a_malformed_or_unknown_header_is_named(header: str, text: str) -> None:
    assert _refused({header: text}).param == header


@pytest.mark.parametrize(
    ("body", "control"),
    [
        ({"slo": []}, "slo"),
        ({"tts": "auto"}, "tts"),
        ({"slo": {"latency": 5}}, "slo.latency"),
        ({"slo": {"latency_ms": "5"}}, "slo.latency_ms"),
        ({"slo": {"latency_ms": True}}, "slo.latency_ms"),
        ({"slo": {"latency_ms": [5]}}, "slo.latency_ms"),
        ({"slo": {"quality": 2}}, "slo.quality"),
        ({"slo": {"objective": {}}}, "slo.objective"),
        ({"tts": {"n": "5"}}, "tts.n"),
        ({"tts": {"n": True}}, "tts.n"),
        ({"tts": {"n": 5.0}}, "tts.n"),
        ({"tts": {"max_tokens": 0}}, "tts.max_tokens"),
        ({"tts": {"strategy": 5}}, "tts.strategy"),
        ({"tts": {"task": "a\nb"}}, "tts.task"),
        ({"tts": {"progress": "yes"}}, "tts.progress"),
        ({"model": "m@"}, "model suffix"),
        ({"model": "m@none:x"}, "model suffix"),
        ({"model": "m@none:"}, "model suffix"),
    ],
)
def test_a_malformed_body_control_is_named(body: Given, control: str) -> None:
    assert _refused(**body).param == control


def test_a_number_too_large_for_a_float_is_refused_like_any_other() -> None:
    body = b'{"model":"m","slo":{"latency_ms":1' + b"0" * 400 + b"}}"
    with pytest.raises(InvalidControl, match=r"slo\.latency_ms"):
        parse("/v1/chat/completions", [], body, SloDefaults())


def test_a_control_given_twice_is_refused_also_under_two_names() -> None:
    for twin in (b"x-slo-ttft-ms", b"x-llm-d-slo-ttft-ms"):
        with pytest.raises(InvalidControl, match="given twice"):
            parse("/v1/completions", [(b"x-slo-ttft-ms", b"5"), (twin, b"5")], b'{"model":"m"}', SloDefaults())


@given(
    st.sampled_from(CONTROL_HEADERS),
    st.binary(max_size=40) | st.text("0123456789._-+eEnaif ", max_size=12).map(str.encode),
)
@example("x-slo-latency-ms", b"1e309")
def test_no_header_value_raises_anything_else(header: str, value: bytes) -> None:
    try:
        controls = parse("/v1/completions", [(header.encode(), value)], b'{"model":"m"}', SloDefaults()).controls
    except InvalidControl as error:
        assert error.param == header
        assert msgspec.json.encode(envelope(error))
    else:
        assert controls.given


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["latency_ms", "quality", "mode", "n", "strategy", "max_tokens", "progress", "m"])


@given(JSON | st.dictionaries(KEYS, JSON), JSON | st.dictionaries(KEYS, JSON))
def test_no_body_member_raises_anything_else(slo: Any, tts: Any) -> None:
    try:
        _call(slo=slo, tts=tts)
    except InvalidRequest as error:
        assert error.body()
