"""A process that is killed loses at most its last second, and breaks nothing; several processes share a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from postgres_server import PostgresServer
from trace_store_rig import branch, opened, sql, trace, wait_for

from proxy.trace_store import TraceStore

WRITER = Path(__file__).with_name("trace_writer.py")
KILLS = 16
LOST_S = 1.0


class Writer:
    """A running `trace_writer.py`."""

    def __init__(self, target: Path | str, name: str, per_second: float, count: int | None = None) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `end`
        command = [sys.executable, str(WRITER), str(target), name, str(per_second), *([str(count)] if count else [])]
        paths = os.pathsep.join([str(WRITER.parents[2]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(command, stdout=self._said, env={**os.environ, "PYTHONPATH": paths})

    def has_begun(self) -> bool:
        assert self._process.poll() is None
        return os.fstat(self._said.fileno()).st_size > 0

    def kill(self) -> list[str]:
        """The ids that were with the store for long enough before."""
        killed_at = time.monotonic()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        lines = self._lines()
        return [line.split()[1] for line in lines if float(line.split()[0]) < killed_at - LOST_S]

    def result(self) -> str:
        assert self._process.wait(60) == 0
        return self._lines()[-1]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _lines(self) -> list[str]:
        """But one that the kill cut."""
        self._said.seek(0)
        return self._said.read().rpartition("\n")[0].splitlines()


@contextmanager
def _writers(target: Path | str, *names: str, per_second: float, count: int | None = None) -> Iterator[list[Writer]]:
    writers = [Writer(target, name, per_second, count) for name in names]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.end()


def _ids(target: Path | str) -> Counter[str]:
    return Counter(str(row[0]) for row in sql(target, "SELECT id FROM traces"))


@pytest.mark.parametrize("lane", range(4))
def test_a_killed_proxy_loses_at_most_a_second_and_breaks_nothing(target: Path | str, lane: int) -> None:
    """Two processes write to one store and are killed together, at random points, again and again."""
    random, expected = Random(lane), set()
    for kill in range(KILLS // 8):
        names = (f"a{kill}", f"b{kill}")
        with _writers(target, *names, per_second=400) as writers:
            wait_for(lambda running=writers: all(writer.has_begun() for writer in running), 60)  # type: ignore[misc]
            time.sleep(LOST_S + random.uniform(0.1, 0.6))
            for writer in writers:
                expected |= set(writer.kill())

        there = _ids(target)
        assert expected and expected <= there.keys()
        assert set(there.values()) == {1}, "none twice"
        assert TraceStore(target, 1).costs([])[0]["requests"] == there.total(), "sums are of what is there"
        if isinstance(target, Path):
            assert sql(target, "PRAGMA integrity_check") == [("ok",)]


def test_several_processes_write_to_one_store(target: Path | str) -> None:
    with _writers(target, "a", "b", "c", per_second=2000, count=500) as writers:
        assert [writer.result() for writer in writers] == ["500 0"] * 3
    assert _ids(target).total() == 1500
    (row,) = TraceStore(target, 1).costs([])
    assert (row["requests"], row["ledgers"]["attributed"]["gpu_seconds"]) == (1500, 750.0)


def test_a_killed_server_has_what_was_written_and_gets_what_came_meanwhile(postgres: PostgresServer) -> None:
    target = postgres.new_database()
    with opened(target, queue_size=10_000) as store:
        for round_ in range(3):
            written = store.written
            for number in range(50):
                store.record(trace(f"{round_}-{number}", time.time(), branch()))
            if round_ % 2:
                wait_for(lambda before=written: store.written > before)  # type: ignore[misc]
            postgres.stop()
            store.record(trace(f"{round_}-while-down"))
            postgres.start()
            wait_for(lambda: store.waiting == 0 and store.problem is None, 30)
    assert store.dropped == 0
    assert _ids(target) == Counter([f"{r}-{n}" for r in range(3) for n in (*range(50), "while-down")])
