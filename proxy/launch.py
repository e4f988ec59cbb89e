"""`paretoproxy up`: starts the engines that the configuration describes, shows their progress, and stops them together.

Every engine is a process group of its own, so that its workers end with it; whatever ends us (Ctrl-C, SIGTERM, a
failed start) ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from proxy.config import BackendConfig, Config

START_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 15

# Engines on one host share nothing with the outside: no hub, no telemetry. SLEEP_WHEN_IDLE stops a tensor-parallel
# engine from spinning.
_ENGINE_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SLEEP_WHEN_IDLE": "1",
}


class LaunchError(Exception):
    """An engine did not start; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine to start: where it will listen, how, and where its log goes."""

    backend: str
    url: str
    command: tuple[str, ...]
    env: dict[str, str]
    log: Path


def specs(config: Config, python: str, log_folder: Path, cores: Sequence[int]) -> list[EngineSpec]:
    """The engines under `launch`. Raises LaunchError where there is none, or two want one port."""
    launched = [(model.name, backend) for model in config.models for backend in model.backends if backend.launch]
    if not launched:
        raise LaunchError("no backend in the configuration has a `launch` section; `up` has nothing to start")
    ports = [urlsplit(backend.url).port for _, backend in launched]
    if len(set(ports)) < len(ports):
        raise LaunchError("two backends with `launch` have the same port")
    bindings = assign_cores([backend.tensor_parallel_size for _, backend in launched], cores)
    return [
        _spec(model, backend, python, log_folder, binding)
        for (model, backend), binding in zip(launched, bindings, strict=True)
    ]


def _spec(model: str, backend: BackendConfig, python: str, log_folder: Path, binding: str) -> EngineSpec:
    launch, where = backend.launch, urlsplit(backend.url)
    assert launch is not None
    flags: dict[str, Any] = {
        "model": launch.model,
        "host": where.hostname,
        "port": where.port or 80,
        "served-model-name": model,
        "tensor-parallel-size": backend.tensor_parallel_size,
    }
    if backend.speculative is not None:
        flags["speculative-config"] = backend.speculative
    flags.update({name.replace("_", "-"): value for name, value in launch.args.items()})
    command = [python, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in flags.items():
        if value is True:
            command.append(f"--{name}")
        elif value is not None and value is not False:
            command += [f"--{name}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    env = {**_ENGINE_ENV, "VLLM_CPU_OMP_THREADS_BIND": launch.cores or binding, **launch.env}
    return EngineSpec(backend.name, backend.url, tuple(command), env, log_folder / f"{backend.name}.log")


def assign_cores(ranks: Sequence[int], cores: Sequence[int]) -> list[str]:
    """CPU cores per engine, one per rank, as vLLM's CPU build wants them ("0|1").

    Disjoint where there are enough, with two left for the API servers and the proxy; else shared in turn, and
    engines contend.
    """
    wanted = sum(ranks)
    pool = list(cores[2:]) if len(cores) >= wanted + 2 else list(cores)
    bindings, position = [], 0
    for count in ranks:
        bindings.append("|".join(str(pool[(position + rank) % len(pool)]) for rank in range(count)))
        position += count
    return bindings


def cores_suffice(ranks: Sequence[int], cores: Sequence[int]) -> bool:
    return len(cores) >= sum(ranks) + 2


class Engines:
    """Async context manager around running engines; leaving it stops every one and waits."""

    def __init__(self, wanted: Sequence[EngineSpec]) -> None:
        self._wanted = list(wanted)
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.stop())

    async def start(self, say: Callable[[str], None]) -> None:
        """Start all and wait until each answers /health. Raises LaunchError."""
        for spec in self._wanted:
            spec.log.parent.mkdir(parents=True, exist_ok=True)
            with spec.log.open("wb") as log:
                self._running[spec.backend] = await asyncio.create_subprocess_exec(
                    *spec.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **spec.env},
                    start_new_session=True,
                )
            say(f"starting {spec.backend} (log: {spec.log})")
        async with asyncio.TaskGroup() as group, httpx.AsyncClient(timeout=2) as client:
            waits = [group.create_task(self._until_up(spec, client, say)) for spec in self._wanted]
            await asyncio.gather(*waits)

    async def _until_up(self, spec: EngineSpec, client: httpx.AsyncClient, say: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        began, process = loop.time(), self._running[spec.backend]
        while process.returncode is None and loop.time() - began < START_TIMEOUT_S:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{spec.url}/health")).status_code == 200:
                    say(f"{spec.backend} is up after {loop.time() - began:.0f} s")
                    return
            await asyncio.sleep(0.5)
        state = "does not answer" if process.returncode is None else f"ended with status {process.returncode}"
        raise LaunchError(f"engine {spec.backend} {state}; the end of {spec.log}:\n{_tail(spec.log)}")

    async def wait_any_exit(self) -> str:
        """Until an engine ends by itself; its name."""
        names = {asyncio.ensure_future(process.wait()): name for name, process in self._running.items()}
        try:
            done, _ = await asyncio.wait(names, return_when=asyncio.FIRST_COMPLETED)
            return names[done.pop()]
        finally:
            for task in names:
                task.cancel()

    async def stop(self) -> None:
        """SIGTERM to every group, SIGKILL to what is left after a while. None is left running."""
        running = dict(self._running)
        self._running.clear()
        for process in running.values():
            _signal(process, signal.SIGTERM)
        await asyncio.gather(*(self._reap(process) for process in running.values()))

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            pass
        _signal(process, signal.SIGKILL)  # workers that outlived their parent
        await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    except OSError:
        return "(no log)"


def engine_python(wanted: str | None) -> str:
    """The interpreter that has vLLM: the one given, else ours. Raises LaunchError."""
    from importlib.util import find_spec

    if wanted is not None:
        if not Path(wanted).exists():
            raise LaunchError(f"--engine-python: there is no {wanted}")
        return wanted
    if find_spec("vllm") is None:
        raise LaunchError("vLLM is not installed here; give --engine-python the interpreter that has it")
    return sys.executable


def usable_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))
