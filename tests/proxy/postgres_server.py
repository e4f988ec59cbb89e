"""A real PostgreSQL server for tests, on a free port, in a folder of its own. It need not outlive a power cut, so it
does not wait for the disk.

As root it runs as Debian's user `postgres`, or `nobody`: the server refuses root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

PASSWORD = "s3cret/of:tests"


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; Debian keeps them off the PATH."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(":") if folder]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


class PostgresServer:
    """`stop` is a crash (SIGKILL), or with `fast` an orderly shutdown; `start` may follow either, on the same port."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="paretoproxy-pg-"))
        self._data = self._folder / "data"
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            account = names.get("postgres") or names["nobody"]
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._server: subprocess.Popen[bytes] | None = None
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        access = ("-U", "owner", "-A", "scram-sha-256", "--pwfile", str(password))
        self._run("initdb", "--no-sync", "-D", str(self._data), *access)

    def url(self, database: str = "postgres", user: str = "owner", password: str = PASSWORD) -> str:
        quoted = password.replace("/", "%2F").replace(":", "%3A")
        return f"postgresql://{user}:{quoted}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        command = [
            str(self._programs / "postgres"),
            *("-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""),
            *(
                "-c",
                "log_min_messages=fatal",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_connections=30",
                "-c",
                "fsync=off",
            ),
        ]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._user)
        give_up_at = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up_at or self._server.poll() is not None:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self, *, fast: bool = False) -> None:
        if self._server is None:
            return
        children = [] if fast else self._children()
        self._server.send_signal(signal.SIGINT if fast else signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._server.wait(30)
        self._server = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It holds its connections and answers nothing."""
        assert self._server is not None
        processes = [self._server.pid, *self._children()]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(processes):
                os.kill(process, signal.SIGCONT)

    def new_database(self) -> str:
        """URL of an empty one."""
        name = f"t{uuid4().hex[:12]}"
        with psycopg.connect(self.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _children(self) -> list[int]:
        assert self._server is not None
        text = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def _run(self, program: str, *arguments: str) -> None:
        told = subprocess.run(
            [str(self._programs / program), *arguments], cwd=self._folder, capture_output=True, text=True, **self._user
        )
        assert told.returncode == 0, told.stderr
