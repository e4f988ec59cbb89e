"""A process that writes traces until it is killed or told to end: `trace_writer.py TARGET NAME PER_SECOND [COUNT]`.

Says on standard output, for each, when it was given to the store (seconds of the monotonic clock, which all processes
of a host share) and its id; what is not a URL is a file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from trace_store_rig import branch, trace

from proxy.trace_store import TraceStore


def main(target: str, name: str, per_second: float, count: int | None = None) -> None:
    store = TraceStore(target if target.startswith("postgresql://") else Path(target), 10_000)
    store.start()
    number = 0
    while count is None or number < count:
        trace_id = f"{name}-{number}"
        store.record(trace(trace_id, time.time(), branch()))
        sys.stdout.write(f"{time.monotonic()} {trace_id}\n")
        sys.stdout.flush()
        number += 1
        time.sleep(1 / per_second)
    store.close()
    sys.stdout.write(f"{store.written} {store.dropped}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *(int(word) for word in sys.argv[4:]))
