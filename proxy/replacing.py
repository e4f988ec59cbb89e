"""Where a failed branch is made again: one of a later wave, or one of a judge or a larger model."""

from __future__ import annotations

from proxy.backend import Backend
from proxy.branch import BranchStream
from proxy.generations import Requests
from proxy.reliability.retrying import Retries


class Replacements:
    """Of one plan (`fanout.Replacing`). `until`: the deadline, in the clock's time."""

    def __init__(self, requests: Requests, retries: Retries, until: float | None) -> None:
        self._requests = requests
        self._retries = retries
        self._until = until
        self._failed: set[str] = set()  # names of backends

    def delay_s(self, failed: BranchStream, attempts: int) -> float | None:
        failure = failed.failure
        if failure is None or failure.reason == "ours":
            return None
        self._failed.add(failed.backend.name)
        elsewhere = self._requests.others(failed.generation, self._failed)
        if not elsewhere and not failed.backend.health.serving:
            return None
        return self._retries.delay_s(
            "branch", failure, failed.backend, attempts=attempts, elsewhere=elsewhere, until=self._until
        )

    def request(self, failed: BranchStream, index: int, every_tokens: int) -> tuple[Backend, bytes]:
        """Raises ProxyError."""
        return self._requests.elsewhere(failed.generation, index, every_tokens, self._failed)
