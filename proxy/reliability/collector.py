"""What reliability did, as Prometheus' families. Labels are names of the configuration and of this package."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.health import State
from proxy.reliability.service import Reliability

STATES: tuple[State, ...] = ("closed", "half-open", "open")


class ReliabilityCollector(Collector):
    def __init__(self, reliability: Reliability) -> None:
        self._reliability = reliability

    def collect(self) -> Iterator[Metric]:
        yield from self._states()
        yield from self._retries()
        yield from self._admission()
        yield from self._hedges()

    def _hedges(self) -> Iterator[Metric]:
        hedging = self._reliability.hedging
        hedges = CounterMetricFamily(
            "paretoproxy_hedges", "Second requests beside late ones, by how they ended", labels=["outcome"]
        )
        for outcome, count in list(hedging.counts.items()) if hedging is not None else ():
            hedges.add_metric([outcome], count)
        denied = hedging.denied if hedging is not None else 0
        yield hedges
        yield CounterMetricFamily(
            "paretoproxy_hedges_denied", "Late requests for which the budget had none", value=denied
        )

    def _states(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "paretoproxy_backend_state", "1 for the state that the backend is in", labels=["backend", "state"]
        )
        opened = CounterMetricFamily(
            "paretoproxy_backend_opened", "How often the backend was taken out, by why", labels=["backend", "cause"]
        )
        for backend in self._reliability.backends:
            for each in STATES:
                state.add_metric([backend.name, each], float(backend.health.state == each))
            for cause, count in backend.health.opened.items():
                opened.add_metric([backend.name, cause], count)
        yield from (state, opened)

    def _retries(self) -> Iterator[Metric]:
        retries = self._reliability.retries
        made = CounterMetricFamily("paretoproxy_retries", "Attempts after a failed one", labels=["kind", "reason"])
        for key, count in list(retries.counts.items()):
            made.add_metric(list(key), count)
        denied = CounterMetricFamily("paretoproxy_retries_denied", "Retries that were not made, by why", labels=["why"])
        for why, count in list(retries.denied.items()):
            denied.add_metric([why], count)
        yield from (made, denied)
        yield GaugeMetricFamily(
            "paretoproxy_retry_budget_left", "Retries that may be made now", value=retries.budget.left(retries.clock())
        )

    def _admission(self) -> Iterator[Metric]:
        admission = self._reliability.admission
        flight = GaugeMetricFamily("paretoproxy_admitted", "Requests under way", labels=["model"])
        queued = GaugeMetricFamily("paretoproxy_queued", "Requests that wait for their turn", labels=["model"])
        waited = CounterMetricFamily("paretoproxy_queue_waits", "Requests that waited and ran", labels=["model"])
        seconds = CounterMetricFamily("paretoproxy_queue_wait_seconds", "How long they waited in all", labels=["model"])
        for gate in list(admission.gates.values()):
            label = [gate.model]
            flight.add_metric(label, gate.in_flight)
            queued.add_metric(label, gate.queued)
            waited.add_metric(label, gate.waited)
            seconds.add_metric(label, gate.waited_s)
        shed = CounterMetricFamily(
            "paretoproxy_shed", "Requests refused for want of room", labels=["model", "class", "reason"]
        )
        for key, count in list(admission.shed.items()):
            shed.add_metric(list(key), count)
        yield from (flight, queued, waited, seconds, shed)
        yield GaugeMetricFamily("paretoproxy_held_bytes", "Of request bodies", value=admission.held_bytes)
