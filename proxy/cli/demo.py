"""`paretoproxy demo`: the whole product on this machine, on real engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
import httpx

from proxy.cli.profile import profile_fleet
from proxy.cli.up import stop_event, wait_first
from proxy.config import Config, load
from proxy.launch import Engines, LaunchError, Machine, check_port, engine_python, specs

QUESTION = "Start with 37. Then multiply by 24, subtract 190, take the remainder modulo 100. What is the result?"
ANSWER = 98
SLO_MS = 8000
PROFILE_BUDGET_S = 40.0
PROXY_START_TIMEOUT_S = 60.0


@click.command("demo")
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=Path("examples/demo-fleet.yaml"))
@click.option("--engine-python", help="The Python interpreter that has vLLM; default: this one.")
@click.option("--reprofile", is_flag=True, help="Measure again what was measured before.")
@click.option("--once", is_flag=True, help="Stop everything after the first answer.")
def command(config_path: Path, engine_python: str | None, reprofile: bool, once: bool) -> None:
    """Start real engines with the built-in tiny reasoner, profile them, answer a question, show how to call."""
    config = load(config_path)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_demo(config_path, config, engine_python, reprofile, once))


async def _demo(config_path: Path, config: Config, python: str | None, reprofile: bool, once: bool) -> None:
    stopped = stop_event()
    logs = Path.cwd() / ".demo/logs"
    machine = Machine.here()
    wanted = specs(config, engine_python(python), logs, machine)
    check_port(f"http://{config.server.host}:{config.server.port}", "the proxy")
    _say_what_this_machine_shows(config, machine)
    async with Engines(wanted) as engines:
        story = asyncio.create_task(_story(engines, config_path, config, reprofile, once, logs))
        await wait_first(story, stopped)
        click.echo("\nstopping the proxy and every engine")
    click.echo("all stopped")


async def _story(engines: Engines, config_path: Path, config: Config, reprofile: bool, once: bool, logs: Path) -> None:
    click.echo("\n1/4 starting the engines (a minute or three)")
    await engines.start(lambda line: click.echo(f"    {line}"))
    click.echo("\n2/4 measuring each engine, one at a time")
    for backend in config.backends():
        if backend.name not in engines.names:
            continue
        if backend.profile is not None and backend.profile.exists() and not reprofile:
            click.echo(f"    {backend.name}: measured before ({backend.profile}); --reprofile measures again")
        else:
            await profile_fleet(config, backend.name, budget_s=PROFILE_BUDGET_S)
    click.echo("\n3/4 starting the proxy")
    url = f"http://{config.server.host}:{config.server.port}"
    async with _proxy(config_path, url, logs / "proxy.log"):
        click.echo(f"    the proxy listens on {url}")
        click.echo(f"\n4/4 one question, to be answered within {SLO_MS / 1e3:g} s")
        await _ask(url, config.models[0].name)
        click.echo(_how_to_call(url, config.models[0].name, config_path))
        if once:
            return
        click.echo("Ctrl-C stops the proxy and every engine.")
        failed = await engines.wait_any_exit()
        raise LaunchError(f"engine {failed} ended by itself; see its log in {logs}")


def _say_what_this_machine_shows(config: Config, machine: Machine) -> None:
    where = f"{machine.gpus} GPU" if machine.gpus else f"{len(machine.cores)} cores"
    click.echo(f"The demo fleet: {', '.join(backend.name for backend in config.backends())}, on {where}.")
    for name, reason in machine.left_out(config).items():
        click.echo(f"{name} is left out: {reason}.")
    if contention := machine.contention(config):
        click.echo(contention)
    greedy = [backend.name for backend in config.backends() if backend.sampling == "greedy"]
    if greedy:
        click.echo(
            f"{', '.join(greedy)}: vLLM's CPU build speculates rightly at temperature 0 only, so the proxy uses it for "
            "greedy requests alone."
        )


@contextlib.asynccontextmanager
async def _proxy(config_path: Path, url: str, log_path: Path) -> Any:
    """`paretoproxy serve` as a process of its own, up when the context is entered, stopped when it is left."""
    arguments = ("-m", "proxy.cli", "serve", "--config", str(config_path))
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=log, stderr=log, start_new_session=True
        )
    try:
        await _until_ready(process, url, log_path)
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                async with asyncio.timeout(15):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, url: str, log_path: Path) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=2) as client:
        try:
            async with asyncio.timeout(PROXY_START_TIMEOUT_S):
                while process.returncode is None:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get("/ready")).status_code == 200:
                            return
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pass
    raise LaunchError(f"the proxy did not start; see {log_path}")


async def _ask(url: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    async with httpx.AsyncClient(base_url=url, timeout=SLO_MS / 1e3 + 30) as client:
        response = await client.post("/v1/chat/completions", json=body, headers={"x-slo-latency-ms": str(SLO_MS)})
    if response.status_code != 200:
        raise LaunchError(f"the proxy answered {response.status_code}: {response.text[:500]}")
    answer = response.json()
    tts, usage = answer["usage"]["tts"], answer["usage"]
    text = (answer["choices"][0]["message"]["content"] or "").strip().splitlines()
    cost = "unknown" if tts["cost_usd"] is None else f"${tts['cost_usd']:.2e}"
    agreement = "" if tts["agreement"] is None else f", agreement {tts['agreement']:.0%}"
    click.echo(f"    Q: {QUESTION}")
    click.echo(f"    A: {text[-1] if text else '(nothing)'}    (right: {ANSWER})")
    click.echo(
        f"    plan: {tts['strategy']} with n={tts['n']} on {tts['backend']}; {tts['completed']} branches finished, "
        f"{tts['cancelled']} cancelled{agreement}"
    )
    click.echo(
        f"    {response.elapsed.total_seconds() * 1e3:.0f} ms, predicted at most "
        f"{response.headers['x-slo-predicted-latency-ms']} ms (p95), SLO {tts['slo_status']}; "
        f"{usage['completion_tokens']} tokens, {tts['gpu_seconds']:.2f} engine-seconds, {cost}; trace {tts['trace_id']}"
    )


def _how_to_call(url: str, model: str, config_path: Path) -> str:
    command = os.path.relpath(sys.argv[0]) if sys.argv[0].endswith("paretoproxy") else "paretoproxy"
    return f"""
Paste one of these (any OpenAI client works; the SLO is a header):

    curl {url}/v1/chat/completions -H 'content-type: application/json' -H 'x-slo-latency-ms: 5000' \\
      -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is (12 + 30) * 3?"}}]}}'

    from openai import OpenAI
    client = OpenAI(base_url="{url}/v1", api_key="unused")
    answer = client.chat.completions.create(
        model="{model}",
        messages=[{{"role": "user", "content": "What is (12 + 30) * 3?"}}],
        extra_headers={{"x-slo-latency-ms": "5000"}},
    )
    print(answer.choices[0].message.content, answer.usage)

    {command} plan --config {config_path} --latency-ms 5000     # what it would choose, and why
    {command} traces --config {config_path}                     # what each request cost
"""
