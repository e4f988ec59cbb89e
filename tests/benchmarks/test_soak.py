"""What the soak calls flat."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from soak import Sample, course


@pytest.mark.parametrize(
    ("mb_per_minute", "flat"),
    [(0.0, True), (0.1, True), (1.0, False)],
)
def test_memory_that_grows_over_ten_minutes_is_told(mb_per_minute: float, flat: bool) -> None:
    """Of 150 MB, 4.5 may be added in ten minutes; noise of a megabyte does not hide more."""
    samples = [Sample(at, 150 + mb_per_minute * at / 60 + (-1) ** at, 40, 9, 0.0) for at in range(600)]
    found = course("rss_mb", samples)
    assert found.flat is flat
    assert found.per_hour == pytest.approx(60 * mb_per_minute, abs=0.2)


def test_descriptors_that_leak_are_told() -> None:
    samples = [Sample(at, 150, 40 + at // 60, 9, 0.0) for at in range(600)]
    assert not course("fds", samples).flat
    assert course("tasks", samples).flat
