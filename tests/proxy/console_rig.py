"""The console as an operator has it: a real proxy over a simulated fleet, and a headless Chromium before it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from http_rig import RunningProxy
from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright
from simulation_rig import served, write_config

from proxy.cli.serve import server_for
from proxy.config import load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def simulated_proxy(
    folder: Path, *backends: str, change: dict[str, Any] | None = None, **sections: Any
) -> AsyncIterator[RunningProxy]:
    """A proxy over simulated engines of these names. `change`: further members per backend's name; `sections`: of the
    configuration."""
    path = write_config(folder, *backends)
    config = yaml.safe_load(path.read_text())
    served_by = config["models"][0]["backends"]
    for backend, port in zip(served_by, _free_ports(len(served_by)), strict=True):
        backend["url"] = f"http://127.0.0.1:{port}"
        backend.update((change or {}).get(backend["name"], {}))
    path.write_text(yaml.safe_dump({**config, **sections}))
    async with served(path):
        server = server_for(load(path, environ={}), "127.0.0.1", 0, "critical")
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        proxy = RunningProxy(server)
        try:
            await proxy.probed()
            yield proxy
        finally:
            await proxy.stop()


def _free_ports(count: int) -> list[int]:
    """All different: each is held until all are known."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@dataclass
class Seen:
    """What went over a page's wires, and what it complained of."""

    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)

    def elsewhere(self, url: str) -> list[str]:
        """Requests to anywhere but this server."""
        return [request.url for request in self.requests if not request.url.startswith(f"{url}/")]


@dataclass
class Visit:
    """A page in a browser context of its own."""

    page: Page
    seen: Seen

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        wider: int = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return wider

    async def focused(self) -> str:
        """The text, name or id of what has the focus."""
        told: str = await self.page.evaluate(
            "(e => e.textContent.trim() || e.name || e.id || e.tagName)(document.activeElement)"
        )
        return told


@asynccontextmanager
async def visit(browser: Browser, url: str, hash: str = "", **context: Any) -> AsyncIterator[Visit]:
    """Opens the console at `url`. `context`: Playwright's, such as viewport and color_scheme."""
    opened: BrowserContext = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    try:
        page, seen = await opened.new_page(), Seen()
        page.set_default_timeout(15_000)
        seen.watch(page)
        await page.goto(f"{url}/console{hash}")
        yield Visit(page, seen)
    finally:
        await opened.close()
