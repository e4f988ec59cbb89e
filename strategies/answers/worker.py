"""What runs in the worker process of `MathVerifyPool`. math-verify and sympy are imported there, never in the proxy."""

import contextlib
import logging
import signal
import sys
from collections.abc import Callable

MEMORY_LIMIT_BYTES = 2 * 1024**3
"""Address space of a worker: a power tower in an answer must not take the machine's memory."""


def equal_mathematics(a: str, b: str) -> bool:
    """Whether two LaTeX or plain expressions are equal. Both orders: math-verify treats one of them as the truth.

    No time limit of its own (math-verify's use signals): the pool's limit kills this process.
    """
    from math_verify import parse, verify

    first, second = (parse(f"${answer}$", parsing_timeout=None) for answer in (a, b))
    return bool(verify(first, second, timeout_seconds=None) or verify(second, first, timeout_seconds=None))


def import_mathematics() -> None:
    """Imports math-verify and builds its parser (seconds), so that no comparison's limit pays for it."""
    logging.disable(logging.WARNING)
    with contextlib.suppress(Exception):  # a broken install shows in each comparison, not in a crash loop
        equal_mathematics(r"\sqrt{8}", r"2\sqrt{2}")


def start(prepare: Callable[[], None]) -> None:
    """Initialises a worker: bounded in memory, and killed at once (a handler in Python would wait for C code)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    prepare()


def ready() -> None:
    """Does nothing: its result tells that the worker has started."""
