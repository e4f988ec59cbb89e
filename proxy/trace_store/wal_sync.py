"""Brings an SQLite store's log to the disk once a second, beside the writer.

A commit then waits for no disk, so that a killed process loses only what its last flush had not reached, however slow
the disk; and a power cut loses what came since the last second's synchronisation.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

log = logging.getLogger("paretoproxy.traces")

EVERY_S = 1.0
_END_WITHIN_S = 5.0


class WalSync:
    """`written` after each commit, by the writer; `stop` ends the thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(path.name + "-wal")
        self._dirty = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="traces-sync", daemon=True)
        self._said = False
        self._thread.start()

    def written(self) -> None:
        self._dirty = True

    def stop(self) -> None:
        """Does not wait for a disk that hangs."""
        self._ended.set()
        self._thread.join(_END_WITHIN_S)

    def _work(self) -> None:
        while not self._ended.wait(EVERY_S):
            if self._dirty:
                self._dirty = False
                self._sync()

    def _sync(self) -> None:
        """SQLite locks other files than this one, so that closing it releases none of its locks."""
        try:
            file = os.open(self._file, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        except FileNotFoundError:
            pass  # its content is in the store
        except OSError as error:
            if not self._said:
                log.error("cannot synchronise %s: %s; a power cut may lose more than a second", self._file, error)
                self._said = True
