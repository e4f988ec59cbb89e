"""Files that a reader never sees half of."""

from __future__ import annotations

from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Write the file, or put it in another's place, in one step; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def cut_half_a_line(path: Path) -> None:
    """Of a file of lines that is written line by line, what an interrupted run did not finish."""
    if path.exists():
        data = path.read_bytes()
        path.write_bytes(data[: data.rfind(b"\n") + 1])
