"""W3C Trace Context in and out, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.trace import Trace
from proxy.trace_context import BRANCHES, ROOT, SELECTION, incoming, sent_in

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE_ID}-{PARENT}-01".encode()


def test_a_clients_trace_is_gone_on_with_under_a_root_of_our_own() -> None:
    told = incoming(
        [(b"traceparent", GIVEN), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"), (b"x-request-id", b"7")]
    )
    assert (told.trace_id, told.parent_id, told.tracestate, told.sampled) == (TRACE_ID, PARENT, "a=1,b=2", True)
    assert told.request_id == "7" and told.root_id not in (None, PARENT)
    assert incoming([(b"traceparent", GIVEN)]).root_id != told.root_id


def test_the_clients_choice_not_to_sample_is_kept() -> None:
    assert incoming([(b"traceparent", GIVEN[:-2] + b"00")]).sampled is False
    assert incoming([(b"traceparent", GIVEN[:-2] + b"03")], sample_ratio=0.0).sampled is True


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert incoming([(b"traceparent", b"cc" + GIVEN[2:] + b"-what-the-future-brings")]).parent_id == PARENT


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", b"ff" + GIVEN[2:])],
        [(b"traceparent", GIVEN + b"-more")],
        [(b"traceparent", GIVEN.upper())],
        [(b"traceparent", b"00-" + b"0" * 32 + GIVEN[35:])],
        [(b"traceparent", GIVEN[:36] + b"0" * 16 + b"-01")],
        [(b"traceparent", GIVEN), (b"traceparent", GIVEN)],
    ],
    ids=["version ff", "version 00 with more", "upper case", "no trace", "no parent", "given twice"],
)
def test_what_is_no_trace_context_starts_a_new_trace_and_its_state_is_dropped(
    headers: list[tuple[bytes, bytes]],
) -> None:
    told = incoming([*headers, (b"tracestate", b"a=1")])
    assert told.trace_id != TRACE_ID and told.parent_id is None and told.tracestate is None


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate", b"x-request-id"]), st.binary(max_size=600))))
def test_no_header_breaks_the_reading_of_it_or_a_line_that_is_sent(headers: list[tuple[bytes, bytes]]) -> None:
    told = incoming(headers)
    trace = Trace(told.trace_id, 0.0, "/", told.request_id)
    trace.parent_id, trace.root_id, trace.tracestate, trace.sampled = told[2:]
    lines = trace.context_lines(BRANCHES).split(b"\r\n")
    assert lines.pop() == b"" and len(lines) <= 2 and not any(b"\n" in line for line in lines)


def test_span_ids_follow_from_the_root_and_differ() -> None:
    trace = Trace(TRACE_ID, 0.0, "/")
    offsets = [ROOT, *range(BRANCHES, BRANCHES + 200), SELECTION]
    assert trace.span_id() == TRACE_ID[16:]
    assert len({trace.span_id(offset) for offset in offsets}) == len(offsets)
    trace.root_id = "f" * 16
    assert trace.span_id(1) == "0000000000000001", "never all zeros, which is no id"


def test_the_share_of_new_traces_that_is_sampled() -> None:
    sampled = sum(incoming([], sample_ratio=0.25).sampled for _ in range(4000))
    assert 800 < sampled < 1200
    assert not incoming([], sample_ratio=0.0).sampled and incoming([]).sampled


def test_a_log_record_finds_the_trace_in_what_was_sent() -> None:
    trace = Trace(TRACE_ID, 0.0, "/")
    assert sent_in(b"POST / HTTP/1.1\r\nhost: a\r\n" + trace.context_lines(ROOT) + b"\r\n") == TRACE_ID
    assert sent_in(b"POST / HTTP/1.1\r\n\r\n") is None
