"""A histogram's family is of the moment when it was read, whoever looks at it and when."""

import pytest
from prometheus_client.metrics_core import HistogramMetricFamily

from proxy.histogram import Histogram


def histogram() -> Histogram:
    return Histogram("took_seconds", "How long", ["model"], (0.1, 1.0))


def values(family: HistogramMetricFamily) -> dict[str, float]:
    return {sample.labels.get("le", sample.name): sample.value for sample in family.samples}


def test_buckets_add_up_and_the_sum_is_told() -> None:
    found = histogram()
    for seconds in (0.05, 0.1, 0.5, 7.0):
        found.observe(("m",), seconds)
    assert values(found.family()) == {"0.1": 2, "1.0": 3, "+Inf": 4, "took_seconds_count": 4, "took_seconds_sum": 7.65}


def test_what_is_observed_later_is_not_in_a_family_that_was_read_before() -> None:
    found = histogram()
    found.observe(("m",), 0.5)
    before = found.family()
    found.observe(("m",), 0.5)
    found.observe(("another",), 0.5)
    assert values(before) == {"0.1": 0, "1.0": 1, "+Inf": 1, "took_seconds_count": 1, "took_seconds_sum": 0.5}
    assert len(found.family().samples) == 2 * len(before.samples)


def test_samples_are_made_by_whom_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is for the event loop, which has no time for a dozen objects a row."""
    made: list[object] = []
    add = HistogramMetricFamily.add_metric
    monkeypatch.setattr(HistogramMetricFamily, "add_metric", lambda *told: (made.append(told), add(*told)))
    found = histogram()
    found.observe(("m",), 0.5)
    family = found.family()
    assert not made
    assert family.samples == family.samples and len(made) == 1


def test_an_unknown_attribute_is_none_of_it() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        histogram().family().nothing  # noqa: B018
