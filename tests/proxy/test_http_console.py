"""The console's routes: public files without data, and the JSON behind them."""

from __future__ import annotations

import asyncio
import re
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_rig import Fleet, RunningProxy, chat, vote
from scripted_backend import until

from profiler.verdict import Agreement, Verdict, agreement_path, write
from proxy import console_frontier
from proxy.console_fleet import FleetReader
from proxy.console_routes import FILES


async def get(proxy: RunningProxy, path: str, **parameters: Any) -> dict[str, Any]:
    answer = await proxy.client.get(f"/console/api/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_page_and_all_its_files_are_here(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    page = await proxy.client.get("/console")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    named = set(re.findall(r'(?:src|href)="console/([^"]+)"', page.text))
    assert {"app.js", "base.css"} <= named
    for name in named | {path.name for path in FILES.iterdir()}:
        answer = await proxy.client.get(f"/console/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = await proxy.client.get(f"/console/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["..%2fapp.py", "%2e%2e/app.py", "none.js", "api", "../config.py", "__init__.py"])
async def test_nothing_else_is_served(fleet: Fleet, path: str) -> None:
    _, proxy = await fleet.one()

    assert (await proxy.client.get(httpx.URL(f"{proxy.url}/console/{path}"))).status_code == 404


async def test_a_slash_at_the_end_leads_to_the_page(fleet: Fleet) -> None:
    """The address stays relative: a gateway may have put the proxy below a path of its own."""
    _, proxy = await fleet.one()

    assert (await proxy.client.get("/console/")).headers["location"] == "../console"


def test_the_files_name_no_other_server_and_have_nothing_inline() -> None:
    for path in FILES.iterdir():
        text = path.read_text()
        addresses = [url for url in re.findall(r"https?://[^\s\"')]+", text) if "www.w3.org" not in url]
        assert addresses == [], path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path.name
    page = (FILES / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", page)


async def test_data_needs_a_key_where_there_are_keys_and_files_do_not(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("[right]")
    _, proxy = await fleet.one(server={"api_keys": "keys.yaml"})

    assert (await proxy.client.get("/console")).status_code == 200
    for path in ("fleet", "frontier?model=m", "requests", "requests/1"):
        refused = await proxy.client.get(f"/console/api/{path}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    known = await proxy.client.get("/console/api/fleet", headers={"authorization": "Bearer right"})
    assert (known.status_code, known.headers["cache-control"]) == (200, "no-store")


async def test_the_fleet_as_it_is_now(fleet: Fleet) -> None:
    a, b, proxy = await fleet.two()
    a.metrics["num_requests_running"], a.metrics["kv_cache_usage_perc"] = 3, 0.25
    del b.metrics["num_requests_waiting"]
    await proxy.sees_load("a", 3)
    await until(lambda: proxy.service.catalog.backends[1].metric_missing is not None)

    view = await get(proxy, "fleet")

    assert (view["models"][0]["name"], view["models"][0]["tasks"], view["percentile"]) == ("m", ["math"], 0.95)
    of_a, of_b = view["backends"]
    assert (of_a["name"], of_a["serving"], of_a["others"], of_a["in_flight"]) == ("a", True, 3.0, 0)
    assert (of_a["kv_usage"], of_a["seats"], of_a["gpu_hour_usd"]) == (0.25, 256, a.usd_per_hour)
    assert of_a["profile"]["kind"] == "assumed" and of_a["profile"]["age_days"] is None
    assert (of_b["others"], of_b["waiting"], of_b["metric_missing"]) == (None, None, "vllm:num_requests_waiting")


async def test_calibration_counts_what_ended_inside_its_quantiles(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    for _ in range(3):
        await proxy.ask(x_slo_latency_ms="60000")

    of_a = (await get(proxy, "fleet"))["backends"][0]

    assert of_a["seen"] == 3
    assert [inside["quantile"] for inside in of_a["inside"]] == [0.5, 0.9, 0.95]
    assert all(0 <= inside["within"] <= inside["known"] <= 3 for inside in of_a["inside"])


async def test_a_backend_whose_answers_differ_says_why(fleet: Fleet, tmp_path: Path) -> None:
    """The reason and the day stand in the agreement file beside the profile."""
    _, proxy = await fleet.one()
    backend = proxy.service.catalog.backends[0]
    reason = "right less often than the table"
    found = Verdict("sampled", "differs", 60, 0.4, 0.6, (-0.3, -0.1), 1.0, reason, "2026-11-20")
    write(Agreement("a", "m", "math", [found]), agreement_path(tmp_path / "a.json"))
    backend.config = backend.config.model_copy(update={"profile": tmp_path / "a.json"})
    backend.disagrees = frozenset({"sampled"})

    (told,) = (await get(proxy, "fleet"))["backends"]

    assert told["unfit"] == [{"setting": "sampled", "reason": f"{reason} (2026-11-20)"}]


async def test_what_has_not_changed_is_not_sent_again(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    await proxy.probed()
    first = await proxy.client.get("/console/api/fleet")

    again = await proxy.client.get("/console/api/fleet", headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


async def test_one_reading_of_the_fleet_serves_all_who_look(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    now = [100.0]
    reader = FleetReader(lambda: now[0], lambda: date(2026, 11, 26))

    first = await reader.body(proxy.service)
    proxy.service.catalog.backends[0].health.serving = False

    assert await reader.body(proxy.service) is first
    now[0] += 1
    assert b'"serving":false' in await reader.body(proxy.service)
    proxy.service.catalog.backends[0].health.serving = True


async def test_the_frontier_is_what_the_plan_route_says(fleet: Fleet) -> None:
    a, b, proxy = await fleet.two()

    view = await get(proxy, "frontier", model="m", latency_ms=60_000, quality=0.65)
    plan = (await proxy.ask(path="/v1/plan", x_slo_latency_ms="60000", x_slo_quality="0.65")).json()

    columns, best = view["columns"], plan["candidates"][0]
    chosen = view["chosen"]
    setting = view["settings"][columns["setting"][chosen]]
    assert (setting["strategy"], setting["params"], setting["n"]) == (best["strategy"], best["params"], best["n"])
    assert view["backends"][columns["backend"][chosen]] == best["backend"]
    assert columns["latency_ms"][chosen] == pytest.approx(best["predicted"]["latency_ms"], rel=1e-2)
    assert columns["accuracy"][chosen] == pytest.approx(best["predicted"]["accuracy"], abs=1e-4)
    assert columns["cost_usd"][chosen] == pytest.approx(best["predicted"]["cost_usd"], rel=1e-2)
    assert (view["considered"], view["dropped"]) == (plan["considered"], plan["dropped"])
    over = [[limit for bit, limit in enumerate(view["limits"]) if bits >> bit & 1] for bits in columns["over"]]
    assert sorted(over) == sorted(candidate["dropped_by"] for candidate in plan["candidates"])
    assert view["feasible"] and view["total"] == len(over) == len(plan["candidates"])
    assert a.generations == b.generations == []


async def test_a_backend_that_is_down_is_no_candidate_and_why_is_said(fleet: Fleet) -> None:
    a, _, proxy = await fleet.two()
    a.healthy = False
    await until(lambda: not proxy.service.catalog.backends[0].health.serving)

    view = await get(proxy, "frontier", model="m")

    assert view["left_out"] == {"a": "unhealthy: /health answered 503"}
    assert {view["backends"][index] for index in view["columns"]["backend"]} == {"b"}


async def test_where_nothing_can_run_there_is_no_choice(fleet: Fleet) -> None:
    a, proxy = await fleet.one()
    a.healthy = False
    await until(lambda: not proxy.service.catalog.backends[0].health.serving)

    view = await get(proxy, "frontier", model="m", latency_ms=100)

    assert (view["chosen"], view["total"], view["feasible"], view["columns"]["over"]) == (None, 0, False, [])


async def test_of_very_many_candidates_the_best_and_the_choice_are_drawn(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, proxy = await fleet.two()
    whole = await get(proxy, "frontier", model="m")
    monkeypatch.setattr(console_frontier, "MOST_POINTS", 6)

    view = await get(proxy, "frontier", model="m")

    columns = view["columns"]
    assert len(columns["over"]) <= 6 < view["total"]
    assert max(columns["accuracy"]) == max(whole["columns"]["accuracy"])
    assert columns["accuracy"][view["chosen"]] == whole["columns"]["accuracy"][whole["chosen"]]


@pytest.mark.parametrize(
    ("parameters", "status", "named"),
    [
        ({}, 400, "model"),
        ({"model": "gpt-4"}, 404, "model"),
        ({"model": "m", "latency_ms": -1}, 400, "slo.latency_ms"),
        ({"model": "m", "objective": "beauty"}, 400, "slo.objective"),
        ({"model": "m", "quality": 2}, 400, "slo.quality"),
        ({"model": "m", "task": "chess"}, 400, "x-tts-task"),
        ({"model": "m", "prompt_tokens": 0}, 400, "prompt_tokens"),
        ({"model": "m", "latency_ms": "nan"}, 400, "latency_ms"),
    ],
)
async def test_a_bad_demand_is_named(fleet: Fleet, parameters: dict[str, Any], status: int, named: str) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.client.get("/console/api/frontier", params=parameters)

    assert (answer.status_code, answer.json()["error"]["param"]) == (status, named)


async def stored(proxy: RunningProxy, count: int) -> None:
    await until(lambda: proxy.service.traces.written == count)


async def test_requests_come_page_by_page_and_then_only_new_ones(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    for _ in range(5):
        await proxy.ask()
    await stored(proxy, 5)

    newest = await get(proxy, "requests", limit=2)
    older = await get(proxy, "requests", limit=2, before=newest["data"][-1]["number"])
    oldest = await get(proxy, "requests", limit=2, before=older["data"][-1]["number"])

    pages = [newest, older, oldest]
    numbers = [row["number"] for page in pages for row in page["data"]]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 5
    assert [page["more"] for page in pages] == [True, True, False]
    assert (await get(proxy, "requests", after=numbers[0]))["data"] == []
    await proxy.ask(vote(2))
    await stored(proxy, 6)
    (new,) = (await get(proxy, "requests", after=numbers[0]))["data"]
    assert (new["strategy"], new["n"], new["branches"]) == ("self-consistency", 2, {"completed": 2})


async def test_requests_are_filtered_and_unknown_costs_have_a_reason(fleet: Fleet) -> None:
    _, proxy = await fleet.one()
    await proxy.ask()
    await proxy.ask(chat(model="<b>gpt-4</b>"))
    await stored(proxy, 2)

    (refused,) = (await get(proxy, "requests", outcome="refused"))["data"]
    (answered,) = (await get(proxy, "requests", model="m"))["data"]

    assert (refused["model"], refused["status"], refused["strategy"]) == ("<b>gpt-4</b>", 404, None)
    assert (refused["cost_usd"], refused["cost_reason"]) == (None, "nothing was run")
    assert answered["cost_usd"] > 0 and answered["cost_reason"] is None
    assert (await get(proxy, "requests", id=answered["id"]))["data"] == [answered]


async def test_a_request_by_its_number_though_ids_repeat(fleet: Fleet) -> None:
    """A client's own trace may hold several requests: they share its id."""
    _, proxy = await fleet.one()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    for n in (2, 3):
        await proxy.ask(vote(n), traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    await stored(proxy, 2)

    rows = (await get(proxy, "requests", id=trace_id))["data"]
    traces = [await get(proxy, f"requests/{row['number']}") for row in rows]

    assert [len(trace["branches"]) for trace in traces] == [3, 2]
    assert all(trace["ledgers"]["billed"]["reason"] for trace in traces)


async def test_an_unknown_number(fleet: Fleet) -> None:
    _, proxy = await fleet.one()

    answer = await proxy.client.get("/console/api/requests/99")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "trace_not_found")
    for number in ("-1", "many", str(2**70)):
        answer = await proxy.client.get(f"/console/api/requests/{number}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "number")


async def test_many_consoles_at_once_are_all_answered(fleet: Fleet) -> None:
    """Two at a time read the store."""
    _, proxy = await fleet.one()
    await proxy.ask()
    await stored(proxy, 1)

    pages = await asyncio.gather(*(get(proxy, "requests") for _ in range(20)))

    assert all(len(page["data"]) == 1 for page in pages)
