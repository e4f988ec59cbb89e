"""`paretoproxy simulate`, as a process: it says what it serves, serves it, and stops when it is told to."""

import asyncio
import signal
import sys
from pathlib import Path

import httpx
from simulation_rig import chat, write_config


async def _simulate(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli", "simulate", *arguments, stdout=-1, stderr=asyncio.subprocess.STDOUT
    )


async def test_it_serves_until_it_is_stopped(tmp_path: Path) -> None:
    path = write_config(tmp_path, "a", quality=False)
    url = next(line.split("url: ")[1] for line in path.read_text().splitlines() if "url: " in line)
    process = await _simulate("--config", str(path), "--seed", "3")
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readuntil(b"is up; Ctrl-C stops it\n"), 60)
        assert b"a serves m on port" in said and b"m has no quality table" in said
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.json()["usage"]["completion_tokens"] > 1
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0 and rest == b"stopping\n"


async def test_without_a_profile_it_says_what_to_do(tmp_path: Path) -> None:
    process = await _simulate("--config", str(write_config(tmp_path, profile=None)))
    said, _ = await process.communicate()
    assert process.returncode == 1
    assert said.startswith(b"error: backend a has no profile")
