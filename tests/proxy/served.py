"""`paretoproxy serve` as operators run it: a process of its own, with signals, before scripted backends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import yaml
from http_rig import CHAT, chat
from scripted_backend import ScriptedBackend
from simulation_rig import free_port

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 120.0  # importing takes long on a machine with much else to do


def write_fleet(path: Path, *backends: ScriptedBackend, **server: Any) -> None:
    """One model `m` on these backends; `server`: members of that section. Replaced as editors and Kubernetes do it: at
    once."""
    entries = [{"name": b.name, "url": b.url, "gpu_hour_usd": b.usd_per_hour} for b in backends]
    document = {"server": server, "traces": {"path": "traces.db"}, "models": [{"name": "m", "backends": entries}]}
    draft = path.with_name("draft.yaml")
    draft.write_text(yaml.safe_dump(document))
    draft.replace(path)


class ServedProxy:
    """The process with an HTTP client of it. `log`: what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
        self.process, self.port, self.folder = process, port, folder
        self.log = ""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False, verify=False, limits=limits
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ask(self, **members: Any) -> httpx.Response:
        headers = {"x-request-id": members.pop("request_id")} if "request_id" in members else {}
        return await self.client.post(CHAT, json=chat(**members), headers=headers)

    async def ready(self) -> dict[str, Any]:
        document: dict[str, Any] = (await self.client.get("/ready")).json()
        return document

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of its samples that have these labels."""
        page = (await self.client.get("/metrics")).text
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", page, re.MULTILINE)
        return sum(float(v) for told, v in found if all(f'{key}="{value}"' in told for key, value in labels.items()))

    async def exit_status(self, limit_s: float = 15) -> int:
        async with asyncio.timeout(limit_s):
            return await self.process.wait()

    async def says(self, text: str, limit_s: float = 10) -> None:
        """Raises TimeoutError where the log does not come to contain it."""
        async with asyncio.timeout(limit_s):
            while text not in self.log:
                await asyncio.sleep(0.01)

    def traces(self) -> list[tuple[str, str]]:
        """(request id, record as JSON) of all, from the file."""
        with closing(sqlite3.connect(self.folder / "traces.db")) as database:
            rows = database.execute("SELECT coalesce(json_extract(record, '$.request_id'), id), record FROM traces")
            return rows.fetchall()


async def _listen(stream: asyncio.StreamReader, proxy: ServedProxy) -> None:
    while line := await stream.readline():
        proxy.log += line.decode(errors="replace")


@asynccontextmanager
async def serving(config: Path, *arguments: str, **environment: str) -> AsyncIterator[ServedProxy]:
    """Started and ready; killed at the end if it still runs."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--port", str(port), *arguments),
        cwd=config.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stderr=asyncio.subprocess.STDOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    proxy = ServedProxy(process, port, config.parent)
    listening = asyncio.create_task(_listen(process.stdout, proxy))
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while True:
                assert process.returncode is None, proxy.log
                try:
                    if (await proxy.client.get("/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        yield proxy
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening
        await proxy.client.aclose()
