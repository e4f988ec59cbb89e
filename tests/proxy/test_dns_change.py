"""A backend's name comes to mean another address while the old one goes silent. On asyncio's loop, whose look-ups a
test can answer."""

from pathlib import Path

import pytest
from fault_bed import laid


async def test_a_backend_that_moves_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with laid(tmp_path, monkeypatch.setattr, by_name=True) as bed:
        found = await bed.run("dns-change", 20)
        carried = bed.faulty.carried
    assert carried > 0
    assert found.holds, found
