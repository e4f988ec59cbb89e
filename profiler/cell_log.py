"""The journal of a profile that is being measured: each cell is on disk as soon as it is known, so that an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from profiler import files
from profiler.measure import Measured
from profiler.profile_file import ProfileError

# A journal of another day goes on as well.
_NOT_COMPARED = frozenset({"date"})


class CellLog:
    """JSON lines: the environment first, then a cell a line."""

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self._path = path
        self._environment = environment

    @classmethod
    def beside(cls, profile: Path, environment: dict[str, Any]) -> CellLog:
        return cls(profile.with_name(f"{profile.stem}.cells.jsonl"), environment)

    def resume(self) -> list[Measured]:
        """What an interrupted run had measured, if it was of the same engine; from now on `append` adds to it. A last
        line cut short is dropped. Raises ProfileError for any other that cannot be read."""
        kept: list[Measured] = []
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        if lines and self._same_engine(lines[0]):
            kept = [self._read(number, line) for number, line in enumerate(lines[1:], 2)]
        whole = [msgspec.json.encode(self._environment), *(msgspec.json.encode(one) for one in kept)]
        files.replace(self._path, b"".join(line + b"\n" for line in whole))
        return kept

    def append(self, measured: Measured) -> None:
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(measured) + b"\n")

    def remove(self) -> None:
        """The profile has all of it now."""
        self._path.unlink(missing_ok=True)

    def _read(self, number: int, line: bytes) -> Measured:
        try:
            return msgspec.json.decode(line, type=Measured)
        except msgspec.DecodeError as error:
            raise ProfileError(f"{self._path}:{number}: {error}; delete the file to measure from the start") from error

    def _same_engine(self, line: bytes) -> bool:
        try:
            found = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            return False
        now = msgspec.to_builtins(self._environment)
        return all(found.get(key) == now.get(key) for key in {*found, *now} - _NOT_COMPARED)
