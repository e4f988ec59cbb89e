"""The page: every class, every figure, and nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from loadtest_parts import Answers, OneAtATime, workload
from virtual_time import run_virtually

from profiler.loadtest import page
from profiler.loadtest.find_max import FoundMax, Probe
from profiler.loadtest.plots import Run
from profiler.loadtest.report_file import report
from profiler.loadtest.result import Caller
from profiler.loadtest.run import run
from profiler.loadtest.schedule import schedule
from profiler.loadtest.statistics import share

CLASSES = [
    {"name": "quick & <short>", "share": 1, "slo": {"latency_ms": 300}},
    {"name": "patient", "share": 1, "slo": {"latency_ms": 5000}},
    {"name": "any", "share": 1},
]


def measured(label: str = "", caller: Caller | None = None, **members: object) -> Run:
    load = workload(classes=CLASSES, **members)
    planned = schedule(load)
    ran = run_virtually(run(planned, caller or Answers()))
    for one in ran.results:
        one.cost_usd = 0.001 * (1 + one.index % 3)
    return Run(label, report(load, planned, ran, url="http://127.0.0.1:1", model="m", started_at=0), ran.results)


class Tags(HTMLParser):
    """Collects what a browser would load, and checks that tags are closed."""

    VOID = frozenset({"meta", "line", "circle", "polyline", "polygon", "link", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID or tag == "polyline":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID and tag != "polyline":
            return
        assert self.open.pop() == tag


def read(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


def test_the_page_has_every_class_and_every_plot() -> None:
    one = measured()
    html = page.render(one.report, one.results)
    read(html)
    for name in ("quick &amp; &lt;short&gt;", "patient", "any"):
        assert f"<th>{name}</th>" in html
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert [title.split(",")[0] for title in titles] == [
        "Attainment over time",
        "Goodput against what was offered",
        "Latency per class",
        "Cost per class",
    ]
    assert html.count("<svg viewBox") == 4
    assert "100.0% (" in html


def test_the_page_loads_nothing() -> None:
    one = measured()
    html = page.render(one.report, one.results)
    tags = read(html)
    assert tags.loads == [] and not {"script", "link", "img", "iframe"} & set(tags.names)
    assert "@import" not in html and "url(" not in html
    assert set(re.findall(r"https?://[^\s<\"]+", html)) == {"http://127.0.0.1:1,"}  # the server's name, as text
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html


def test_the_slo_of_each_class_is_on_the_latency_plot() -> None:
    one = measured()
    html = page.render(one.report, one.results)
    assert "quick &amp; &lt;short&gt;: SLO 300 ms" in html and "patient: SLO 5000 ms" in html


def test_a_run_that_was_stopped_says_so() -> None:
    one = measured()
    stopped = one.report.__class__(**{**_fields(one.report), "unsent": 3, "unfinished": 2})
    assert "3 requests were not sent" in page.render(stopped, one.results)


def _fields(found: object) -> dict[str, object]:
    return {name: getattr(found, name) for name in found.__struct_fields__}  # type: ignore[attr-defined]


def test_probes_of_the_search_are_listed() -> None:
    one = measured()
    attained, missed = share(99, 100), share(50, 100)
    assert attained and missed
    probes = [Probe(4, attained, 4, 80.0, True), Probe(8, missed, 4, 900.0)]
    searched = one.report.__class__(**{**_fields(one.report), "found_max": FoundMax(0.95, 0.05, 4, 8, probes)})
    html = page.render(searched, one.results)
    assert "4 requests/s is the highest rate tried that attains 95% of the SLOs; 8/s is too much." in html
    assert "Rates probed" in html and "Goodput at each rate probed" in html


def test_two_runs_side_by_side() -> None:
    a, b = measured("before"), measured("after", OneAtATime(0.11))
    text = page.comparison([a, b])
    header, rule, *rows = text.splitlines()
    assert header == (
        "|  | before: quick & <short> | after: quick & <short> | before: patient | after: patient | before: any | "
        "after: any | before: all | after: all |"
    )
    assert rule == "|" + "---|" * 9
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in rows}
    assert cells["latency p50"][0] == "100 ms" and cells["latency p50"][1] != "100 ms"
    assert cells["attainment"][0].startswith("100.0%") and not cells["attainment"][1].startswith("100.0%")
    assert "TTFT p50 / p95 / p99" not in cells  # nobody knows it: no line
    html = page.render_comparison([a, b])
    read(html)
    assert "before: patient" in html and "after: patient" in html and 'stroke-dasharray="6 4"' in html


@pytest.mark.parametrize("seconds", [0.2, 3000])
def test_very_short_and_very_long_runs_can_be_drawn(seconds: float) -> None:
    one = measured(arrivals={"process": "constant", "rate": 10 if seconds < 1 else 0.1, "for_s": seconds})
    assert "nan" not in page.render(one.report, one.results).replace("finance", "")


def test_the_page_is_packaged() -> None:
    assert (Path(page.__file__).parent / "page.html.jinja").exists()
