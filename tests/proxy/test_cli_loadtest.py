"""`paretoproxy loadtest` against a whole proxy: its runs here in the test's loop, the command in its own process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from http_rig import Fleet
from scripted_backend import says, stalls, until

from profiler.loadtest import LoadTestError, table
from profiler.loadtest.report_file import GeneratorLate
from profiler.loadtest.workload import load
from proxy.cli.loadtest import Terminal, command, print_report
from proxy.load_callers import Unreachable
from proxy.load_job import LoadJob
from proxy.load_target import Server

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
CLASSES = [
    {"name": "voted", "share": 1, "slo": {"latency_ms": 5000}, "tts": {"strategy": "self-consistency", "n": 2}},
    {"name": "plain", "share": 1, "stream": 0.5, "slo": {"latency_ms": 5000}},
]
PLAIN = [{"name": "plain", "slo": {"latency_ms": 20_000}, "tts": {"strategy": "none"}}]


def workload(folder: Path, **members: Any) -> Path:
    path = folder / "load.yaml"
    arrivals = {"process": "poisson", "rate": 100, "for_s": 0.3}
    # A machine that runs tests is busy: lateness is no subject here, unless a test makes it one.
    said = {"arrivals": arrivals, "task": "tinymath-held-out", "classes": CLASSES, "max_late_ms": 5000, **members}
    path.write_text(yaml.safe_dump(said))
    return path


def job(url: str, folder: Path, name: str = "out", **members: Any) -> LoadJob:
    told = load(workload(folder, **members))
    server = Server(url, model=told.model or "", timeout_s=told.timeout_s)
    return LoadJob(server, told, folder / name, Terminal())


def constant(rate: float, for_s: float) -> dict[str, Any]:
    return {"process": "constant", "rate": rate, "for_s": for_s}


async def test_a_run_leaves_a_page_a_summary_and_every_request(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, proxy = await fleet.one()
    print_report(await job(proxy.url, tmp_path).once())
    text = capsys.readouterr().out
    assert "attainment" in text and "voted" in text and "plain" in text
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert summary["model"] == "m" and summary["overall"]["sent"] == len(rows) > 10
    voted, plain = summary["classes"]
    assert voted["attainment"]["value"] == plain["attainment"]["value"] == 1
    assert voted["strategies"] == {"self-consistency": voted["sent"]}
    assert voted["attributed"]["known"] == voted["exclusive"]["known"] == voted["sent"]
    assert plain["ttft_ms"] is not None and voted["ttft_ms"] is None
    assert summary["overall"]["accuracy"]["total"] == len(rows)
    assert "<th>voted</th>" in (tmp_path / "out/report.html").read_text()
    assert all("text" not in row for row in rows)


async def test_a_generator_that_is_late_reports_nothing_and_says_what_to_change(fleet: Fleet, tmp_path: Path) -> None:
    _, proxy = await fleet.one()
    with pytest.raises(GeneratorLate, match=r"the generator did not keep its schedule.*Lower the rate"):
        await job(proxy.url, tmp_path, max_late_ms=1e-6).once()
    assert not (tmp_path / "out/summary.json").exists() and (tmp_path / "out/rows.jsonl").exists()


async def test_find_max_tells_each_probe(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An SLO that nothing can attain: the rate is halved until there is nothing left to halve."""
    _, proxy = await fleet.one()
    hopeless = [{"name": "hopeless", "slo": {"latency_ms": 0.001}, "tts": {"strategy": "none"}}]
    report = await job(proxy.url, tmp_path, classes=hopeless, arrivals=constant(320, 1)).search(0.05, 0.95, 0.5)
    assert capsys.readouterr().out.count("sustained no") >= 5
    assert report.found_max is not None and report.found_max.rate_per_s is None
    assert [probe.rate_per_s for probe in report.found_max.probes][:3] == [320, 160, 80]
    assert json.loads((tmp_path / "out/summary.json").read_text())["found_max"]["rate_per_s"] is None


async def test_a_stopped_search_reports_the_best_so_far(fleet: Fleet, tmp_path: Path) -> None:
    backend, proxy = await fleet.one()
    searching = job(proxy.url, tmp_path, classes=PLAIN, arrivals=constant(10, 1))
    running = asyncio.create_task(searching.search(0.5, 0.95, 0.05))
    await until(lambda: len(backend.generations) >= 5, LIMIT_S)  # the first probe is sent
    backend.otherwise = stalls()
    await until(lambda: len(backend.generations) >= 8, LIMIT_S)  # the second runs, and would not end
    searching.stop.set()
    report = await running
    assert report.found_max is not None and report.overall.sent == 5
    found = table.found(report.found_max)
    assert found.startswith("At least 10 requests/s attain 95% of the SLOs; the search ended there")


async def test_two_runs_are_compared(fleet: Fleet, tmp_path: Path) -> None:
    backend, proxy = await fleet.one()
    for name, url in (("through", proxy.url), ("direct", backend.url)):
        await job(url, tmp_path, name).once()
    folders = [str(tmp_path / name) for name in ("direct", "through", "both")]
    result = CliRunner().invoke(command, ["--compare", *folders[:2], "--out", folders[2]])
    assert result.exit_code == 0, result.output
    header, _, *rows = result.output.splitlines()
    assert header.startswith("|  | direct: voted | through: voted | direct: plain |")
    cost = next(row for row in rows if row.startswith("| attributed cost per request |"))
    assert cost.split(" | ")[1] == "–" and cost.split(" | ")[2].startswith("$")
    assert "through: plain" in (tmp_path / "both/report.html").read_text()


async def test_ctrl_c_reports_on_what_was_measured(fleet: Fleet, tmp_path: Path) -> None:
    backend, proxy = await fleet.one()
    backend.will(*[says("\\boxed{4}")] * 8)
    backend.otherwise = stalls()
    path = workload(tmp_path, classes=PLAIN, arrivals=constant(20, 600))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli", "loadtest", "--url", proxy.url, "--workload", path),
        *("--out", tmp_path / "out"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PATH": ""},
    )
    await until(lambda: len(backend.generations) >= 12, LIMIT_S)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        text, error = await process.communicate()
    assert process.returncode == 0, error
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["overall"]["answered"] == 8
    assert summary["unfinished"] >= 4 and summary["unsent"] > 11_000
    assert "Interrupted after" in text.decode()


async def test_nobody_there(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no server answers at"):
        await job(fleet.refusing().url, tmp_path).once()


def test_it_asks_for_what_it_needs(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2 and "give --workload with either --url or --config, or --compare" in result.output
    result = CliRunner().invoke(command, ["--compare", str(tmp_path), str(tmp_path)])
    assert isinstance(result.exception, LoadTestError) and "is no folder of a load test" in str(result.exception)


async def test_find_max_cannot_replay(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("at_s,prompt_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(LoadTestError, match="cannot replay a trace"):
        await job("http://x", tmp_path, arrivals={"trace": "t.csv"}).search(1, 0.95, 0.05)


SIMULATED = str(ROOT / "examples/simulated-fleet.yaml")


def test_without_a_server_a_fleet_is_simulated_in_virtual_time(tmp_path: Path) -> None:
    arrivals = {"process": "poisson", "rate": 20, "for_s": 10}
    path = workload(tmp_path, task="tinymath", arrivals=arrivals, model="tinymath")
    result = CliRunner().invoke(
        command, ["--config", SIMULATED, "--workload", str(path), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "attainment" in result.output and "report.html" in result.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["url"] == f"virtual time: {SIMULATED}" and summary["model"] == "tinymath"
    assert summary["overall"]["sent"] > 150 and summary["late"]["p99_ms"] == pytest.approx(0, abs=1e-6)
    assert summary["overall"]["accuracy"]["total"] == summary["overall"]["sent"]
    assert "<th>voted</th>" in (tmp_path / "out/report.html").read_text()


def test_a_simulated_fleet_has_a_highest_rate_too(tmp_path: Path) -> None:
    classes = [{"name": "voted", "slo": {"latency_ms": 400}, "tts": {"strategy": "self-consistency", "n": 16}}]
    path = workload(tmp_path, task="tinymath", classes=classes, arrivals=constant(100, 5), model="tinymath-m")
    out = tmp_path / "out"
    told = ["--config", SIMULATED, "--workload", str(path), "--out", str(out)]
    result = CliRunner().invoke(command, [*told, "--find-max", "--probe-seconds", "2", "--resolution", "0.5"])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "summary.json").read_text())["found_max"]
    assert found["rate_per_s"] is not None and found["too_much_per_s"] > found["rate_per_s"]


def test_what_is_not_simulated_is_said(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "examples/simulated-fleet.yaml").read_text())
    config["admission"] = {"max_in_flight": 4}
    for model in config["models"]:
        for backend in model.get("backends", []):
            backend["profile"] = str(ROOT / "examples" / backend["profile"])
        model.pop("quality", None)
        model.pop("tokenizer", None)
    scorer = {"name": "judge-of-steps", "kind": "process", "url": "http://127.0.0.1:9999", "model": "prm"}
    config["models"][1]["reward_model"] = [scorer]
    fleet_path = tmp_path / "fleet.yaml"
    fleet_path.write_text(yaml.safe_dump(config))
    path = workload(tmp_path, task="tinymath", model="tinymath", arrivals=constant(40, 2))
    result = CliRunner().invoke(
        command, ["--config", str(fleet_path), "--workload", str(path), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "tinymath-m has no quality table: its questions and answers are invented" in result.output
    assert "no plan uses judge-of-steps" in result.output
    assert "admission.max_in_flight" in result.output
    notes = json.loads((tmp_path / "out/summary.json").read_text())["notes"]
    assert len(notes) == 4 and all(note in (tmp_path / "out/report.html").read_text() for note in notes[-1:])


def test_a_model_that_the_file_does_not_have(tmp_path: Path) -> None:
    told = ["--config", SIMULATED, "--workload", str(workload(tmp_path, task="tinymath")), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(command, [*told, "--model", "nobody"])
    assert isinstance(result.exception, LoadTestError)
    assert "--model: The model `nobody` does not exist. This proxy serves: tinymath," in str(result.exception)


@pytest.mark.parametrize(
    "told",
    [["--config", "fleet.yaml"], ["--workload", "w.yaml"], ["--url", "http://x", "--config", "y", "--workload", "z"]],
)
def test_a_load_test_is_of_a_server_or_of_a_configuration(told: list[str]) -> None:
    result = CliRunner().invoke(command, told)
    assert result.exit_code == 2 and "give --workload with either --url or --config" in result.output
