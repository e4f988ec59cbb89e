"""`paretoproxy loadtest`, end to end in a process of its own, against a whole proxy."""

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

from profiler.loadtest import LoadTestError
from proxy.cli.loadtest import command

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
CLASSES = [
    {"name": "voted", "share": 1, "slo": {"latency_ms": 5000}, "tts": {"strategy": "self-consistency", "n": 2}},
    {"name": "plain", "share": 1, "stream": 0.5, "slo": {"latency_ms": 5000}},
]


def workload(folder: Path, **members: Any) -> Path:
    path = folder / "load.yaml"
    arrivals = {"process": "poisson", "rate": 40, "for_s": 0.5}
    # A machine that runs tests is busy: lateness is no subject here, unless a test makes it one.
    said = {"arrivals": arrivals, "task": "tinymath-held-out", "classes": CLASSES, "max_late_ms": 5000, **members}
    path.write_text(yaml.safe_dump(said))
    return path


class Started:
    """The command in a process; what it prints is read at its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self) -> tuple[int, str, str]:
        async with asyncio.timeout(LIMIT_S):
            out, error = await self.process.communicate()
        return self.process.returncode or 0, out.decode(), error.decode()


async def start(*arguments: object) -> Started:
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PATH": ""}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy.cli",
        "loadtest",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    return Started(process)


async def test_a_run_leaves_a_table_a_page_a_summary_and_every_request(fleet: Fleet, tmp_path: Path) -> None:
    _, proxy = await fleet.one()
    out = tmp_path / "out"
    code, text, error = await (await start("--url", proxy.url, "--workload", workload(tmp_path), "--out", out)).ended()
    assert code == 0, error
    assert "attainment" in text and "voted" in text and "plain" in text
    summary = json.loads((out / "summary.json").read_text())
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert summary["model"] == "m" and summary["overall"]["sent"] == len(rows) > 10
    voted, plain = summary["classes"]
    assert voted["attainment"]["value"] == plain["attainment"]["value"] == 1
    assert voted["strategies"] == {"self-consistency": voted["sent"]}
    assert voted["attributed"]["known"] == voted["exclusive"]["known"] == voted["sent"]
    assert plain["ttft_ms"] is not None and voted["ttft_ms"] is None
    assert summary["overall"]["accuracy"]["total"] == len(rows)
    assert "<th>voted</th>" in (out / "report.html").read_text()
    assert all("text" not in row for row in rows)


async def test_ctrl_c_reports_on_what_was_measured(fleet: Fleet, tmp_path: Path) -> None:
    backend, proxy = await fleet.one()
    backend.will(*[says("\\boxed{4}")] * 8)
    backend.otherwise = stalls()
    out = tmp_path / "out"
    one = [{"name": "plain", "slo": {"latency_ms": 5000}, "tts": {"strategy": "none"}}]
    path = workload(tmp_path, classes=one, arrivals={"process": "constant", "rate": 20, "for_s": 600})
    started = await start("--url", proxy.url, "--workload", path, "--out", out)
    await until(lambda: len(backend.generations) >= 12, LIMIT_S)
    started.process.send_signal(signal.SIGINT)
    code, text, error = await started.ended()
    assert code == 0, error
    summary = json.loads((out / "summary.json").read_text())
    assert summary["overall"]["answered"] == 8
    assert summary["unfinished"] >= 4 and summary["unsent"] > 11_000
    assert "Interrupted after" in text.replace("\n", " ")


async def test_a_generator_that_is_late_reports_nothing_and_says_what_to_change(fleet: Fleet, tmp_path: Path) -> None:
    _, proxy = await fleet.one()
    out = tmp_path / "out"
    path = workload(tmp_path, max_late_ms=1e-6)
    code, _, error = await (await start("--url", proxy.url, "--workload", path, "--out", out)).ended()
    assert code == 1
    assert "error: the generator did not keep its schedule" in error and "Lower the rate" in error
    assert not (out / "summary.json").exists() and (out / "rows.jsonl").exists()


async def test_find_max_tells_each_probe_and_reports_the_best(fleet: Fleet, tmp_path: Path) -> None:
    """An SLO that nothing can attain: the rate is halved until there is nothing left to halve."""
    _, proxy = await fleet.one()
    out = tmp_path / "out"
    classes = [{"name": "hopeless", "slo": {"latency_ms": 0.001}, "tts": {"strategy": "none"}}]
    path = workload(tmp_path, classes=classes, arrivals={"process": "constant", "rate": 640, "for_s": 1})
    options = ("--find-max", "--probe-seconds", 0.1, "--resolution", 0.5)
    started = await start("--url", proxy.url, "--workload", path, "--out", out, *options)
    await until(lambda: len(proxy.service.catalog.backends) == 1)
    code, text, error = await started.ended()
    assert code == 0, error
    assert text.count("sustained no") >= 5 and "No rate that was tried attains 95% of the SLOs." in text
    found = json.loads((out / "summary.json").read_text())["found_max"]
    assert found["rate_per_s"] is None and [probe["rate_per_s"] for probe in found["probes"]][:3] == [640, 320, 160]


async def test_two_runs_are_compared(fleet: Fleet, tmp_path: Path) -> None:
    backend, proxy = await fleet.one()
    path = workload(tmp_path, arrivals={"process": "constant", "rate": 20, "for_s": 0.3})
    for name, url in (("through", proxy.url), ("direct", backend.url)):
        code, _, error = await (await start("--url", url, "--workload", path, "--out", tmp_path / name)).ended()
        assert code == 0, error
    out = tmp_path / "both"
    compared = ("--compare", tmp_path / "direct", tmp_path / "through", "--out", out)
    code, text, error = await (await start(*compared)).ended()
    assert code == 0, error
    header, _, *rows = text.splitlines()
    assert header.startswith("|  | direct: voted | through: voted | direct: plain |")
    cost = next(row for row in rows if row.startswith("| attributed cost per request |"))
    assert cost.split(" | ")[1] == "–" and cost.split(" | ")[2].startswith("$")
    assert "through: plain" in (out / "report.html").read_text()


async def test_nobody_there_is_one_line(fleet: Fleet, tmp_path: Path) -> None:
    url = fleet.refusing().url
    code, _, error = await (await start("--url", url, "--workload", workload(tmp_path))).ended()
    assert code == 1 and error.startswith(f"error: no server answers at {url}") and len(error.splitlines()) == 1


def test_it_asks_for_what_it_needs(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2 and "give --url and --workload, or --compare" in result.output
    result = CliRunner().invoke(command, ["--compare", str(tmp_path), str(tmp_path)])
    assert isinstance(result.exception, LoadTestError) and "is no folder of a load test" in str(result.exception)


def test_find_max_cannot_replay(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("at_s,prompt_tokens,output_tokens\n0,1,1\n")
    path = workload(tmp_path, arrivals={"trace": "t.csv"})
    with pytest.raises(LoadTestError, match="cannot replay a trace"):
        CliRunner().invoke(
            command, ["--url", "http://x", "--workload", str(path), "--find-max"], catch_exceptions=False
        )
