"""Backends break in every way, at random points under load, and no client is the worse for it; `make faults` does it
more often."""

from pathlib import Path

import pytest
from fault_bed import FAULTS, laid

TIMES = 20


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "dns-change"])
async def test_a_fault_is_survived(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with laid(tmp_path, monkeypatch.setattr) as bed:
        found = await bed.run(fault, TIMES)
    assert found.requests > 2 * TIMES or fault not in ("stall", "slow", "kill"), found
    assert found.holds, found
