"""Event loops for the async tests here, and the rig of the upstream client's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop
from upstream_rig import Rig


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The upstream client runs on both loops: they differ in what a closing transport allows."""
    asyncio_only = {"asyncio": asyncio.new_event_loop}
    return (
        {**asyncio_only, "uvloop": uvloop.new_event_loop}
        if item.path.name.startswith("test_upstream")
        else asyncio_only
    )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()
