"""The table of docs/strategies.md: every strategy on real engines, and plain votes beside them that have no help.

    python tests/benchmarks/strategies_table.py --engine-python .venv-vllm/bin/python --out build/table [--first-come]

Starts the engines of the configuration, the outcome verifier once more as a reranker, and two proxies: one as
configured, which the settings of `HELPED` are asked of, and one whose model knows no reward, judge or larger model, for
those of `PLAIN`: elsewhere a reward settles ties. `--first-come` takes the engines' `scheduling-policy` away. Every run
is kept below --out as it is made; the same command goes on where one was cut. Prints the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from bench_fleet import OUT, ROOT, proxy
from reranker_fleet import make_weights, with_a_reranker

from profiler import runs, runs_table
from proxy.config import load
from proxy.launch import Engines, Machine, specs

MODEL, TASK = "tinymath-s", "tinymath-held-out"
HELPED = (
    "none:greedy",
    "self-consistency:n=4,greedy=true",
    "self-consistency:n=8,window=3,confidence=0.8,greedy=true",
    "first-finish:n=8,m=3",
    "weighted-vote:n=8,weight=confidence",
    "weighted-vote:n=8,weight=reward",
    "weighted-vote:n=8,weight=process-reward",
    "best-of-n:n=8,scorer=reward",
    "best-of-n:n=8,scorer=process-reward",
    "best-of-n:n=8,scorer=reranker",
    "best-of-n:n=8,scorer=judge",
    "best-of-n:n=8,scorer=self-certainty",
    "beam-search:n=4,max_steps=24",
    "dvts:n=4,max_steps=24",
    "rebase:n=4,max_steps=24",
    "particle-filter:n=4,max_steps=24",
    "budget-forcing:max_tokens=1536",
    "budget-forcing:waits=2,max_tokens=1536",
    "deep-confidence:n=8,warmup=4,window=32,keep=75",
    "probe-consensus:n=8,every_tokens=96",
    "slim-consistency:n=8,every_tokens=64,delimiter=Wait,warmup_tokens=128",
    "cascade:n=4",
    "universal-consistency:n=8",
    "universal-consistency:n=8,by=judge",
    "self-refine",
    "mixture-of-agents:n=4",
    "recursive-aggregation:n=8",
    "strategy-uniform",
    "auto:latency_ms=2000",
    "auto:latency_ms=6000",
    "auto:quality=0.6,objective=cost",
)
PLAIN = (
    "none",
    "self-consistency:n=4,stop=all",
    "self-consistency:n=8,stop=all",
    "self-consistency:n=8",
    "self-consistency:n=8,stop=esc,window=4",
    "self-consistency:n=16",
    "self-consistency:n=16,window=3,confidence=0.85",
)
HELP = ("reward_model", "embedding_model", "judge", "larger_model")
RERANKER_PORT = 8109


def configured(told: Mapping[str, Any], reranker: Path, folder: Path, *, first_come: bool) -> dict[str, Any]:
    own = json.loads(json.dumps(told))  # what anchors share is each one's own
    made = with_a_reranker(own, reranker, RERANKER_PORT)
    for backend in [one for model in made["models"] for one in model.get("backends", ()) if first_come]:
        backend["launch"]["args"].pop("scheduling-policy", None)
    made["traces"] = {"path": str(folder / "helped.db")}
    return made


def without_help(told: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(told))
    made["models"] = [
        {key: value for key, value in model.items() if key not in HELP}
        for model in made["models"]
        if model["name"] == MODEL
    ]
    made["server"] = made["server"] | {"port": made["server"]["port"] + 1}
    made["traces"] = {"path": str(folder / "plain.db")}
    return made


def written(told: Mapping[str, Any], beside: Path, name: str) -> Path:
    """Beside the original: paths in it are relative."""
    path = beside.with_name(f".table-{name}.yaml")
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return path


async def measured(url: str, settings: Sequence[str], questions: int, parallel: int, out: Path) -> None:
    """Raises RuntimeError where it fails."""
    wanted = [part for setting in settings for part in ("--strategy", setting)]
    options = ["--url", url, "--model", MODEL, "--task", TASK, "--out", str(out)]
    options += ["--questions", str(questions), "--parallel", str(parallel)]
    command = (sys.executable, "-m", "proxy.cli", "measure", *options, *wanted)
    process = await asyncio.create_subprocess_exec(*command)
    try:
        if await process.wait():
            raise RuntimeError(f"failed: {' '.join(command)}")
    finally:
        if process.returncode is None:  # cancelled, for the other one failed
            process.kill()
            await process.wait()


async def run(told: argparse.Namespace) -> None:
    told.out.mkdir(parents=True, exist_ok=True)
    out = told.out.resolve()
    reranker = out / "reranker"
    if not reranker.exists():
        await asyncio.to_thread(make_weights, told.engine_python, reranker)
    original = yaml.safe_load(told.config.read_text())
    helped = configured(original, reranker, out, first_come=told.first_come)
    paths = written(helped, told.config, "helped"), written(without_help(helped, out), told.config, "plain")
    configs = [load(path) for path in paths]
    async with Engines(specs(configs[0], told.engine_python, OUT / "logs", Machine.here())) as engines:
        await engines.start(print)
        async with (
            proxy(paths[0], configs[0]) as url,
            proxy(paths[1], configs[1]) as plain_url,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(
                measured(url, told.helped or HELPED, told.questions, told.parallel, out / "helped"),
            )
            group.create_task(
                measured(plain_url, told.plain or PLAIN, told.questions, told.plain_parallel, out / "plain"),
            )
    name = f"{MODEL}.{TASK}.runs.jsonl"
    print(runs_table.markdown([run for kind in ("helped", "plain") for run in runs.read(out / kind / name)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples/gpu-fleet.yaml")
    parser.add_argument("--engine-python", default=str(ROOT / ".venv-vllm/bin/python"))
    parser.add_argument("--out", type=Path, default=OUT / "strategies")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--plain-parallel", type=int, default=8)
    parser.add_argument("--first-come", action="store_true")
    parser.add_argument("--helped", action="append", metavar="SETTING", help="instead of those of the table")
    parser.add_argument("--plain", action="append", metavar="SETTING", help="the same, of the second proxy")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
