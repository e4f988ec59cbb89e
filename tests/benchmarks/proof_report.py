"""docs/proof.md: the bars, the policies, the ablations, and the figures, all from the runs' rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import proof_fleet as fleets
from proof_figures import Series, figure
from proof_measures import (
    ACCURACY_BAR,
    ATTAINMENT_BAR,
    CLAIRVOYANT_BAR,
    EQUAL_ACCURACY,
    EQUAL_GOODPUT,
    GOODPUT_BAR,
    LIMIT_MS,
    Bars,
    Measured,
    bars,
    good,
    mean,
    measure,
    rivals_of,
)
from proof_run import ABLATIONS, BY_DEADLINE, CLAIRVOYANT, FIXED, PARETOPROXY, SLO_AWARE, Ran

Runs = Mapping[tuple[str, str, int], Ran]  # by policy, arrivals, seed
BUCKET_S = 5.0


@dataclass(slots=True)
class Page:
    text: str
    figures: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        (folder / "proof.md").write_text(self.text, encoding="utf-8")
        for name, svg in self.figures.items():
            (folder / name).write_text(svg, encoding="utf-8")


def page(
    runs: Runs,
    load: fleets.Load,
    processes: Sequence[str],
    swept: Mapping[float, Mapping[str, Sequence[Measured]]] | None = None,
) -> Page:
    """`swept`: by high level of the load and policy, the runs of all seeds."""
    measured = {
        process: {p: measure(ran) for (p, own, seed), ran in runs.items() if (own, seed) == (process, 1)}
        for process in processes
    }
    parts = [_wrapped(_HEAD.format(requests=_requests(runs, processes), **_setting(load))), _fleet_table()]
    found = {process: bars(measured[process]) for process in processes}
    parts += [
        "## The bars",
        _bars_table(found, measured),
        *(_wrapped(_verdict(p, found[p], measured[p])) for p in processes),
    ]
    if any(seed > 1 for _, _, seed in runs):  # the whole proof
        parts += ["## How it depends on the load", _sweep_table(swept or {}), _notes()]
        parts += ["## Other seeds", _seeds_table(runs)]
    figures = {}
    for process in processes:
        parts.append(f"## {process.capitalize()} arrivals")
        figures[f"proof-{process}.svg"] = _scatter(process, measured[process])
        figures[f"proof-{process}-time.svg"] = _over_time(process, runs, found[process], load)
        parts.append(
            f"![Accuracy over goodput](proof-{process}.svg)\n\n![Right answers in time](proof-{process}-time.svg)\n\n"
            "(`make proof`)"
        )
        parts.append(_policies_table(measured[process], found[process]))
        parts += ["### Attainment by class", _class_table(measured[process])]
        parts += ["### Without one ingredient", _policies_table(measured[process], None, (PARETOPROXY, *ABLATIONS))]
        parts += ["### Every fixed policy", _policies_table(measured[process], None, _fixed(measured[process]))]
    return Page("\n\n".join(parts) + "\n", figures)


def _wrapped(text: str) -> str:
    """Tables and lists stay as they are."""
    return "\n\n".join(
        paragraph
        if paragraph.startswith(("| ", "- "))
        else textwrap.fill(" ".join(paragraph.split()), 120, break_on_hyphens=False)
        for paragraph in text.split("\n\n")
    )


def _requests(runs: Runs, processes: Sequence[str]) -> str:
    return " and ".join(f"{len(runs[PARETOPROXY, process, 1].rows):,} ({process})" for process in processes)


def _setting(load: fleets.Load) -> dict[str, str]:
    classes = "; ".join(
        f"**{one.name}** ({one.share:.0%}): {LIMIT_MS[one.name] / 1e3:.0f} s"
        + (f", quality {one.slo.quality}" if one.slo.quality else "")
        + (f", objective {one.slo.objective}" if one.slo.objective else "")
        for one in fleets.CLASSES
    )
    return {
        "classes": classes,
        "low": f"{load.low:g}",
        "high": f"{load.high:g}",
        "low_s": f"{load.low_s:g}",
        "high_s": f"{load.high_s:g}",
        "cv": f"{fleets.PROCESSES['bursty']:g}",
        "factor": f"{fleets.LENGTH_FACTOR}",
        "seats": f"{fleets.MAX_NUM_SEQS}",
        "batched": f"{fleets.MAX_NUM_BATCHED_TOKENS:,}",
        "fixed": f"{len(FIXED)}",
        "settings": ", ".join(dict.fromkeys(name.split(" ")[2] for name in FIXED)),
        "accuracy_slack": f"{EQUAL_ACCURACY * 100:g} point",
        "goodput_slack": f"{1 - EQUAL_GOODPUT:.0%}",
    }


_HEAD = """# The proof

Made by `make proof` (`tests/benchmarks/proof.py`), in virtual time; every number below is from that run, and the
same seed gives the same numbers. `make proof ARGS=--quick` is a smoke run, `ARGS=--again` ignores what is cached
below `build/proof`.

**What runs.** The whole proxy (parsing, planning, strategies, deadlines, metering) over simulated engines
(`profiler/simulation`). A policy replaces the planner and nothing else. All policies get the same {requests}
requests at the same times, and branch i of request r draws the same stored sample of a model whoever asks.

**Workload.** {low} requests/s for {low_s} s, then a step to {high} requests/s for {high_s} s; Poisson, and bursty
(gamma gaps, coefficient of variation {cv}). Three classes with a latency SLO: {classes}.

**Models.** Large and small answer with the stored samples of tinymath-m and tinymath-s (64 a question, 200
questions); lengths are multiplied by {factor}, so that a large model takes seconds. Engines are timed by the
shipped H200 profiles of Qwen3-8B and Qwen3-1.7B; `max-num-seqs` is {seats} and `max-num-batched-tokens` {batched} on
each. Where a tensor-parallel degree was modelled and not measured, the engine truly is off its profile by the factor
below, drawn once from the profile's residual; the service is not told. All move by their measured residual in phases
of 10 s.

**Words.** *Goodput*: requests per second answered within their latency SLO by a vote with at least one branch that
had ended. *Accuracy*: right answers of all that were answered. *Feasible*: predicted, when the plan was chosen, to
meet every demand. *Fixed policy*: one of {fixed}: engines (large, small, any) × routing (round-robin, least-loaded,
prefix-affine with bounded load) × strategy and N ({settings}). Fixed policies run with this proxy's deadlines, which
end a request in time and free its engine; an operator's client timeout would at best do as well, so this favours them.
Engines schedule by priority; fixed policies give none, and those marked *by deadline* the ones that this proxy gives.
*At equal accuracy*: fixed policies at most {accuracy_slack} less accurate; *at equal goodput*: at most
{goodput_slack} less goodput; both in their favour, too."""


def _fleet_table() -> str:
    rows = []
    for kind in fleets.ENGINES:
        speculation = "n-gram" if "ngram" in kind.name else "none"
        modelled = "modelled" if "modelled" in kind.profile else "measured"
        rows.append([kind.name, kind.model, str(kind.gpus), speculation, modelled, f"{fleets.true_factor(kind):.2f}"])
    return _table(["engine", "model", "TP", "speculation", "profile", "true time / profile"], rows)


def _bars_table(found: Mapping[str, Bars], measured: Mapping[str, Mapping[str, Measured]]) -> str:
    rows = []
    for process, one in found.items():
        ours = measured[process][PARETOPROXY]
        tags = {True: "met", False: "**missed**"}
        ratio, gain = one.goodput_ratio >= GOODPUT_BAR, one.accuracy_gain >= ACCURACY_BAR
        rows += [
            [process, f"goodput at equal accuracy, at least {GOODPUT_BAR:g}×",
             f"{one.goodput_ratio:.2f}×", tags[ratio]],
            [process, f"or accuracy at equal goodput, at least {ACCURACY_BAR * 100:g} points",
             f"{one.accuracy_gain * 100:+.1f}", tags[gain]],
            [process, f"attainment of feasible requests in every class, at least {ATTAINMENT_BAR:.0%}",
             ", ".join(f"{name} {share:.1%}" for name, share in ours.of_feasible.items()),
             tags[one.worst_attainment >= ATTAINMENT_BAR]],
            [process, f"of the clairvoyant's goodput, at least {CLAIRVOYANT_BAR:.0%}", f"{one.of_clairvoyant:.1%}",
             tags[one.of_clairvoyant >= CLAIRVOYANT_BAR]],
        ]  # fmt: skip
    return _table(["arrivals", "bar", "measured", ""], rows)


def _verdict(process: str, one: Bars, measured: Mapping[str, Measured]) -> str:
    ours = measured[PARETOPROXY]
    told = [
        f"*{process.capitalize()}*: paretoproxy {ours.goodput:.2f} good requests/s at accuracy {ours.accuracy:.3f} "
        f"(± {ours.error:.3f} at 95%)."
    ]
    for what, name in (("As accurate", one.as_accurate), ("With as much goodput", one.as_good)):
        if name is None:
            told.append(f"{what}: no fixed policy.")
            continue
        rival = measured[name]
        told.append(f"{what}, the best fixed: `{name}`, {rival.goodput:.2f}/s at {rival.accuracy:.3f}.")
    told.append("The bar against fixed policies is " + ("met." if one.beats_fixed else "missed by both measures."))
    return " ".join(told)


def _notes() -> str:
    path = Path(__file__).with_name("proof_notes.md")
    return _wrapped(path.read_text(encoding="utf-8").strip()) if path.exists() else ""


def _fixed(measured: Mapping[str, Measured]) -> list[str]:
    return sorted((name for name in measured if name in FIXED), key=lambda name: -measured[name].right_per_s)


def _policies_table(measured: Mapping[str, Measured], found: Bars | None, names: Iterable[str] | None = None) -> str:
    """Without names: ours, the bound, the routers, and the best fixed ones by every measure."""
    if names is None:
        fixed = _fixed(measured)
        by_goodput = sorted(fixed, key=lambda name: -measured[name].goodput)
        best = [fixed[0], by_goodput[0]]
        if found is not None:
            best += [name for name in (found.as_accurate, found.as_good) if name is not None]
        names = (PARETOPROXY, CLAIRVOYANT, *SLO_AWARE, *BY_DEADLINE, *dict.fromkeys(best))
    rows = []
    for name in names:
        if (one := measured.get(name)) is None:
            continue
        rows.append(
            [
                name,
                f"{one.goodput:.2f}",
                f"{one.goodput_high:.2f}",
                f"{one.accuracy:.3f}",
                f"{one.right_per_s:.2f}",
                f"{min(one.attainment.values()):.1%}",
                f"{one.mean_n:.1f}",
                f"{one.on_large:.0%}",
                f"{one.gpu_s_per_right:.1f}",
            ]
        )
    head = ["policy", "goodput/s", "after the step", "accuracy", "right in time/s", "worst class", "mean N", "on large",
            "GPU-s per right answer"]  # fmt: skip
    return _table(head, rows)


def _class_table(measured: Mapping[str, Measured]) -> str:
    rows = []
    for name in (PARETOPROXY, *ABLATIONS, *SLO_AWARE, CLAIRVOYANT):
        if (one := measured.get(name)) is not None:
            rows.append([name, *(f"{one.attainment[c]:.1%} / {_percent(one.of_feasible[c])} / {one.feasible[c]:.0%}"
                                 for c in LIMIT_MS)])  # fmt: skip
    told = "Of all / of those predicted feasible / share predicted feasible.\n\n"
    return told + _table(["policy", *LIMIT_MS], rows)


def _percent(share: float) -> str:
    return "none" if share != share else f"{share:.1%}"


def _seeds_table(runs: Runs) -> str:
    rows = []
    for (policy, process, seed), ran in sorted(runs.items(), key=lambda item: (item[0][1], item[0][2])):
        if any((policy, process, other) not in runs for other in (2, 3)):
            continue
        one = measure(ran)
        feasible = ", ".join(_percent(share) for share in one.of_feasible.values())
        told = feasible if policy == PARETOPROXY else ""
        rows.append([process, str(seed), policy, f"{one.goodput:.2f} of {len(ran.rows) / ran.lasts_s:.2f}",
                     f"{one.accuracy:.3f}", f"{one.right_per_s:.2f}", told])  # fmt: skip
    head = ["arrivals", "seed", "policy", "goodput/s of offered", "accuracy", "right in time/s",
            "of feasible, " + ", ".join(LIMIT_MS)]  # fmt: skip
    return "Other arrivals, questions and samples.\n\n" + _table(head, rows)


def _told(one: Measured) -> str:
    return f"{one.goodput:.2f}, {one.accuracy:.3f}"


def _rival(name: str | None, measured: Mapping[str, Measured]) -> str:
    return "none" if name is None else f"`{name}` {_told(measured[name])}"


def _sweep_table(swept: Mapping[float, Mapping[str, Sequence[Measured]]]) -> str:
    rows = []
    for high, found in swept.items():
        measured = {policy: mean(runs) for policy, runs in found.items()}
        ours = measured[PARETOPROXY]
        as_accurate, as_good = rivals_of(ours, measured)
        points = f"{(ours.accuracy - measured[as_good].accuracy) * 100:+.1f}" if as_good else ""
        times = f"{ours.goodput / measured[as_accurate].goodput:.2f}×" if as_accurate else ""
        rows.append([f"{high:g}", f"{_told(ours)} ± {ours.error:.3f}", _percent(min(ours.of_feasible.values())),
                     _rival(as_good, measured), points, _rival(as_accurate, measured), times])  # fmt: skip
    head = ["high level/s", "paretoproxy: goodput/s, accuracy", "worst class, of feasible",
            "best fixed with as much goodput", "points", "best fixed as accurate", "goodput"]  # fmt: skip
    told = (
        "The same step to other levels, Poisson arrivals, means of three seeds; fixed policies over all engines, "
        "least-loaded and prefix-affine."
    )
    return _wrapped(told) + "\n\n" + _table(head, rows)


def _scatter(process: str, measured: Mapping[str, Measured]) -> str:
    def at(names: Iterable[str]) -> list[tuple[float, float]]:
        return [(measured[name].goodput, measured[name].accuracy) for name in names if name in measured]

    series = [
        Series("fixed policies", at(FIXED), 4),
        Series("SLO-aware router, fixed N", at(SLO_AWARE), 3),
        Series("paretoproxy without one ingredient", at(ABLATIONS), 0),
        Series("paretoproxy", at([PARETOPROXY]), 1, big=True),
        Series("clairvoyant", at([CLAIRVOYANT]), 2, big=True),
    ]
    series = [one for one in series if one.points]
    return figure(f"Accuracy over goodput, {process} arrivals", "goodput, requests/s", "accuracy", series)


def _over_time(process: str, runs: Runs, found: Bars, load: fleets.Load) -> str:
    series = []
    shown = [(PARETOPROXY, 1), (CLAIRVOYANT, 2), (found.as_accurate, 4), (found.as_good, 3)]
    for name, colour in shown:
        if name is None or (name, process, 1) not in runs:
            continue
        rows = runs[name, process, 1].rows
        points = []
        for k in range(round((load.low_s + load.high_s) / BUCKET_S)):
            own = [row for row in rows if k * BUCKET_S <= row.at_s < (k + 1) * BUCKET_S]
            right = sum(good(row) and row.correct for row in own)
            points.append(((k + 0.5) * BUCKET_S, right / BUCKET_S))
        series.append(Series(name, points, colour, joined=True))
    return figure(f"Right answers in time, {process} arrivals", "seconds since the start", "right in time/s", series)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)
