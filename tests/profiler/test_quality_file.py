"""The quality table: derived from stored samples, stored, read back."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from profiler import quality_file
from profiler.prior import prior_pool
from profiler.quality_file import (
    Quality,
    QualityError,
    StoredQuestion,
    StoredSample,
    bootstrap_lower,
    curve,
    derive,
    read_samples,
)
from strategies.base import Shape
from strategies.stopping import All


def _question(number: int, right: int, of: int = 6) -> StoredQuestion:
    samples = [StoredSample("7" if i < right else f"w{i}", 10 * (i + 1), "stop", i < right) for i in range(of)]
    return StoredQuestion(f"q{number}", "7", "all", 20, StoredSample("7", 35, "stop", right > 3), samples)


POOL = [_question(0, 6), _question(1, 5), _question(2, 0), _question(3, 2)]


def test_accuracy_is_the_mean_over_questions_of_what_the_shape_would_answer() -> None:
    _, single, _ = derive(Shape(1, All()), POOL, greedy=False)
    _, voted, lower = derive(Shape(6, All()), POOL, greedy=False)
    assert single == pytest.approx((1 + 5 / 6 + 0 + 1 / 3) / 4, abs=0.1)
    assert voted == 0.75  # two votes beat four single ones
    assert lower == pytest.approx(0.25)


def test_the_greedy_answer_is_its_own_curve() -> None:
    found = curve("none", {}, Shape(1, All()), POOL, greedy=True)
    assert (found.greedy, found.accuracy, found.lengths) == (True, 0.5, [[35]] * 4)


def test_a_curves_draws_are_ordered_by_their_longest_branch() -> None:
    found = curve("self-consistency", {"n": 2}, Shape(2, All()), prior_pool(), greedy=False)
    assert len(found.lengths) == quality_file.DRAWS
    longest = [draw[-1] for draw in found.lengths]
    assert longest == sorted(longest)
    assert all(0 < shorter <= longer for shorter, longer in found.lengths)


def test_in_the_prior_more_samples_help_with_diminishing_returns() -> None:
    one, four, sixteen = (derive(Shape(n, All()), prior_pool(), greedy=False)[1] for n in (1, 4, 16))
    assert one < four < sixteen
    assert sixteen - four < 4 * (four - one)


def test_the_lower_bound_is_a_bootstrap_over_questions() -> None:
    assert bootstrap_lower(np.full(50, 0.7)) == pytest.approx(0.7)
    coin = np.array([0.0, 1.0] * 200)
    expected = 0.5 - 1.645 * 0.5 / np.sqrt(len(coin))
    assert bootstrap_lower(coin) == pytest.approx(expected, abs=0.01)
    assert bootstrap_lower(coin[:20]) < bootstrap_lower(coin)


def _quality() -> Quality:
    curves = [curve("none", {}, Shape(1, All()), POOL, greedy=True)]
    return Quality("m", "math", "math", 0.6, 4, 6, 20.0, curves, {"vllm": "0.26"})


def test_a_table_is_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.math.quality.json"
    quality_file.write(_quality(), path)
    assert quality_file.read(path) == _quality()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_table_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    with pytest.raises(QualityError, match=r"cannot read the quality table .*q.json: No such file"):
        quality_file.read(path)
    for content in (b"", b"{}", b"[]", b'{"model":"\xff"}', msgspec.json.encode(_quality())[:-9]):
        path.write_bytes(content)
        with pytest.raises(QualityError, match=r"q.json is not a quality table .*paretoproxy quality"):
            quality_file.read(path)
    quality_file.write(msgspec.structs.replace(_quality(), schema=1), path)
    with pytest.raises(QualityError, match="has schema 1, this version reads 2"):
        quality_file.read(path)


def test_samples_are_read_line_by_line_without_a_last_one_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    assert list(read_samples(path)) == []
    lines = [msgspec.json.encode(question) for question in POOL]
    path.write_bytes(b"\n".join(lines))  # the last line has no end yet
    assert list(read_samples(path)) == POOL[:3]
    for broken in (b"{}\n", b'{"question":"\xff"}\n'):
        path.write_bytes(lines[0] + b"\n" + broken)
        with pytest.raises(QualityError, match=r"samples.jsonl:2: "):
            list(read_samples(path))
