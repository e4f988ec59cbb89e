"""What finished requests add up to: attainment, cost, tokens, times. Counted in the trace writer's thread, once a
trace's tokens and prices are known; no request waits for it.

No label value is ever the client's text: models, strategies, backends and SLO kinds come from the configuration and the
code, error codes from `errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric

from proxy.histogram import Histogram
from proxy.ledgers import Amount
from proxy.operations import FINISHED, first_chunk_s, operation, per_token_s
from proxy.trace import BranchTrace, Trace

SLO_KINDS = {"latency_ms": "latency", "ttft_ms": "ttft", "tpot_ms": "tpot", "cost_usd": "cost", "quality": "quality"}
# The bounds that the GenAI conventions give: the same numbers go out as `gen_ai.client.…` and `gen_ai.server.…`.
OPERATION_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
TOKEN_BOUNDS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
PER_TOKEN_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 40, 80)
_DECISION_BOUNDS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class RequestMetrics:
    """`count` from one thread only; `families` from any."""

    def __init__(self) -> None:
        self._slo: Counts = {}
        self._errors: Counts = {}
        self._tokens: Counts = {}
        self._prompt_tokens: Counts = {}
        self._gpu_seconds: Counts = {}
        self._usd: Counts = {}
        self._unpriced: Counts = {}
        branch = ["backend", "operation", "outcome"]
        self._ttft = Histogram(
            "paretoproxy_time_to_first_token_seconds",
            "Arrival to the first of a streamed answer",
            ["model", "strategy"],
            _TTFT_BOUNDS_S,
        )
        self._tpot = Histogram(
            "paretoproxy_time_per_output_token_seconds",
            "Of streamed answers, after the first token, on average",
            ["model", "strategy"],
            PER_TOKEN_BOUNDS_S,
        )
        self._decision = Histogram(
            "paretoproxy_decision_seconds", "The planner's time for one plan", ["model"], _DECISION_BOUNDS_S
        )
        self._branch_s = Histogram(
            "paretoproxy_branch_duration_seconds", "Of one upstream request", branch, OPERATION_BOUNDS_S
        )
        self._branch_first_s = Histogram(
            "paretoproxy_branch_time_to_first_token_seconds",
            "Of one streamed upstream request",
            ["backend", "operation"],
            _TTFT_BOUNDS_S,
        )
        self._branch_token_s = Histogram(
            "paretoproxy_branch_time_per_output_token_seconds",
            "Of one streamed upstream request, after the first token, on average",
            ["backend", "operation"],
            PER_TOKEN_BOUNDS_S,
        )
        self._branch_tokens = Histogram(
            "paretoproxy_branch_tokens", "Of one upstream request", ["backend", "operation", "type"], TOKEN_BOUNDS
        )

    def count(self, trace: Trace, model: str) -> None:
        """`model`: a name from the configuration, or "unknown"."""
        strategy = trace.plan.strategy if trace.plan is not None else "none"
        status = trace.slo_status if trace.slo_status != "none" else trace.outcome
        for limit, kind in SLO_KINDS.items():
            if limit in trace.slo:
                _add(self._slo, (model, kind, status))
        if trace.error_code is not None:
            _add(self._errors, (trace.outcome, trace.error_code))
        if trace.ttft_ms is not None:
            self._ttft.observe((model, strategy), trace.ttft_ms / 1e3)
            if (answered := _answer_tokens(trace)) > 1:
                told_s = max(0.0, trace.latency_ms - trace.ttft_ms) / 1e3
                self._tpot.observe((model, strategy), told_s / (answered - 1))
        for plan in (*trace.earlier_plans, *((trace.plan,) if trace.plan is not None else ())):
            if plan.took_ms is not None:
                self._decision.observe((model,), plan.took_ms / 1e3)
        self._count_cost(trace, model)
        for branch in trace.branches:
            self._count_branch(trace, branch, operation(trace.path, branch))

    def _count_cost(self, trace: Trace, model: str) -> None:
        if trace.ledgers is None or not trace.branches:
            return
        for name in trace.ledgers.__struct_fields__:
            amount = getattr(trace.ledgers, name)
            if not isinstance(amount, Amount):
                continue
            if amount.gpu_seconds is not None:
                _add(self._gpu_seconds, (model, name), amount.gpu_seconds)
            if amount.usd is not None:
                _add(self._usd, (model, name), amount.usd)
            else:
                _add(self._unpriced, (model, name))

    def _count_branch(self, trace: Trace, branch: BranchTrace, name: str) -> None:
        _add(self._tokens, (branch.backend,), branch.completion_tokens)
        _add(self._prompt_tokens, (branch.backend,), branch.prompt_tokens)
        if branch.end_ms is not None:
            key = (branch.backend, name, branch.outcome)
            self._branch_s.observe(key, max(0.0, branch.end_ms - branch.start_ms) / 1e3)
        if (first_s := first_chunk_s(trace, branch)) is not None:
            self._branch_first_s.observe((branch.backend, name), first_s)
        if (each_s := per_token_s(trace, branch)) is not None:
            self._branch_token_s.observe((branch.backend, name), each_s)
        for kind, tokens in (("input", branch.prompt_tokens), ("output", branch.completion_tokens)):
            if tokens:
                self._branch_tokens.observe((branch.backend, name, kind), tokens)

    def families(self) -> Iterator[Metric]:
        yield _family(
            "paretoproxy_slo_requests", "Requests with a demand of a kind", ["model", "kind", "status"], self._slo
        )
        yield _family("paretoproxy_errors", "Requests that got an error", ["outcome", "code"], self._errors)
        yield _family("paretoproxy_completion_tokens", "Generated, losers included", ["backend"], self._tokens)
        yield _family("paretoproxy_prompt_tokens", "Of prompts, per branch", ["backend"], self._prompt_tokens)
        ledger = ["model", "ledger"]
        yield _family("paretoproxy_request_gpu_seconds", "GPU time of requests", ledger, self._gpu_seconds)
        yield _family("paretoproxy_request_cost_usd", "Where the price is known", ledger, self._usd)
        yield _family("paretoproxy_requests_unpriced", "Requests without a known price", ledger, self._unpriced)
        requests = (self._ttft, self._tpot, self._decision)
        for histogram in (*requests, self._branch_s, self._branch_first_s, self._branch_token_s, self._branch_tokens):
            yield histogram.family()


def _answer_tokens(trace: Trace) -> int:
    """Of the answer that the client was given: the winner's, or what was passed through."""
    winners = trace.selection.get("winners") or [len(trace.branches) - 1]
    answer = trace.branches[winners[0]] if trace.branches else None
    return answer.completion_tokens if answer is not None and answer.outcome in FINISHED else 0


Counts = dict[tuple[str, ...], float]


def _add(counts: Counts, key: tuple[str, ...], by: float = 1) -> None:
    counts[key] = counts.get(key, 0) + by


def _family(name: str, documentation: str, labels: list[str], counts: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in list(counts.items()):
        family.add_metric(list(values), count)
    return family
