"""`paretoproxy up`: starts the engines that the configuration describes, shows their progress, and stops them together.

Every engine is a process group of its own, so that its workers end with it; whatever ends us (Ctrl-C, SIGTERM, a
failed start) ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
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
CORES_FOR_THE_REST = 2  # API servers, the proxy

# Engines on one host share nothing with the outside: no hub, no telemetry.
_ENGINE_ENV = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class LaunchError(Exception):
    """An engine did not start; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine to start: where it will listen, how, on which cores (None: any), and where its log goes."""

    backend: str
    url: str
    command: tuple[str, ...]
    env: dict[str, str]
    log: Path
    cores: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What engines are spread over. Without GPUs a rank takes a core; with them, `gpus` is what there is."""

    cores: tuple[int, ...]
    gpus: int = 0

    @classmethod
    def here(cls) -> Machine:
        return cls(tuple(sorted(os.sched_getaffinity(0))), _count_gpus())

    def left_out(self, config: Config) -> dict[str, str]:
        """The engines that cannot start here, and why."""
        return {
            backend.name: f"{backend.tensor_parallel_size} ranks, but this machine has {self.gpus} GPU"
            for backend in config.backends()
            if backend.launch and 0 < self.gpus < backend.tensor_parallel_size
        }

    def contention(self, config: Config) -> str | None:
        """What this machine cannot show, in a sentence; None where every rank has its own core or GPU."""
        launched = [*config.backends(), *(one.as_backend for one in config.pooled())]
        started = [backend for backend in launched if backend.launch and backend.name not in self.left_out(config)]
        ranks = [backend.tensor_parallel_size for backend in started]
        have, what = (self.gpus, "GPU") if self.gpus else (len(self.cores), "cores")
        if self.gpus >= sum(ranks) or (not self.gpus and cores_suffice(ranks, self.cores)):
            return None
        return (
            f"What this machine cannot show: {sum(ranks)} ranks share {have} {what}, so engines that work at the same\n"
            "time slow each other down (profiles are measured one engine at a time), and tensor parallelism costs\n"
            "more than it gains."
        )


def _count_gpus() -> int:
    """NVIDIA's GPUs; 0 where there is no driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def specs(config: Config, python: str, log_folder: Path, machine: Machine) -> list[EngineSpec]:
    """The engines under `launch` that can start here. Raises LaunchError where there is none, or two want one port."""
    left_out = machine.left_out(config)
    launched = [
        (model.name, backend)
        for model in config.models
        for backend in model.backends
        if backend.launch and backend.name not in left_out
    ]
    launched += [(one.model or one.name, one.as_backend) for one in config.pooled() if one.launch]
    if not launched:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise LaunchError(why or "no backend in the configuration has a `launch` section; `up` has nothing to start")
    ports = [urlsplit(backend.url).port for _, backend in launched]
    if len(set(ports)) < len(ports):
        raise LaunchError("two backends with `launch` have the same port")
    ranks = [backend.tensor_parallel_size for _, backend in launched]
    bindings = assign(ranks, range(machine.gpus)) if machine.gpus else assign_cores(ranks, machine.cores)
    own_cores = not machine.gpus and cores_suffice(ranks, machine.cores)
    common = machine.cores[:CORES_FOR_THE_REST]
    made = []
    for (model, backend), binding in zip(launched, bindings, strict=True):
        cores = frozenset([*common, *binding]) if own_cores else None
        made.append(_spec(model, backend, python, log_folder, _binding_env(machine, binding), cores))
    return made


def _binding_env(machine: Machine, binding: Sequence[int]) -> dict[str, str]:
    if machine.gpus:
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, binding))}
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, binding))}


def _spec(
    model: str,
    backend: BackendConfig,
    python: str,
    log_folder: Path,
    binding: dict[str, str],
    cores: frozenset[int] | None,
) -> EngineSpec:
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
    env = {**_ENGINE_ENV, **binding, **launch.env}
    if launch.cores is not None:
        env["VLLM_CPU_OMP_THREADS_BIND"] = launch.cores
    return EngineSpec(backend.name, backend.url, tuple(command), env, log_folder / f"{backend.name}.log", cores)


def assign_cores(ranks: Sequence[int], cores: Sequence[int]) -> list[tuple[int, ...]]:
    """CPU cores per engine, one per rank.

    Disjoint where there are enough, with two left for the API servers and the proxy; else shared in turn, and
    engines contend.
    """
    return assign(ranks, cores[CORES_FOR_THE_REST:] if cores_suffice(ranks, cores) else cores)


def assign(ranks: Sequence[int], pool: Sequence[int]) -> list[tuple[int, ...]]:
    """One of the pool per rank, in turn."""
    turn = itertools.cycle(pool)
    return [tuple(itertools.islice(turn, count)) for count in ranks]


def cores_suffice(ranks: Sequence[int], cores: Sequence[int]) -> bool:
    return len(cores) >= sum(ranks) + CORES_FOR_THE_REST


def check_port(url: str, who: str) -> None:
    """Raises LaunchError where another program listens already: its answers would pass for those of `who`."""
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                taken = f"port {port} of {host}, where {who} is to listen, is taken by another program"
                raise LaunchError(f"{taken}: stop that one, or configure another port") from error


class Engines:
    """Async context manager around running engines; leaving it stops every one and waits."""

    def __init__(self, wanted: Sequence[EngineSpec]) -> None:
        self._wanted = list(wanted)
        self._running: dict[str, asyncio.subprocess.Process] = {}

    @property
    def names(self) -> frozenset[str]:
        return frozenset(spec.backend for spec in self._wanted)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.stop())

    async def start(self, say: Callable[[str], None]) -> None:
        """Start all and wait until each answers /health. Raises LaunchError."""
        for spec in self._wanted:
            check_port(spec.url, f"the engine {spec.backend}")
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
            if spec.cores is not None:
                os.sched_setaffinity(self._running[spec.backend].pid, spec.cores)  # its children inherit it
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
