"""The metrics of several workers are one page: counters are sums, nobody's count is lost, and none goes back."""

import threading
from pathlib import Path

import pytest
from collector import HttpCollector
from http_rig import Fleet
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Sample

from proxy import worker_metrics
from proxy.worker_metrics import RULES, Exchange, bury, merged, read_folder, snapshot


def counter(value: float, **labels: str) -> Metric:
    family = CounterMetricFamily("asked", "Requests", labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def gauge(name: str, value: float, label: str = "a") -> Metric:
    family = GaugeMetricFamily(name, "-", labels=["backend"])
    family.add_metric([label], value)
    return family


def values(families: list[Metric]) -> dict[str, float]:
    return {f"{s.name}{sorted(s.labels.values())}": s.value for family in families for s in family.samples}


def test_counters_and_histograms_are_sums_over_the_same_labels() -> None:
    one = HistogramMetricFamily("took", "s", labels=["m"])
    one.add_metric(["x"], [("1.0", 2), ("+Inf", 3)], 4.5)
    told = [snapshot("0-1", [counter(2, m="x"), one]), snapshot("1-1", [counter(3, m="x"), counter(1, m="y"), one])]
    assert values(merged(told)) == {
        "asked_total['x']": 5,
        "asked_total['y']": 1,
        "took_bucket['1.0', 'x']": 4,
        "took_bucket['+Inf', 'x']": 6,
        "took_count['x']": 6,
        "took_sum['x']": 9.0,
    }


def test_gauges_follow_their_rule() -> None:
    rows = {"backend_up": (1, 0, 0), "backend_in_flight": (3, 4, 7), "quality_drift": (-1, 0, -1)}
    for name, (one, other, together) in rows.items():
        told = [snapshot(who, [gauge(f"paretoproxy_{name}", v)]) for who, v in (("0-1", one), ("1-1", other))]
        assert values(merged(told)) == {f"paretoproxy_{name}['a']": together}


def test_workers_are_not_each_others_strangers() -> None:
    """An engine runs 10 branches: 4 of one worker, 1 of another, 5 of somebody else's."""
    told = [
        snapshot(who, [gauge(worker_metrics.IN_FLIGHT, own), gauge(worker_metrics.OTHERS, 10 - own)])
        for who, own in (("0-1", 4), ("1-1", 1))
    ]
    found = values(merged(told))
    assert found["paretoproxy_backend_in_flight['a']"] == 5
    assert found["paretoproxy_backend_others['a']"] == pytest.approx(5)


async def test_every_gauge_has_a_rule(collector: HttpCollector, fleet: Fleet) -> None:
    await fleet.backend()
    proxy = await fleet.proxy(watched=True, traces={"path": "traces.db", "otlp_endpoint": collector.url})
    gauges = {family.name for family in proxy.service.metrics.read() if family.type == "gauge"}
    assert len(gauges) > 12 and gauges - RULES.keys() == set(), "say in worker_metrics.RULES what they are of several"


async def test_whoever_is_scraped_tells_of_all_and_no_count_goes_back(tmp_path: Path) -> None:
    counts = {"0-1": 0, "1-1": 0}
    workers = [Exchange(tmp_path, name, lambda name=name: [counter(counts[name])]) for name in counts]
    for worker in workers:
        await worker.start()
    last = 0.0
    for turn in range(6):
        counts["0-1"] += 2
        counts["1-1"] += 1
        total = values(await workers[turn % 2].page())["asked_total[]"]
        assert total >= last
        last = total
    for worker in workers:
        await worker.aclose()
    [total] = values(merged(read_folder(tmp_path)[0])).values()
    assert total == 18


async def test_the_dead_are_counted_once_and_their_gauges_are_not(tmp_path: Path) -> None:
    families = [counter(5), gauge("paretoproxy_backend_in_flight", 3)]
    dead = Exchange(tmp_path, "0-1", lambda: families)
    await dead.start()
    await dead.aclose()
    living = Exchange(tmp_path, "0-2", lambda: families)
    again = (tmp_path / "0-1.json").read_bytes()
    bury(tmp_path, "0-1")
    (tmp_path / "0-1.json").write_bytes(again)  # as between the two steps of a burial
    told = {"asked_total[]": 10, "paretoproxy_backend_in_flight['a']": 3, "paretoproxy_workers[]": 1}
    assert values(await living.page()) == told
    (tmp_path / "0-1.json").unlink()
    bury(tmp_path, "0-2")
    found, gone = read_folder(tmp_path)
    assert found == [] and gone is not None and values(merged([], gone)) == {"asked_total[]": 10}


class _Told(GaugeMetricFamily):
    """Notes in which threads its samples are asked for."""

    asked_in: list[threading.Thread]

    @property
    def samples(self) -> list[Sample]:
        self.asked_in.append(threading.current_thread())
        return []

    @samples.setter
    def samples(self, value: list[Sample]) -> None:
        """The base class's own empty list."""
        self.asked_in = []


async def test_numbers_are_read_on_the_loop_and_become_samples_in_a_thread(tmp_path: Path) -> None:
    told, read_in = _Told("told", "-"), list[threading.Thread]()
    exchange = Exchange(tmp_path, "a", lambda: (read_in.append(threading.current_thread()), [told])[1])
    await exchange.page()
    assert read_in == [threading.current_thread()]
    assert told.asked_in and threading.current_thread() not in told.asked_in
