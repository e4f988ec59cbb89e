"""Splitting server-sent events, against a plain reading of the standard, line by line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import sse
from proxy.sse import DONE, KEEP_ALIVE, EventSplitter, EventTooLarge, event

LINE_ENDS = [b"\n", b"\r\n", b"\r"]


def split(*chunks: bytes) -> list[bytes]:
    splitter = EventSplitter()
    return [payload for chunk in chunks for payload in splitter.feed(chunk)]


def by_the_standard(stream: bytes) -> list[bytes]:
    """WHATWG HTML §9.2.6, data only: a blank line gives the event out, and what no blank line follows is dropped."""
    payloads: list[bytes] = []
    data: list[bytes] = []
    for line in re.split(rb"\r\n|\r|\n", stream)[:-1]:
        if not line:
            if data:
                payloads.append(b"\n".join(data))
            data = []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
    return payloads


def test_a_stream_as_vllm_sends_it() -> None:
    assert split(b'data: {"a":1}\n\n' + b'data: {"a":2}\n\n', b"data: [DONE]\n\n") == [b'{"a":1}', b'{"a":2}', DONE]


def test_what_is_framed_is_what_is_split() -> None:
    assert split(event(b"1") + KEEP_ALIVE + event(DONE)) == [b"1", DONE]


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b": comment\n\ndata: 1\n\n", [b"1"]),
        (b": comment\ndata: 1\n\n", [b"1"]),
        (b"event: error\nid: 7\nretry: 10\ndata: 1\n\n", [b"1"]),
        (b"event: ping\n\n", []),
        (b"data: 1\ndata: 2\n\n", [b"1\n2"]),
        (b"data:1\n\ndata:  2\n\n", [b"1", b" 2"]),
        (b"data\n\ndata:\n\n", [b"", b""]),
        (b"database: 1\n\n", []),
        (b"\n\n\n\ndata: 1\n\n\n\n\ndata: 2\n\n", [b"1", b"2"]),
        (b"data: 1\n\ndata: unfinished\n", [b"1"]),
        (b"data: a\\n\\nb\n\n", [b"a\\n\\nb"]),
        (b"", []),
    ],
)
@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_events_whole_and_byte_by_byte(stream: bytes, payloads: list[bytes], line_end: bytes) -> None:
    stream = stream.replace(b"\n", line_end)
    assert by_the_standard(stream) == payloads
    assert split(stream) == payloads
    assert split(*(stream[place : place + 1] for place in range(len(stream)))) == payloads


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_an_event_is_given_out_by_its_last_byte(line_end: bytes) -> None:
    """Not by the first byte of the next event: the last one has no next."""
    assert split(b"data: [DONE]" + line_end + line_end) == [DONE]
    assert split(b"data: [DONE]" + line_end, line_end) == [DONE]


lines = st.sampled_from(
    [b"data: {}", b"data:1", b"data", b": hello", b"event: x", b"nonsense", b"", b"", b"data: \xff:"]
)


@given(
    pairs=st.lists(st.tuples(lines, st.sampled_from(LINE_ENDS)), max_size=20),
    sizes=st.lists(st.integers(0, 12), max_size=40),
)
def test_any_mix_of_lines_cut_anywhere_reads_as_the_standard_says(
    pairs: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(line + line_end for line, line_end in pairs)
    chunks, place = [], 0
    for size in sizes:
        chunks.append(stream[place : place + size])
        place += size
    assert split(*chunks, stream[place:]) == by_the_standard(stream) == split(stream)


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    splitter = EventSplitter()
    assert splitter.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 10)


def test_many_small_events_are_not_one_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    assert len(split(event(b"x") * 1000)) == 1000


def test_a_large_event_in_many_chunks_is_searched_once() -> None:
    """8 MiB in 512-byte chunks: searching or copying all of it for every chunk would take minutes."""
    chunk = b"x" * 512
    assert len(split(b"data: ", *[chunk] * 16384, b"\n\n")[0]) == 8 * 1024 * 1024
