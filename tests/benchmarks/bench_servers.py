"""The servers of a benchmark: the mock backend and the stacks in front of it, started pinned, stopped on every path.

The server under test has one core, the mock and the load generator share another, so that they never compete.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import httpx

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
ROUTER_PACKAGE = "vllm-router"

NGINX_CONF = """\
worker_processes 1;
worker_rlimit_nofile 8192;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    upstream backend {{
        server 127.0.0.1:{mock_port};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{ proxy_pass http://backend; }}
    }}
    server {{
        listen 127.0.0.1:{stream_port} backlog=1024;
        location / {{ proxy_pass http://backend; proxy_buffering off; }}
    }}
}}
"""

# A task, because self-consistency has to know how answers are grouped; plain requests are passed through all the same.
FLEET_YAML = """\
traces: {{path: {folder}/traces.db}}
models:
  - name: mock
    task: math
    backends:
      - {{name: mock, url: "http://127.0.0.1:{mock_port}"}}
"""


class StackUnavailable(Exception):
    """A stack cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Stack:
    """One way from the load generator to the mock. `pid` leads a session of its own; None: nothing in between."""

    name: str
    port: int
    stream_port: int
    pid: int | None

    def cpu_s(self) -> float:
        """CPU seconds used so far by all its processes, user and system; 0 without a process."""
        return 0.0 if self.pid is None else sum(_session_ticks(self.pid)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a run happens: its folder, the repository's root, the cores, and the mock's port."""

    folder: Path
    root: Path
    server_core: int
    load_core: int
    mock_port: int


Starter = Callable[[Bench], AbstractContextManager[Stack]]


def pinned(core: int, *command: str | Path) -> list[str]:
    """The command, confined to one core."""
    return ["taskset", "-c", str(core), *map(str, command)]


@contextmanager
def mock_backend(binary: Path, port: int, core: int, log: Path) -> Iterator[None]:
    """The mock, answering. Raises StackUnavailable."""
    with _running(pinned(core, binary, str(port)), log) as process:
        _await_answer(process, port, log)
        yield


@contextmanager
def direct(bench: Bench) -> Iterator[Stack]:
    """No proxy: the load generator calls the mock."""
    yield Stack("direct", bench.mock_port, bench.mock_port, None)


@contextmanager
def nginx(bench: Bench) -> Iterator[Stack]:
    """nginx with one worker and upstream keep-alive; a second port without buffering, for streams."""
    binary = which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        raise StackUnavailable("not installed (Debian: apt-get install nginx-light)")
    folder = bench.folder / "nginx"
    folder.mkdir(exist_ok=True)
    port, stream_port = free_port(), free_port()
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, mock_port=bench.mock_port, port=port, stream_port=stream_port))
    command = pinned(bench.server_core, binary, "-e", "stderr", "-p", folder, "-c", conf)
    with _serving("nginx", command, port, bench) as pid:
        yield Stack("nginx", port, stream_port, pid)


@contextmanager
def vllm_router(bench: Bench) -> Iterator[Stack]:
    """The Rust router of the vLLM project, in a virtual environment of its own, installed on first use."""
    binary = _install_router(bench.root / ".venv-router")
    port = free_port()
    options = {
        "--host": "127.0.0.1",
        "--port": port,
        "--worker-urls": f"http://127.0.0.1:{bench.mock_port}",
        "--policy": "round_robin",
        "--log-level": "error",
        "--prometheus-port": free_port(),
        "--worker-startup-check-interval": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    with _serving("vllm-router", pinned(bench.server_core, binary, *words), port, bench) as pid:
        yield Stack("vllm-router", port, port, pid)


@contextmanager
def paretoproxy(bench: Bench) -> Iterator[Stack]:
    """The proxy of this repository, as users start it."""
    binary = Path(sys.executable).with_name("paretoproxy")
    if not binary.exists():
        raise StackUnavailable("not installed beside this interpreter (pip install -e .)")
    fleet = bench.folder / "fleet.yaml"
    fleet.write_text(FLEET_YAML.format(folder=bench.folder, mock_port=bench.mock_port))
    port = free_port()
    command = pinned(bench.server_core, binary, "serve", "--config", fleet, "--port", str(port))
    with _serving("paretoproxy", command, port, bench) as pid:
        yield Stack("paretoproxy", port, port, pid)


# In the order in which they take their turns; the first two are what the others are compared with.
STARTERS: dict[str, Starter] = {
    "direct": direct,
    "nginx": nginx,
    "vllm-router": vllm_router,
    "paretoproxy": paretoproxy,
}


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _install_router(folder: Path) -> Path:
    """Path of the router's command. Raises StackUnavailable when it cannot be installed."""
    binary = folder / "bin" / "vllm-router"
    if binary.exists():
        return binary
    print(f"installing {ROUTER_PACKAGE} into {folder.name} (first use)", flush=True)
    try:
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", ROUTER_PACKAGE], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StackUnavailable(f"cannot be installed: {error}") from error
    return binary


@contextmanager
def _serving(name: str, command: list[str], port: int, bench: Bench) -> Iterator[int]:
    log = bench.folder / f"{name}.log"
    with _running(command, log) as process:
        _await_answer(process, port, log)
        yield process.pid


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that it and all its children can be stopped together."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole session to end, then make it; a second Ctrl-C does not cut this short."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(process.pid, number)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while _group_lives(process) and time.monotonic() < deadline:
                time.sleep(0.02)
        process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader, whose entry would keep the group alive
    return _signal_group(process.pid, 0)


def _signal_group(pid: int, number: int) -> bool:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    return True


def _await_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a chat completion succeeds. Raises StackUnavailable when the process ends or takes too long."""
    body = {"model": "mock", "messages": [{"role": "user", "content": "6*7"}]}
    deadline = time.monotonic() + READY_TIMEOUT_S
    reason = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StackUnavailable(f"does not start: {_last_line(log)}")
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, trust_env=False)
        except httpx.TransportError as error:
            reason = str(error)
        else:
            if answer.status_code == httpx.codes.OK:
                return
            reason = f"status {answer.status_code}: {answer.text[:200]}"
        time.sleep(0.1)
    raise StackUnavailable(f"not ready within {READY_TIMEOUT_S:g} s ({reason}); {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def core_busy_s(core: int) -> float:
    """CPU seconds since boot in which a core was not idle, time stolen by the hypervisor included: proc(5)'s stat."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _session_ticks(session: int) -> Iterator[int]:
    """User plus system ticks of each process of a session, from proc(5)'s stat: fields 6, 14 and 15."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()  # starts at field 3: the name may hold spaces
        except OSError:
            continue  # it ended meanwhile
        if int(fields[3]) == session:
            yield int(fields[11]) + int(fields[12])
